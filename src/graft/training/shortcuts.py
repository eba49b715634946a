"""Shortcuts: classes that can be told by something that has nothing to do with what a picture shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.looks import Looks

DEPTH, LEAF = 6, 5  # of the trees: a few questions, each answered by several pictures
LEAST = 30  # pictures below which chance finds too much
TELLING = 0.5  # share of the way from chance to certainty from which on it is suspicious


@dataclass(frozen=True)
class Shortcut:
    """How well `what` alone tells the classes: balanced accuracy on left-out pictures, and that of a guess."""

    what: str
    accuracy: float
    chance: float

    @property
    def telling(self) -> bool:
        """Whether a network could learn this instead of what the pictures show."""
        return self.accuracy - self.chance > TELLING * (1 - self.chance)


def shortcuts(looks: Looks, labels: NDArray[np.integer], folds: NDArray[np.int8]) -> Iterator[Shortcut]:
    """Three things that may give a class away, each judged by cross-validation over these folds."""
    if len(labels) < LEAST or len(np.unique(labels)) < 2:
        return
    width, height = looks.sizes.T
    clues = {
        "size": np.column_stack([width, height, width / height, width * height]),
        "border colour": looks.borders,
        "mean colour": looks.colours,
    }
    for what, columns in clues.items():
        yield Shortcut(what, _accuracy(columns, labels, folds), 1 / len(np.unique(labels)))


def _accuracy(columns: NDArray[np.floating], labels: NDArray[np.integer], folds: NDArray[np.int8]) -> float:
    """Mean recall of the classes, each image answered by a decision tree that was grown without its fold."""
    classes, own = np.unique(labels, return_inverse=True)
    answers = np.empty_like(own)
    for fold in np.unique(folds):
        inside = folds != fold
        weights = 1 / np.maximum(np.bincount(own[inside], minlength=len(classes)), 1)  # all classes count alike
        answers[~inside] = grown(columns[inside], own[inside], weights, columns[~inside], DEPTH)
    return float(np.mean([(answers[own == each] == each).mean() for each in range(len(classes))]))


def grown(
    columns: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.float64],
    asked: NDArray[np.floating],
    depth: int,
) -> NDArray[np.intp]:
    """What a decision tree of at most this depth answers, grown by Gini's impurity with a weight for each class.

    It is the tree of scikit-learn (a test compares), which need not be installed for it.
    """
    shares = np.bincount(labels, minlength=len(weights)) * weights
    splits = [_split(column, labels, weights, shares) for column in columns.T] if np.count_nonzero(shares) > 1 else []
    best = max(range(len(splits)), key=lambda at: splits[at][0], default=0)
    if depth == 0 or not splits or splits[best][0] == -np.inf:
        return np.full(len(asked), shares.argmax())
    left, below = columns[:, best] <= splits[best][1], asked[:, best] <= splits[best][1]
    answers = np.empty(len(asked), np.intp)
    answers[below] = grown(columns[left], labels[left], weights, asked[below], depth - 1)
    answers[~below] = grown(columns[~left], labels[~left], weights, asked[~below], depth - 1)
    return answers


def _split(
    column: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.float64],
    shares: NDArray[np.float64],
) -> tuple[float, float]:
    """(purity, threshold) of the best split between two values that leaves LEAF images on each side; -inf without any.

    The purer, the larger is the sum over both sides of the squared shares of its classes over the whole share. When an
    image changes sides, one class's square changes, so no table of images by classes is needed.
    """
    order = np.argsort(column, kind="stable")
    values, kinds = column[order], labels[order]
    own = weights[kinds]
    before = own * _earlier(kinds)  # the share of the same class that lies to the left
    left = np.cumsum(own * (2 * before + own))
    right = (shares**2).sum() + np.cumsum(own * (2 * (before - shares[kinds]) + own))
    mass = np.cumsum(own)
    at = np.arange(LEAF - 1, len(values) - LEAF)
    at = at[values[at] < values[at + 1]]
    if not len(at):
        return -np.inf, 0.0
    purity = left[at] / mass[at] + right[at] / (mass[-1] - mass[at])
    best = at[purity.argmax()]
    return float(purity.max()), float(values[best] + values[best + 1]) / 2


def _earlier(kinds: NDArray[np.integer]) -> NDArray[np.intp]:
    """How many of the same kind come before each."""
    order = np.argsort(kinds, kind="stable")
    grouped = kinds[order]
    place = np.arange(len(kinds))
    count = np.empty(len(kinds), np.intp)
    count[order] = place - np.searchsorted(grouped, grouped)
    return count
