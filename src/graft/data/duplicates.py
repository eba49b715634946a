"""Pictures that show the same thing: exact copies, re-encoded copies, frames of one burst."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graft.data.hashes import BITS, differing
from graft.progress import Watch, unwatched

ALIKE = 0.85  # cosine between standardised features; bench/README.md has the table behind it
LOOSE, EACH = 0.5, 0.03  # where the hashes agree, a cosine of LOOSE does, and EACH more for a bit that differs
CERTAIN, HINT = 4, 0.1  # bits that may differ where hashes decide, alone or with features of so little in common
SURE = 0.95  # the cosine asked for where hashes disagree, in a set whose images are alike by nature
NEIGHBOURS, SAMPLE = 20, 512  # how alike a set's images are by nature: by the 20th nearest of so many of them
UNRELATED = 22.0  # bits by which the hashes of photos and their 20th nearest differ: further is no evidence
CHANCE = 0.02  # share of images with a partner above ALIKE of another hash from which on they are alike by nature
BLOCK = 2048
SKETCH = 512  # wider features are projected to so many dimensions: a cosine near ALIKE then errs by 0.012


@runtime_checkable
class Rows(Protocol):
    """Features [n, d] that need not be in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.integer], /) -> NDArray[np.float32]: ...


Pairs = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.floating]]  # one, other, the cosine between them


def near_duplicates(
    features: Rows, digests: NDArray[np.uint8], hashes: NDArray[np.uint64] | None = None, watch: Watch = unwatched
) -> NDArray[np.int64]:
    """A group number [n] for each picture; pictures alike in content, or by the rule of `alike`, share one."""
    groups = copies(digests)
    for one, two, _ in watch(alike(features, hashes), "near-duplicates", pieces(len(features))):
        groups = merged(groups, one, two)
    return numbered(groups)


def pieces(count: int) -> int:
    """How many times `alike` gives pairs, of so many images."""
    each = -(-count // BLOCK)
    return each * (each + 1) // 2


def alike(features: Rows, hashes: NDArray[np.uint64] | None = None) -> Iterator[Pairs]:
    """All pairs of near-duplicates, some at a time: the cosine between their features is above ALIKE, or less where
    their perceptual hashes, of which one may be the mirror image's, are near.

    Features are standardised first, so that the cosine compares what makes a picture special in this set. Where images
    are alike by nature, as steel, cells or panels are, more is asked for: see `Nature`. All pairs are compared, block
    by block, in a random projection (Johnson and Lindenstrauss 1984): 50,000 pictures take 1.3 TFLOP.
    """
    rows = _unit(sketch(features))
    limits = None if hashes is None else natural(rows, hashes).least(np.arange(BITS + 1)).astype(np.float32)
    for start in range(0, len(rows), BLOCK):
        for other in range(start, len(rows), BLOCK):
            cosines = rows[start : start + BLOCK] @ rows[other : other + BLOCK].T
            near = cosines > (ALIKE if limits is None else HINT)
            one, two = np.nonzero(np.triu(near, 1) if other == start else near)
            cosine, one, two = cosines[one, two], one + start, two + other
            if limits is not None and hashes is not None:
                sure = cosine > limits[differing(hashes[one], hashes[two])]
                one, two, cosine = one[sure], two[sure], cosine[sure]
            yield one, two, cosine


@dataclass(frozen=True)
class Nature:
    """How alike the images of a set are without being near-duplicates.

    `bits` by which hashes differ, and `cosine` of features, between an image and its 20th nearest, in the median; and
    whether many have `twins`: a partner above ALIKE whose hash has nothing in common with theirs, which is no
    near-duplicate's.
    """

    bits: float
    cosine: float
    twins: bool

    def least(self, differing: NDArray[np.integer]) -> NDArray[np.floating]:
        """The cosine from which on pairs are near-duplicates, by how many bits their hashes differ."""
        alike = min(max(ALIKE, (1 + self.cosine) / 2), SURE)  # half as far as the 20th nearest
        if self.bits <= 2 * CERTAIN:  # that hashes agree says nothing here
            return np.full(len(differing), SURE if self.twins else alike)
        bits = differing * (UNRELATED / min(self.bits, UNRELATED))  # as many as in a set of photos
        near = np.where(bits <= CERTAIN, HINT, np.minimum(alike, LOOSE + EACH * bits))
        return np.where(differing <= self.bits, near, SURE if self.twins else alike)


def natural(rows: NDArray[np.floating], hashes: NDArray[np.uint64]) -> Nature:
    """The nature of a set, by features [n, d] of length 1 and hashes [n]; in a small set by its half."""
    nth = min(NEIGHBOURS, len(rows) // 2)
    if nth < 2:
        return Nature(UNRELATED, 0.0, twins=False)
    asked = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int))
    cosines = rows[asked] @ rows.T
    bits = differing(hashes[asked, None], hashes[None]).astype(np.int16)
    itself = (np.arange(len(asked)), asked)
    cosines[itself], bits[itself] = -1, BITS
    far = float(np.median(np.partition(bits, nth - 1, axis=1)[:, nth - 1]))
    near = float(np.median(np.partition(cosines, -nth, axis=1)[:, -nth]))
    twins = ((cosines > ALIKE) & (bits > far)).any(axis=1).mean()
    return Nature(max(far, 1.0), near, bool(twins > CHANCE))


def alike_in_hash(hashes: NDArray[np.uint64]) -> Iterator[Pairs]:
    """All pairs whose hashes are nearly the same, for pictures without features; in place of the cosine, a nearness."""
    for start in range(0, len(hashes), BLOCK):
        for other in range(start, len(hashes), BLOCK):
            bits = differing(hashes[start : start + BLOCK, None], hashes[None, other : other + BLOCK])
            one, two = np.nonzero(np.triu(bits <= CERTAIN, 1) if other == start else bits <= CERTAIN)
            yield one + start, two + other, 1 - bits[one, two] / BITS


def sketch(features: Rows) -> NDArray[np.floating]:
    """Standardised features in fewer dimensions, [n, SKETCH], with about the same angles and ratios of distances."""
    mean, spread = moments(features)
    projection = _projection(len(mean))
    return np.concatenate([np.matmul((block - mean) / spread, projection) for _, block in blocks(features)])


def numbered(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same groups, called 0, 1, 2 and so on."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def joined(groups: NDArray[np.int64], others: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Groups joined with those of the pictures' owner: who shares one with somebody in either shares one now."""
    if others is None:
        return groups
    own = np.where(others < 0, others.max(initial=0) + 1 + np.arange(len(others)), others)
    own = np.unique(own, return_inverse=True)[1] + groups.max(initial=0) + 1
    size = int(own.max(initial=0)) + 1
    return numbered(_components(groups, own, size)[groups])


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


def _unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _projection(width: int) -> NDArray[np.float32]:
    if width <= SKETCH:
        return np.eye(width, dtype=np.float32)
    return np.random.default_rng(0).standard_normal((width, SKETCH), np.float32)


def copies(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """For each row the first row of the same content."""
    _, first, same = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    return first[same.ravel()].astype(np.int64)


def merged(groups: NDArray[np.int64], one: NDArray[np.intp], two: NDArray[np.intp]) -> NDArray[np.int64]:
    """The groups with those joined that a pair connects; a group is called by one of its rows."""
    apart = groups[one] != groups[two]
    if not apart.any():
        return groups
    left, right = groups[one[apart]], groups[two[apart]]
    found = _components(left, right, len(groups))
    _, first = np.unique(found, return_index=True)
    return first[found[groups]].astype(np.int64)


def _components(one: NDArray[np.int64], two: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """The number of the connected component of each of so many nodes, by the edges between them."""
    from scipy.sparse import coo_array  # here, because it takes half a second to import
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(one), bool), (one, two)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)
