"""Which pictures are for training, which for the score, and which fold each belongs to: decided by content.

A picture's place follows from a hash of its bytes, so file names, order and machine do not matter. Near-duplicates
form a group that stays together, because a twin on the other side of the border makes every score a lie. Labels are
one class for each picture [n], or several [n, classes]; the latter are dealt by iterative stratification (Sechidis et
al. 2011), rarest class first.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN

IntArray = NDArray[np.integer]


def split(labels: IntArray, groups: IntArray, digests: NDArray[np.uint8], share: float, seed: int) -> NDArray[np.int8]:
    """TRAIN or TEST for each picture: about `share` of each class is TEST, and at least one picture stays TRAIN.

    Groups are dealt in the order of their hash; one that would overfill the test part of any of its classes is for
    training. A class with a single picture or group cannot be tested.
    """
    if labels.ndim == 2:
        return _split_of_several(labels, _in_hash_order(groups, digests, seed), share)
    classes = int(labels.max()) + 1
    room = _room(np.bincount(labels, minlength=classes), share)
    part = np.full(len(labels), TRAIN, np.int8)
    for rows in _in_hash_order(groups, digests, seed):
        wanted = np.bincount(labels[rows], minlength=classes)
        if (wanted <= room).all():
            part[rows] = TEST
            room = room - wanted
    return part


def folds(labels: IntArray, groups: IntArray, digests: NDArray[np.uint8], count: int, seed: int) -> NDArray[np.int8]:
    """A fold number for each picture, 0 to count - 1: classes spread evenly, groups kept together.

    Big groups are dealt first; each goes to the fold that has the fewest pictures of its classes so far.
    """
    members = sorted(_in_hash_order(groups, digests, seed), key=len, reverse=True)
    if labels.ndim == 2:
        tallies = _tallies(labels, members)
        return _spread(_dealt(tallies, np.tile(tallies.sum(axis=0) / count, (count, 1))), members, len(labels))
    classes = int(labels.max()) + 1
    filled = np.zeros((count, classes))
    sizes = np.bincount(labels, minlength=classes)
    fold = np.zeros(len(labels), np.int8)
    for rows in members:
        wanted = np.bincount(labels[rows], minlength=classes)
        best = int(np.lexsort((filled.sum(axis=1), (filled * wanted / np.maximum(sizes, 1)).sum(axis=1)))[0])
        fold[rows] = best
        filled[best] += wanted
    return fold


def _room(sizes: IntArray, share: float) -> IntArray:
    """How many pictures of each class may be TEST; a class may be empty."""
    room = np.maximum(np.rint(sizes * share).astype(int), sizes > 1)
    return np.minimum(room, np.maximum(sizes - 1, 0))


def _split_of_several(labels: IntArray, members: list[IntArray], share: float) -> NDArray[np.int8]:
    tallies = _tallies(labels, members)
    sizes = tallies.sum(axis=0)
    tested = _room(sizes, share)
    dealt = _dealt(tallies, np.stack([sizes - tested, tested]).astype(np.float64), keep=True)
    return np.where(_spread(dealt, members, len(labels)) == 1, TEST, TRAIN).astype(np.int8)


def _tallies(labels: IntArray, members: list[IntArray]) -> NDArray[np.int64]:
    """How many pictures of each class a group has, [groups, classes + 1]; the last column is its size."""
    return np.stack([np.r_[labels[rows].sum(axis=0, dtype=np.int64), len(rows)] for rows in members])


def _dealt(tallies: NDArray[np.int64], desired: NDArray[np.float64], keep: bool = False) -> NDArray[np.int8]:
    """The part of each group, so that part p gets about `desired[p]` [classes + 1].

    The class with the fewest pictures left is dealt first, each group to the part that wants it most; size, the last
    column, decides between equals and deals what has no label. With `keep` no class loses its last picture to another
    part than the first.
    """
    part, desired, left = np.full(len(tallies), -1, np.int8), desired.copy(), tallies.sum(axis=0)
    kept = np.zeros_like(left)  # in the first part
    while left.any():
        rarest = int(np.where(left > 0, left, left.max() + 1).argmin())
        for group in np.flatnonzero((part < 0) & (tallies[:, rarest] > 0)):
            own = tallies[group]
            best = int(np.lexsort((-desired[:, -1], -desired[:, rarest]))[0])
            if keep and (kept + left == own)[own > 0].any():
                best = 0
            part[group] = best
            desired[best] -= own
            left -= own
            kept += own * (best == 0)
    return part


def _spread(dealt: NDArray[np.int8], members: list[IntArray], count: int) -> NDArray[np.int8]:
    """The part of each picture from that of its group."""
    part = np.zeros(count, np.int8)
    part[np.concatenate(members)] = np.repeat(dealt, [len(rows) for rows in members])
    return part


def _in_hash_order(groups: IntArray, digests: NDArray[np.uint8], seed: int) -> list[IntArray]:
    """Rows of each group; the groups ordered by the smallest hash of seed and content among their pictures."""
    keys = [hashlib.blake2b(row.tobytes(), digest_size=8, key=seed.to_bytes(8)).digest() for row in digests]
    hashes = np.array([int.from_bytes(key) for key in keys], np.uint64)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    members = np.split(order, starts[1:])
    return sorted(members, key=lambda rows: int(hashes[rows].min()))
