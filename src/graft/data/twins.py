"""The nearest near-duplicate of each picture: of all, of those with another label, of those in another part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Labels
from graft.data.duplicates import Pairs, Rows, alike, copies, merged, numbered

NOBODY = -1


@dataclass(frozen=True)
class Twins:
    """Columns [n]: `groups` as `near_duplicates` has them, `first` row of the same content, and rows or NOBODY.

    `nearest` is the most alike of the near-duplicates whose content differs, `disputed` of all that have another
    label, `crossing` of all in another part of the user's own split.
    """

    groups: NDArray[np.int64]
    first: NDArray[np.int64]
    nearest: NDArray[np.intp]
    disputed: NDArray[np.intp]
    crossing: NDArray[np.intp]

    @property
    def copies(self) -> NDArray[np.bool_]:
        """Which pictures have the content of one before them."""
        return self.first != np.arange(len(self.first))


def find_twins(
    features: Rows,
    digests: NDArray[np.uint8],
    hashes: NDArray[np.uint64] | None,
    labels: Labels,
    parts: NDArray[np.int8],
) -> Twins:
    """Compare all pairs; memory grows with the pictures, not with the pairs."""
    first = copies(digests)
    groups = first
    nearest, disputed, crossing = (_Nearest(len(first)) for _ in range(3))
    for one, two, cosine in alike(features, hashes):
        groups = merged(groups, one, two)
        pairs = (one, two, cosine)
        nearest.take(pairs, first[one] != first[two])
        disputed.take(pairs, np.atleast_2d((labels[one] != labels[two]).T).any(axis=0))
        crossing.take(pairs, parts[one] != parts[two])
    return Twins(numbered(groups), first, nearest.row, disputed.row, crossing.row)


class _Nearest:
    """The partner of each picture with the highest cosine so far."""

    def __init__(self, count: int) -> None:
        self.row = np.full(count, NOBODY, np.intp)
        self._cosine = np.full(count, -np.inf)

    def take(self, pairs: Pairs, counts: NDArray[np.bool_]) -> None:
        """Look at those of the pairs that count, in both directions."""
        one, two, cosine = (column[counts] for column in pairs)
        order = np.argsort(cosine, kind="stable")  # of several values for one place the last stays
        for mine, other in ((one[order], two[order]), (two[order], one[order])):
            better = cosine[order] > self._cosine[mine]
            self.row[mine[better]] = other[better]
            self._cosine[mine[better]] = cosine[order][better]


def pairs_of(partner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows and partners as pairs [m, 2], each pair once, the lower row first."""
    rows = np.flatnonzero(partner != NOBODY)
    return np.unique(np.sort(np.column_stack([rows, partner[rows]]), axis=1), axis=0)
