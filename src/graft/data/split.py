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


def lasting(
    labels: IntArray, groups: IntArray, digests: NDArray[np.uint8], share: float, seed: int
) -> NDArray[np.int8]:
    """TRAIN or TEST for each picture, by its own content: it stays there whatever is added to the set later.

    A picture is TEST if the hash of its content falls below `share`; a group goes with one of its pictures. So about
    `share` of each class is TEST. Only where chance leaves a class without a test picture it lends its first, and
    where chance takes more than half of a class, the rest stays TRAIN. Several labels a picture are dealt by
    `stratified`, for which the whole set decides.
    """
    if labels.ndim == 2:
        return stratified(labels, groups, digests, share, seed)
    members = _in_hash_order(groups, digests, seed)
    # Hashed once more: the smallest hash of many is small, and big groups would all be TEST.
    lots = [_hash(digests[rows[0]], seed, b"again") / 2**64 for rows in members]
    order = sorted(range(len(members)), key=lots.__getitem__)
    classes = int(labels.max()) + 1
    room, tested = np.bincount(labels, minlength=classes) // 2, np.zeros(classes, int)
    part = np.full(len(labels), TRAIN, np.int8)

    def take(group: int) -> None:
        wanted = np.bincount(labels[members[group]], minlength=classes)
        if (tested + wanted <= room).all():
            part[members[group]] = TEST
            tested[:] += wanted

    for group in order:
        if lots[group] < share or not tested[labels[members[group]]].all():
            take(group)
    return part


def stratified(
    labels: IntArray, groups: IntArray, digests: NDArray[np.uint8], share: float, seed: int
) -> NDArray[np.int8]:
    """TRAIN or TEST for each picture: `share` of each class is TEST, and at least one picture stays TRAIN.

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


def one_group_out(groups: IntArray) -> NDArray[np.int64]:
    """A fold number for each picture, 0 to the number of groups - 1: each fold is one group."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


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
    """Rows of each group and the groups, ordered by the (smallest) hash of seed and content."""
    hashes = np.array([_hash(row, seed) for row in digests], np.uint64)
    order = np.lexsort((hashes, groups))
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    members = np.split(order, starts[1:])
    return sorted(members, key=lambda rows: int(hashes[rows[0]]))


def _hash(digest: NDArray[np.uint8], seed: int, person: bytes = b"") -> int:
    made = hashlib.blake2b(digest.tobytes(), digest_size=8, key=seed.to_bytes(8), person=person)
    return int.from_bytes(made.digest())
