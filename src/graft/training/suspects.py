"""Labels that are likely wrong, and pictures unlike all others: from answers of a head that never saw the picture.

Confident learning (Northcutt et al. 2021): a label is suspect if another class is more likely than it, and at least as
likely as that class usually is among its own. cleanlab has it too; for these lines it would be one more dependency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, Labels
from graft.data.duplicates import BLOCK, Rows, sketch

FEW = 5  # pictures of a class below which nobody can tell what is usual in it
NEIGHBOURS = 5
LEAST = 50  # pictures below which nobody can tell what is far
COMPARED = 4096  # pictures that each is compared with
FAR = 3.0  # robust standard deviations (of logarithms) above the median distance


@dataclass(frozen=True)
class Suspects:
    """`rows` are pictures whose label is likely wrong, the most doubtful first; `likely` the class that each may be.

    `doubt` [n] ranks all pictures: the probability that was not given to its label. Of several labels `likely` is the
    one that is missing or too much.
    """

    rows: NDArray[np.intp]
    likely: NDArray[np.intp]
    doubt: NDArray[np.float64]

    def named(self, data: Dataset) -> dict[int, str]:
        """What each doubtful label may be instead, by the row of the picture; of several labels 'no sky', say."""
        names = [data.classes[likely] for likely in self.likely]
        if data.labels.ndim == 2:
            there = data.labels[self.rows, self.likely] > 0
            names = [f"no {name}" if has else name for has, name in zip(there, names, strict=True)]
        return dict(zip(self.rows.tolist(), names, strict=True))


def suspects(chances: NDArray[np.float64], labels: Labels) -> Suspects:
    """What out-of-fold probabilities [n, classes] say of the labels: one for each picture, or several."""
    if labels.ndim == 2:
        return _of_several(chances, labels)
    found = _other(chances, labels)
    return _ranked(found >= 0, found, 1 - chances[np.arange(len(labels)), labels])


def _of_several(chances: NDArray[np.float64], labels: Labels) -> Suspects:
    """Each label is a question of its own; the picture is as doubtful as its most doubtful answer."""
    wrong = np.stack(
        [_other(np.column_stack([1 - own, own]), said) >= 0 for own, said in zip(chances.T, labels.T, strict=True)], 1
    )
    doubts = np.abs(labels - chances)
    return _ranked(np.logical_or.reduce(wrong, axis=1), np.where(wrong, doubts, -1).argmax(axis=1), doubts.max(axis=1))


def _other(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """The class that each picture likely shows instead of its label; -1 where the label is not in doubt."""
    own = chances[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=chances.shape[1])
    sums = np.bincount(labels, own, minlength=chances.shape[1])
    usual = np.where(counts >= FEW, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(chances >= usual, chances, -1)
    best = confident.argmax(axis=1)
    return np.where((confident.max(axis=1) > own) & (counts[labels] >= FEW), best, -1)


def _ranked(suspect: NDArray[np.bool_], likely: NDArray[np.intp], doubt: NDArray[np.float64]) -> Suspects:
    rows = np.flatnonzero(suspect)
    rows = rows[np.argsort(-doubt[rows], kind="stable")]
    return Suspects(rows, likely[rows], doubt)


def outliers(features: Rows, seed: int = 0) -> NDArray[np.intp]:
    """Pictures far from their nearest neighbours in feature space (Ramaswamy et al. 2000), the farthest first.

    Each is compared with up to COMPARED others, so the time grows with the pictures, not with the pairs.
    """
    rows = sketch(features)
    if len(rows) < LEAST:
        return np.zeros(0, np.intp)
    some = rows[np.random.default_rng(seed).permutation(len(rows))[:COMPARED]]
    starts = range(0, len(rows), BLOCK)
    distance = np.log(np.concatenate([_distance(rows[start : start + BLOCK], some) for start in starts]))
    middle = np.median(distance)
    far = np.flatnonzero(distance - middle > FAR * 1.4826 * np.median(np.abs(distance - middle)))
    return far[np.argsort(-distance[far], kind="stable")]


def _distance(rows: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean distance to the nearest neighbours; the nearest of all may be the picture itself, and does not count."""
    squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T
    nearest = np.sort(np.partition(squares, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1], axis=1)
    return np.sqrt(nearest[:, 1:].clip(1e-12)).mean(axis=1)
