"""The nearest near-duplicate of each picture: of all, of those with another label, of those in another part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, Labels
from graft.data.duplicates import Pairs, Rows, alike, alike_in_hash, copies, merged, numbered, pieces
from graft.data.finding import Finding, column, counted
from graft.data.hashes import mirrored
from graft.progress import Watch, unwatched

NOBODY = -1
OFTEN = 3  # times the same content: two may be an accident of collecting


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
    features: Rows | None,
    digests: NDArray[np.uint8],
    hashes: NDArray[np.uint64] | None,
    labels: Labels,
    parts: NDArray[np.int8],
    watch: Watch = unwatched,
) -> Twins:
    """Compare all pairs, by hashes alone if there are no features; memory grows with the pictures, not the pairs."""
    first = copies(digests)
    groups = first
    nearest, disputed, crossing = (_Nearest(len(first)) for _ in range(3))
    for one, two, cosine in watch(_alike(features, hashes), "near-duplicates", pieces(len(first))):
        groups = merged(groups, one, two)
        pairs = (one, two, cosine)
        nearest.take(pairs, first[one] != first[two])
        disputed.take(pairs, np.logical_or.reduce(np.atleast_2d((labels[one] != labels[two]).T)))
        crossing.take(pairs, parts[one] != parts[two])
    return Twins(numbered(groups), first, nearest.row, disputed.row, crossing.row)


def _alike(features: Rows | None, hashes: NDArray[np.uint64] | None) -> Iterator[Pairs]:
    if features is not None:
        return alike(features, hashes)
    return alike_in_hash(hashes) if hashes is not None else iter(())


class _Nearest:
    """The partner of each picture with the highest cosine so far."""

    def __init__(self, count: int) -> None:
        self.row = np.full(count, NOBODY, np.intp)
        self._cosine = np.full(count, -np.inf)

    def take(self, pairs: Pairs, counts: NDArray[np.bool_]) -> None:
        """Look at those of the pairs that count, in both directions; of equals the first picture is the partner."""
        one, two, cosine = (np.asarray(column)[counts] for column in pairs)
        mine, other, cosine = np.r_[one, two], np.r_[two, one], np.r_[cosine, cosine]
        order = np.lexsort((-other, cosine))  # of several values for one place the last stays
        order = order[cosine[order] > self._cosine[mine[order]]]
        self.row[mine[order]] = other[order]
        self._cosine[mine[order]] = cosine[order]


def pairs_of(partner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows and partners as pairs [m, 2], each pair once, the lower row first."""
    rows = np.flatnonzero(partner != NOBODY)
    return np.unique(np.sort(np.column_stack([rows, partner[rows]]), axis=1), axis=0)


def repeated(first: NDArray[np.int64]) -> dict[int, int]:
    """Contents that stand there OFTEN or more, the most frequent first: (their first row, how often)."""
    counts = np.bincount(first, minlength=len(first))
    order = np.argsort(-counts, kind="stable")
    return {int(row): int(counts[row]) for row in order[: int((counts >= OFTEN).sum())]}


def found(twins: Twins, data: Dataset, hashes: NDArray[np.uint64]) -> Iterator[Finding]:
    """What near-duplicates do to a data set; row i of the columns is picture i of `data`."""
    first, notes = twins.first, partial(_notes, twins.first, hashes)
    crossing, disputed = pairs_of(twins.crossing), pairs_of(twins.disputed)
    copied = first[disputed[:, 0]] == first[disputed[:, 1]]
    if len(crossing):
        count = int((twins.crossing != NOBODY).sum())
        says = f"{counted(count, 'picture')} have a near-duplicate in another part of your split: the score flatters"
        advice = "Take one side out (--fix leaves out that of the training part), or let graft split all of them."
        yield Finding("leak", "error", says, advice, crossing, notes(crossing))
    if copied.any():
        says = f"{counted(int(copied.sum()), 'pair')} of the same content under different labels"
        advice = "One of the two is wrong, or both labels are true (then it is a task of several labels)."
        yield Finding("conflict", "error", says, advice, disputed[copied], notes(disputed[copied]))
    if not copied.all():
        says = f"{counted(int((~copied).sum()), 'pair')} of near-duplicates under different labels"
        advice = "Look at both: often one label is wrong."
        yield Finding("near conflict", "warning", says, advice, disputed[~copied], notes(disputed[~copied]))
    pairs = pairs_of(np.where(twins.copies, first, NOBODY).astype(np.intp))
    pairs = pairs[~(_among(pairs, disputed) | _among(pairs, crossing))]
    if len(pairs):
        says = f"{counted(len(pairs), 'picture')} of the same content as another one"
        yield Finding("copy", "warning", says, "One of each is enough; --fix keeps it.", pairs)
    if often := repeated(first):
        says = f"{sum(often.values()):,} pictures of {counted(len(often), 'content')} found {OFTEN} times or more"
        advice = "Is it a placeholder for missing images, or an error page? Then delete them: it is learnt as a class."
        yield Finding("placeholder", "warning", says, advice, column(np.array(list(often))), _times(often))
    near = pairs_of(twins.nearest)
    near = near[~(_among(near, disputed) | _among(near, crossing))]
    if len(near):
        says = f"{counted(len(near), 'pair')} of near-duplicates"
        advice = "graft fit keeps them on one side of its split. Whole series of them teach no more than a few."
        yield Finding("near-duplicate", "note", says, advice, near, notes(near))


def _times(often: Mapping[int, int]) -> list[str]:
    return [f"{count:,} times" for count in often.values()]


def _among(pairs: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which pairs are told of already."""
    known = set(map(tuple, others.tolist()))
    return np.array([tuple(pair) in known for pair in pairs.tolist()], bool)


def _notes(first: NDArray[np.int64], hashes: NDArray[np.uint64], pairs: NDArray[np.intp]) -> list[str]:
    """A word on each pair."""
    one, two = pairs.T
    turned = np.bitwise_count(hashes[one] ^ mirrored(hashes[two])) < np.bitwise_count(hashes[one] ^ hashes[two])
    return np.where(first[one] == first[two], "same content", np.where(turned, "mirrored", "")).tolist()
