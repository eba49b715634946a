"""Which pictures are for training, which for the score, and which fold each belongs to: decided by content.

A picture's place follows from a hash of its bytes, so file names, order and machine do not matter. Near-duplicates
form a group that stays together, because a twin on the other side of the border makes every score a lie.
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
    classes = int(labels.max()) + 1
    sizes = np.bincount(labels, minlength=classes)
    room = np.maximum(np.rint(sizes * share).astype(int), sizes > 1)
    room = np.minimum(room, np.maximum(sizes - 1, 0))  # a class may be empty
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
    classes = int(labels.max()) + 1
    filled = np.zeros((count, classes))
    sizes = np.bincount(labels, minlength=classes)
    fold = np.zeros(len(labels), np.int8)
    for rows in sorted(_in_hash_order(groups, digests, seed), key=len, reverse=True):
        wanted = np.bincount(labels[rows], minlength=classes)
        best = int(np.lexsort((filled.sum(axis=1), (filled * wanted / np.maximum(sizes, 1)).sum(axis=1)))[0])
        fold[rows] = best
        filled[best] += wanted
    return fold


def _in_hash_order(groups: IntArray, digests: NDArray[np.uint8], seed: int) -> list[IntArray]:
    """Rows of each group; the groups ordered by the smallest hash of seed and content among their pictures."""
    keys = [hashlib.blake2b(row.tobytes(), digest_size=8, key=seed.to_bytes(8)).digest() for row in digests]
    hashes = np.array([int.from_bytes(key) for key in keys], np.uint64)
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    members = np.split(order, starts[1:])
    return sorted(members, key=lambda rows: int(hashes[rows].min()))
