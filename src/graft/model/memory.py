"""The memory of a classifier: digests of its training images, test predictions, stored training features.

One file of tensors without pickle. Images are identified by their content, so that moved files are found again.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from graft.data.dataset import SPLITS
from graft.metrics.unknown import KnownImages
from graft_runtime import strict_json

SHORT_DIGEST = 8  # bytes of a training image's digest: a false match among a million images has a chance of 10^-13
FULL_DIGEST = 16  # bytes of a digest
ROW_FIELDS = {"tested": "digests", "known": "features", "images": "digests"}  # the field with one row per image
MAX_NAMES_BYTES, MAX_NAME_BYTES = 1 << 16, 1 << 10  # limit of the names as JSON: a constant part, and one per name
MAX_FULL_CLASSES, TOP_CLASSES = 100, 10  # beyond so many classes only the likeliest are stored


@dataclass(frozen=True, eq=False)
class EvaluationRecord:
    """The test images in order: digests [n, 16], names, labels [n] or [n, classes], calibrated predictions.

    `chances` [n, k] are the probabilities of the classes `columns` [n, k]: all of them, in order, or the likeliest.
    `own` [n] is the probability of the true class, `strange` [n] the score of unknown; either may be empty.
    """

    digests: NDArray[np.uint8]
    names: tuple[str, ...]
    labels: NDArray[np.integer]
    chances: NDArray[np.float32]
    columns: NDArray[np.int32]
    own: NDArray[np.float32]
    strange: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.digests)


@dataclass(frozen=True, eq=False)
class ImageRecords:
    """All usable images, for `graft update`, which finds their features in the cache by content.

    `digests` [n, 16], `names`, `labels` [n] or [n, classes], `parts` [n] (index into SPLITS) and `groups` [n] as the
    user gave them, else empty; `given` is whether the user made the split.
    """

    digests: NDArray[np.uint8]
    names: tuple[str, ...]
    labels: NDArray[np.integer]
    parts: NDArray[np.int8]
    groups: NDArray[np.int64]
    given: bool


@dataclass(frozen=True, eq=False)
class Memory:
    """What is stored of the images; `trained` are the short digests of the training images [n, 8], sorted."""

    trained: NDArray[np.uint8]
    tested: EvaluationRecord | None = None
    known: KnownImages | None = None
    images: ImageRecords | None = None

    def __repr__(self) -> str:
        tested = len(self.tested) if self.tested else 0
        return f"<Memory of {len(self.trained):,} training and {tested:,} test images>"

    def find_trained(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which of these digests [n, 16] are of training images."""
        return np.isin(_digest_numbers(digests), _digest_numbers(self.trained))


def shorten_digests(digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the short digests, sorted, each once."""
    return np.unique(np.ascontiguousarray(digests[:, :SHORT_DIGEST]), axis=0)


def build_record(
    digests: NDArray[np.uint8],
    names: Sequence[str],
    labels: NDArray[np.integer],
    probs: NDArray[np.float64],
    strange: NDArray[np.float32] | None,
) -> EvaluationRecord:
    """Build the record of a test; with many classes, only the likeliest are stored."""
    count, classes = probs.shape
    columns = (
        np.argsort(-probs, axis=1, kind="stable")[:, :TOP_CLASSES] if classes > MAX_FULL_CLASSES else np.arange(classes)
    )
    columns = np.broadcast_to(columns, (count, columns.shape[-1])).astype(np.int32)
    own = probs[np.arange(count), labels] if labels.ndim == 1 else np.empty(0)
    return EvaluationRecord(
        digests=digests,
        names=tuple(names),
        labels=labels,
        chances=np.take_along_axis(probs, columns, axis=1).astype(np.float32),
        columns=columns,
        own=own.astype(np.float32),
        strange=np.empty(0, np.float32) if strange is None else strange,
    )


def dump(memory: Memory) -> bytes:
    """Return the bytes of the file."""
    parts = {"tested": memory.tested, "known": memory.known, "images": memory.images}
    tensors = {"trained": memory.trained}
    for part, held in parts.items():
        for name, value in vars(held).items() if held else ():
            tensors[f"{part}.{name}"] = _pack_names(value) if isinstance(value, tuple) else np.ascontiguousarray(value)
    return safetensors.save(tensors)


def parse(content: bytes) -> Memory:
    """The memory that `dump` wrote; raises KeyError, TypeError or ValueError for any other file."""
    # "pictures." is what earlier versions called "images."
    tensors = {re.sub(r"^pictures\.", "images.", name): value for name, value in safetensors.load(content).items()}
    count = {part: len(tensors.get(f"{part}.{rows}", ())) for part, rows in ROW_FIELDS.items()}
    parts: dict[str, dict[str, Any]] = {"tested": {}, "known": {}, "images": {}}
    for name, value in tensors.items():
        part, _, own = name.partition(".")
        if own:
            named = _unpack_names(value, count[part]) if own == "names" else value
            parts[part][own] = bool(value) if own == "given" else named
    held, known, images = parts.values()
    return Memory(
        tensors["trained"],
        EvaluationRecord(**held) if held else None,
        KnownImages(**known) if known else None,
        ImageRecords(**images) if images else None,
    )


def check_memory(memory: Memory, classes: int, *, multilabel: bool) -> None:
    """Raise ValueError, with the name of the array, where one does not fit a classifier of so many classes."""
    _check_array("trained", memory.trained, np.uint8, (None, SHORT_DIGEST))
    if tested := memory.tested:
        count, shape = len(tested.digests), tested.columns.shape
        _check_array("tested.digests", tested.digests, np.uint8, (None, FULL_DIGEST))
        _check_labels("tested.labels", tested.labels, count, classes, multilabel)
        _check_array("tested.columns", tested.columns, np.integer, (count, None), 0, classes - 1)
        _check_array("tested.chances", tested.chances, np.floating, shape, 0, 1)
        _check_array("tested.own", tested.own, np.floating, (0 if multilabel else count,), 0, 1)
        _check_array("tested.strange", tested.strange, np.floating, (count if len(tested.strange) else 0,))
        _check_names("tested.names", tested.names, count)
    if known := memory.known:
        count = len(known.features)
        _check_array("known.features", known.features, np.floating, (None, None))
        _check_labels("known.labels", known.labels, count, classes, multilabel)
        _check_array("known.strays", known.strays, np.floating, (None,))
        _check_names("known.names", known.names, count)
        if (np.diff(known.strays) < 0).any():
            raise ValueError("'known.strays' are not in order")
    if held := memory.images:
        count = len(held.digests)
        _check_array("images.digests", held.digests, np.uint8, (None, FULL_DIGEST))
        _check_labels("images.labels", held.labels, count, classes, multilabel)
        _check_array("images.parts", held.parts, np.integer, (count,), 0, len(SPLITS) - 1)
        _check_array("images.groups", held.groups, np.integer, (count if len(held.groups) else 0,))
        _check_names("images.names", held.names, count)


def _check_labels(name: str, labels: NDArray[Any], count: int, classes: int, multilabel: bool) -> None:
    """Check labels: one class for each image, or a row of zeros and ones."""
    if multilabel:
        _check_array(name, labels, np.integer, (count, classes), 0, 1)
    else:
        _check_array(name, labels, np.integer, (count,), 0, classes - 1)


def _check_array(
    name: str,
    held: NDArray[Any],
    kind: type[np.generic],
    shape: tuple[int | None, ...],
    low: float = -np.inf,
    high: float = np.inf,
) -> None:
    """Raise ValueError for another kind or shape (None: any length), or for a number out of its range."""
    fits = held.ndim == len(shape) and all(own in (None, there) for own, there in zip(shape, held.shape, strict=True))
    if not fits or not np.issubdtype(held.dtype, kind):
        wanted = " x ".join("any" if side is None else str(side) for side in shape)
        there = " x ".join(map(str, held.shape))
        raise ValueError(f"{name!r} is {wanted} of {kind.__name__}, and here {there} of {held.dtype}")
    if held.size and not (np.isfinite(held).all() and low <= held.min() and held.max() <= high):
        raise ValueError(f"{name!r} has numbers that are none, or out of their range")


def _check_names(name: str, names: tuple[str, ...], count: int) -> None:
    if len(names) != count:
        raise ValueError(f"{name!r} are {count:,}, and here {len(names):,}")


def _digest_numbers(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests[:, :SHORT_DIGEST]).view(np.uint64).ravel()


def _pack_names(names: tuple[str, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(json.dumps(names).encode()), np.uint8)


def _unpack_names(text: NDArray[np.uint8], count: int) -> tuple[str, ...]:
    """Unpack `count` names, and no more bytes than so many names can take: a small file may unpack to gigabytes."""
    raw, most = text.tobytes(), MAX_NAMES_BYTES + MAX_NAME_BYTES * count
    if not raw.startswith(b"["):  # schema 1 did not compress
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(raw, most)
        except zlib.error as error:
            raise ValueError(f"its names cannot be unpacked ({error})") from error
        if not inflate.eof:
            raise ValueError(f"the names of {count:,} images unpack to more than {most:,} bytes, or are cut off")
    names = strict_json.loads(raw)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no list of texts")
    return tuple(names)
