"""What a classifier remembers of its pictures: which it was trained on, how it answered the test, what it knows.

One file of tensors without pickle. Pictures are named by their content, so that they are found again wherever they lie.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from graft.data.dataset import SPLITS
from graft.model.unknown import Known
from graft_runtime import strict_json

SHORT = 8  # bytes of a training picture's digest: among a million one more is taken for one of them in 10^13 times
WHOLE = 16  # bytes of a digest
COUNTED = {"tested": "digests", "known": "features", "pictures": "digests"}  # what has a row for each picture
LONG, LONGER = 1 << 16, 1 << 10  # bytes that names take as JSON, at most: all together, and more for each
MANY, TOP = 100, 10  # of more classes than MANY only the TOP likeliest are remembered


@dataclass(frozen=True, eq=False)
class Exam:
    """The test pictures in order: digests [n, 16], names, labels [n] or [n, classes], and the calibrated answers.

    `chances` [n, k] are the probabilities of the classes `columns` [n, k]: all of them, in order, or the likeliest.
    `own` [n] is that of the right class, `strange` [n] the score of unknown; each is empty where there is none.
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
class Pictures:
    """All pictures that could be used, for `graft update`, which finds their features in the cache by content.

    `digests` [n, 16], `names`, `labels` [n] or [n, classes], `parts` [n] (index into SPLITS) and `groups` [n] as a
    person gave them, empty without any; `given` is whether a person made the split.
    """

    digests: NDArray[np.uint8]
    names: tuple[str, ...]
    labels: NDArray[np.integer]
    parts: NDArray[np.int8]
    groups: NDArray[np.int64]
    given: bool


@dataclass(frozen=True, eq=False)
class Memory:
    """`trained` are the short digests of the training pictures [n, 8], sorted."""

    trained: NDArray[np.uint8]
    tested: Exam | None = None
    known: Known | None = None
    pictures: Pictures | None = None

    def __repr__(self) -> str:
        tested = len(self.tested) if self.tested else 0
        return f"<Memory of {len(self.trained):,} training and {tested:,} test images>"

    def seen(self, digests: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which of these contents [n, 16] were trained on."""
        return np.isin(_numbers(digests), _numbers(self.trained))


def shortened(digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Short digests, sorted."""
    return np.unique(np.ascontiguousarray(digests[:, :SHORT]), axis=0)


def examined(
    digests: NDArray[np.uint8],
    names: Sequence[str],
    labels: NDArray[np.integer],
    chances: NDArray[np.float64],
    strange: NDArray[np.float32] | None,
) -> Exam:
    """The answers as they are kept; with many classes, only the likeliest."""
    count, classes = chances.shape
    columns = np.argsort(-chances, axis=1, kind="stable")[:, :TOP] if classes > MANY else np.arange(classes)
    columns = np.broadcast_to(columns, (count, columns.shape[-1])).astype(np.int32)
    own = chances[np.arange(count), labels] if labels.ndim == 1 else np.empty(0)
    return Exam(
        digests=digests,
        names=tuple(names),
        labels=labels,
        chances=np.take_along_axis(chances, columns, axis=1).astype(np.float32),
        columns=columns,
        own=own.astype(np.float32),
        strange=np.empty(0, np.float32) if strange is None else strange,
    )


def dump(memory: Memory) -> bytes:
    """The file's bytes."""
    parts = {"tested": memory.tested, "known": memory.known, "pictures": memory.pictures}
    tensors = {"trained": memory.trained}
    for part, held in parts.items():
        for name, value in vars(held).items() if held else ():
            tensors[f"{part}.{name}"] = _text(value) if isinstance(value, tuple) else np.ascontiguousarray(value)
    return safetensors.save(tensors)


def parse(content: bytes) -> Memory:
    """The memory that `dump` wrote; raises KeyError, TypeError or ValueError for any other file."""
    tensors = safetensors.load(content)
    count = {part: len(tensors.get(f"{part}.{rows}", ())) for part, rows in COUNTED.items()}
    parts: dict[str, dict[str, Any]] = {"tested": {}, "known": {}, "pictures": {}}
    for name, value in tensors.items():
        part, _, own = name.partition(".")
        if own:
            named = _words(value, count[part]) if own == "names" else value
            parts[part][own] = bool(value) if own == "given" else named
    held, known, pictures = parts.values()
    return Memory(
        tensors["trained"],
        Exam(**held) if held else None,
        Known(**known) if known else None,
        Pictures(**pictures) if pictures else None,
    )


def check(memory: Memory, classes: int, *, several: bool) -> None:
    """Raises ValueError that says which array is not what a classifier of so many classes remembers."""
    _check("trained", memory.trained, np.uint8, (None, SHORT))
    if exam := memory.tested:
        count, shape = len(exam.digests), exam.columns.shape
        _check("tested.digests", exam.digests, np.uint8, (None, WHOLE))
        _check_labels("tested.labels", exam.labels, count, classes, several)
        _check("tested.columns", exam.columns, np.integer, (count, None), 0, classes - 1)
        _check("tested.chances", exam.chances, np.floating, shape, 0, 1)
        _check("tested.own", exam.own, np.floating, (0 if several else count,), 0, 1)
        _check("tested.strange", exam.strange, np.floating, (count if len(exam.strange) else 0,))
        _check_names("tested.names", exam.names, count)
    if known := memory.known:
        count = len(known.features)
        _check("known.features", known.features, np.floating, (None, None))
        _check_labels("known.labels", known.labels, count, classes, several)
        _check("known.strays", known.strays, np.floating, (None,))
        _check_names("known.names", known.names, count)
        if (np.diff(known.strays) < 0).any():
            raise ValueError("'known.strays' are not in order")
    if held := memory.pictures:
        count = len(held.digests)
        _check("pictures.digests", held.digests, np.uint8, (None, WHOLE))
        _check_labels("pictures.labels", held.labels, count, classes, several)
        _check("pictures.parts", held.parts, np.integer, (count,), 0, len(SPLITS) - 1)
        _check("pictures.groups", held.groups, np.integer, (count if len(held.groups) else 0,))
        _check_names("pictures.names", held.names, count)


def _check_labels(name: str, labels: NDArray[Any], count: int, classes: int, several: bool) -> None:
    """A class for each, or a 1 for each class that it shows."""
    if several:
        _check(name, labels, np.integer, (count, classes), 0, 1)
    else:
        _check(name, labels, np.integer, (count,), 0, classes - 1)


def _check(
    name: str,
    held: NDArray[Any],
    kind: type[np.generic],
    shape: tuple[int | None, ...],
    low: float = -np.inf,
    high: float = np.inf,
) -> None:
    """Raises ValueError for another kind or shape (None: any length), or for a number out of its range."""
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


def _numbers(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests[:, :SHORT]).view(np.uint64).ravel()


def _text(names: tuple[str, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(json.dumps(names).encode()), np.uint8)


def _words(text: NDArray[np.uint8], count: int) -> tuple[str, ...]:
    """So many names; what unpacks to more than these can take is not unpacked."""
    raw, most = text.tobytes(), LONG + LONGER * count
    if not raw.startswith(b"["):  # schema 1 did not compress
        inflate = zlib.decompressobj()
        try:
            raw = inflate.decompress(raw, most)
        except zlib.error as error:
            raise ValueError(f"its names cannot be unpacked ({error})") from error
        if not inflate.eof:
            raise ValueError(f"the names of {count:,} pictures unpack to more than {most:,} bytes, or are cut off")
    names = strict_json.loads(raw)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no list of texts")
    return tuple(names)
