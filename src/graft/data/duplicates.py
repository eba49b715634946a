"""Pictures that show the same thing: exact copies, re-encoded copies, frames of one burst."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

ALIKE = 0.85  # cosine between standardised features; bench/README.md has the table behind it
BLOCK = 2048
SKETCH = 128  # dimensions of the random projection that finds candidates
DOUBT = 0.15  # four standard deviations of a cosine estimated in SKETCH dimensions (Johnson and Lindenstrauss 1984)


@runtime_checkable
class Rows(Protocol):
    """Features [n, d] that need not be in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.integer], /) -> NDArray[np.float32]: ...


def near_duplicates(features: Rows, digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """A group number [n] for each picture; pictures alike in content or in features share one.

    Features are standardised first, so that the cosine compares what makes a picture special in this set. All pairs
    are compared in a random projection, block by block; the candidates are then checked in full. 50,000 pictures take
    0.3 TFLOP.
    """
    mean, spread = moments(features)
    sketch = np.concatenate([_unit(block, mean, spread) @ _projection(len(mean)) for _, block in blocks(features)])
    sketch /= np.maximum(np.linalg.norm(sketch, axis=1, keepdims=True), 1e-12)
    pairs = [_copies(digests)]
    for one, two in _candidates(sketch):
        left, right = (_unit(features[rows], mean, spread) for rows in (one, two))
        sure = (left * right).sum(axis=1) > ALIKE
        pairs.append((one[sure], two[sure]))
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(sketch), len(sketch)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def blocks(features: Rows, size: int = BLOCK) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """(rows, features of these rows), so that a table larger than memory can be walked."""
    for start in range(0, len(features), size):
        rows = np.arange(start, min(start + size, len(features)))
        yield rows, features[rows]


def moments(features: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each feature, [d] each; 1 where a feature never changes."""
    total, squares = np.zeros(1), np.zeros(1)
    for _, block in blocks(features):
        wide = block.astype(np.float64)
        total, squares = total + wide.sum(axis=0), squares + (wide * wide).sum(axis=0)
    mean = total / len(features)
    variance = np.maximum(squares / len(features) - mean * mean, 0)
    spread = np.sqrt(np.where(variance > 1e-10 * np.maximum(mean * mean, 1e-20), variance, 1))
    return mean.astype(np.float32), spread.astype(np.float32)


def _unit(block: NDArray[np.float32], mean: NDArray[np.float32], spread: NDArray[np.float32]) -> NDArray[np.float32]:
    standard = (block - mean) / spread
    return standard / np.maximum(np.linalg.norm(standard, axis=1, keepdims=True), 1e-12)


def _projection(width: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((width, SKETCH), np.float32)


def _copies(digests: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each row paired with the first row of the same content."""
    _, first, same = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return np.arange(len(digests)), first[same.ravel()]


def _candidates(sketch: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    for start in range(0, len(sketch), BLOCK):
        for other in range(start, len(sketch), BLOCK):
            alike = sketch[start : start + BLOCK] @ sketch[other : other + BLOCK].T > ALIKE - DOUBT
            one, two = np.nonzero(np.triu(alike, 1) if other == start else alike)
            for at in range(0, len(one), BLOCK):  # a set of look-alikes has many pairs: never all of them at once
                yield one[at : at + BLOCK] + start, two[at : at + BLOCK] + other
