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

from graft.model.unknown import Known

SHORT = 8  # bytes of a training picture's digest: among a million one more is taken for one of them in 10^13 times
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
    parts: dict[str, dict[str, Any]] = {"tested": {}, "known": {}, "pictures": {}}
    for name, value in tensors.items():
        part, _, own = name.partition(".")
        if own:
            parts[part][own] = _words(value) if own == "names" else bool(value) if own == "given" else value
    held, known, pictures = parts.values()
    return Memory(
        tensors["trained"],
        Exam(**held) if held else None,
        Known(**known) if known else None,
        Pictures(**pictures) if pictures else None,
    )


def _numbers(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(digests[:, :SHORT]).view(np.uint64).ravel()


def _text(names: tuple[str, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(json.dumps(names).encode()), np.uint8)


def _words(text: NDArray[np.uint8]) -> tuple[str, ...]:
    raw = text.tobytes()
    return tuple(json.loads(raw if raw.startswith(b"[") else zlib.decompress(raw)))  # schema 1 did not compress
