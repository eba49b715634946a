"""Splits and folds of a data set, decided by image content.

An image's part follows from a hash of its bytes, so file names, order and machine do not matter. Near-duplicates
form a group that stays together, because one on the other side would inflate every score. Labels are
one class for each image [n], or several [n, classes]; the latter are dealt by iterative stratification (Sechidis et
al. 2011), rarest class first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN

IntArray = NDArray[np.integer]


def split_by_content(
    labels: IntArray, groups: IntArray, digests: NDArray[np.uint8], share: float, seed: int
) -> NDArray[np.int8]:
    """Return TRAIN or TEST for each image, by its own content: it stays there whatever is added to the set later.

    An image is TEST if the hash of its content falls below `share`; a group goes with one of its images. So about
    `share` of each class is TEST. Only where chance leaves a class without a test image it lends its first, and
    where chance takes more than half of a class, the rest stays TRAIN. Several labels an image are dealt by
    `split_stratified`, which depends on the whole set.
    """
    if labels.ndim == 2:
        return split_stratified(labels, groups, digests, share, seed)
    members = _in_hash_order(groups, digests, seed)
    # Hashed once more: the smallest hash of many is small, and big groups would all be TEST.
    draws = _hash_contents(digests[[rows[0] for rows in members]], seed, b"again") / 2**64
    assigner = _TestAssigner(labels, np.bincount(labels, minlength=int(labels.max()) + 1) // 2)
    for group in np.argsort(draws, kind="stable").tolist():
        if draws[group] < share or not assigner.has_test_images(members[group]):
            assigner.assign(members[group])
    return assigner.part


def split_stratified(
    labels: IntArray, groups: IntArray, digests: NDArray[np.uint8], share: float, seed: int
) -> NDArray[np.int8]:
    """Return TRAIN or TEST for each image: `share` of each class is TEST, and at least one image stays TRAIN.

    Groups are dealt in the order of their hash; one that would overfill the test part of any of its classes is for
    training. A class with a single image or group cannot be tested.
    """
    if labels.ndim == 2:
        return _split_multilabel(labels, _in_hash_order(groups, digests, seed), share)
    assigner = _TestAssigner(labels, _test_capacity(np.bincount(labels, minlength=int(labels.max()) + 1), share))
    for rows in _in_hash_order(groups, digests, seed):
        assigner.assign(rows)
    return assigner.part


class _TestAssigner:
    """Assigns groups to the test part. Plain numbers in lists: numpy would take 10 µs for each of a million groups."""

    def __init__(self, labels: IntArray, room: IntArray) -> None:
        self.part = np.full(len(labels), TRAIN, np.int8)
        self._labels, self._room = labels.tolist(), room.tolist()
        self._filled = [0] * len(room)

    def has_test_images(self, rows: list[int]) -> bool:
        """Whether each class of the group has a test image."""
        return all(self._filled[self._labels[row]] for row in rows)

    def assign(self, rows: list[int]) -> None:
        """Make the group TEST, unless it would overfill one of its classes."""
        wanted = Counter(self._labels[row] for row in rows) if len(rows) > 1 else {self._labels[rows[0]]: 1}
        if all(self._filled[label] + count <= self._room[label] for label, count in wanted.items()):
            self.part[rows] = TEST
            for label, count in wanted.items():
                self._filled[label] += count


def leave_one_group_out(groups: IntArray) -> NDArray[np.int64]:
    """Return a fold number for each image, 0 to the number of groups - 1: each fold is one group."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def assign_folds(
    labels: IntArray, groups: IntArray, digests: NDArray[np.uint8], count: int, seed: int
) -> NDArray[np.int8]:
    """Return a fold number for each image, 0 to count - 1: classes spread evenly, groups kept together.

    Big groups are dealt first; each goes to the fold that has the fewest images of its classes so far.
    """
    members = sorted(_in_hash_order(groups, digests, seed), key=len, reverse=True)
    if labels.ndim == 2:
        tallies = _count_group_labels(labels, members)
        return _expand_groups(
            _assign_groups(tallies, np.tile(tallies.sum(axis=0) / count, (count, 1))), members, len(labels)
        )
    sizes, label_list = np.bincount(labels), labels.tolist()
    filled, total = [[0] * len(sizes) for _ in range(count)], [0] * count
    fold = np.zeros(len(labels), np.int8)
    for rows in members:
        wanted = Counter(label_list[row] for row in rows)
        best = _emptiest_fold(filled, total, wanted, sizes)
        fold[rows] = best
        total[best] += len(rows)
        for label, own in wanted.items():
            filled[best][label] += own
    return fold


def _emptiest_fold(filled: list[list[int]], total: list[int], wanted: Mapping[int, int], sizes: IntArray) -> int:
    """Return the fold with the smallest share of these classes, weighted by the wanted counts; then the smallest."""
    if len(wanted) == 1:
        (label,) = wanted
        return min(range(len(filled)), key=lambda fold: (filled[fold][label], total[fold]))
    weights = np.zeros(len(sizes))
    weights[list(wanted)] = list(wanted.values())
    shares = (np.array(filled) * weights / np.maximum(sizes, 1)).sum(axis=1)
    return int(np.lexsort((total, shares))[0])


def _test_capacity(sizes: IntArray, share: float) -> IntArray:
    """Return how many images of each class may be TEST; a class may be empty."""
    capacity = np.maximum(np.rint(sizes * share).astype(int), sizes > 1)
    return np.minimum(capacity, np.maximum(sizes - 1, 0))


def _split_multilabel(labels: IntArray, members: list[list[int]], share: float) -> NDArray[np.int8]:
    tallies = _count_group_labels(labels, members)
    sizes = tallies.sum(axis=0)
    tested = _test_capacity(sizes, share)
    dealt = _assign_groups(tallies, np.stack([sizes - tested, tested]).astype(np.float64), keep_last=True)
    return np.where(_expand_groups(dealt, members, len(labels)) == 1, TEST, TRAIN).astype(np.int8)


def _count_group_labels(labels: IntArray, members: list[list[int]]) -> NDArray[np.int64]:
    """Count the images of each class in each group, [groups, classes + 1]; the last column is its size."""
    starts = np.cumsum([0, *(len(rows) for rows in members[:-1])])
    several = np.add.reduceat(labels[np.concatenate(members)], starts, axis=0, dtype=np.int64)
    return np.column_stack([several, [len(rows) for rows in members]])


def _assign_groups(
    tallies: NDArray[np.int64], desired: NDArray[np.float64], keep_last: bool = False
) -> NDArray[np.int8]:
    """Assign a part to each group, so that part p gets about `desired[p]` [classes + 1].

    The class with the fewest images left is dealt first, each group to the part that wants it most; size, the last
    column, decides between equals and deals what has no label. With `keep_last` no class loses its last image to
    another part than the first.
    """
    part, desired, remaining = np.full(len(tallies), -1, np.int8), desired.copy(), tallies.sum(axis=0)
    in_first = np.zeros_like(remaining)  # in the first part
    while remaining.any():
        rarest = int(np.where(remaining > 0, remaining, remaining.max() + 1).argmin())
        for group in np.flatnonzero((part < 0) & (tallies[:, rarest] > 0)):
            own = tallies[group]
            best = int(np.lexsort((-desired[:, -1], -desired[:, rarest]))[0])
            if keep_last and (in_first + remaining == own)[own > 0].any():
                best = 0
            part[group] = best
            desired[best] -= own
            remaining -= own
            in_first += own * (best == 0)
    return part


def _expand_groups(dealt: NDArray[np.int8], members: list[list[int]], count: int) -> NDArray[np.int8]:
    """Return the part of each image from that of its group."""
    part = np.zeros(count, np.int8)
    part[np.concatenate(members)] = np.repeat(dealt, [len(rows) for rows in members])
    return part


def _in_hash_order(groups: IntArray, digests: NDArray[np.uint8], seed: int) -> list[list[int]]:
    """Return the rows of each group, ordered by the (smallest) hash of seed and content."""
    hashes = _hash_contents(digests, seed)
    order = np.lexsort((hashes, groups))
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    rows, bounds = order.tolist(), [*starts.tolist(), len(order)]
    turn = np.argsort(hashes[order[starts]], kind="stable").tolist()
    return [rows[bounds[group] : bounds[group + 1]] for group in turn]


def _hash_contents(digests: NDArray[np.uint8], seed: int, person: bytes = b"") -> NDArray[np.uint64]:
    """Hash each content with the seed, independently of the other contents."""
    raw, key, width = digests.tobytes(), seed.to_bytes(8), digests.shape[1]
    each = (raw[at : at + width] for at in range(0, len(raw), width))
    made = (blake2b(content, digest_size=8, key=key, person=person).digest() for content in each)
    return np.frombuffer(b"".join(made), ">u8").astype(np.uint64)
