"""Shortcut detection: classes that image size or colour alone predict, whatever the image shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.image_stats import ImageStats

MAX_DEPTH, MIN_LEAF_IMAGES = 6, 5  # of the decision trees
MIN_IMAGES = 30  # below, chance alone finds too many
SUSPICIOUS_SHARE = 0.5  # of the way from chance to an accuracy of 1, above which a shortcut is suspicious


@dataclass(frozen=True)
class Shortcut:
    """Balanced accuracy on held-out images from `what` alone, and the accuracy of a guess."""

    what: str
    accuracy: float
    chance: float

    @property
    def is_suspicious(self) -> bool:
        """Whether a network could learn this instead of the subject."""
        return self.accuracy - self.chance > SUSPICIOUS_SHARE * (1 - self.chance)


def find_shortcuts(image_stats: ImageStats, labels: NDArray[np.integer], folds: NDArray[np.int8]) -> Iterator[Shortcut]:
    """Cross-validate size, border colour and mean colour as predictors of the class, over these folds."""
    if len(labels) < MIN_IMAGES or len(np.unique(labels)) < 2:
        return
    width, height = image_stats.sizes.T
    clues = {
        "size": np.column_stack([width, height, width / height, width * height]),
        "border colour": image_stats.borders,
        "mean colour": image_stats.colours,
    }
    for what, columns in clues.items():
        yield Shortcut(what, _cross_validate(columns, labels, folds), 1 / len(np.unique(labels)))


def _cross_validate(columns: NDArray[np.floating], labels: NDArray[np.integer], folds: NDArray[np.int8]) -> float:
    """Return the balanced accuracy, each image predicted by a decision tree that was grown without its fold."""
    classes, own = np.unique(labels, return_inverse=True)
    y_pred = np.empty_like(own)
    for fold in np.unique(folds):
        inside = folds != fold
        weights = 1 / np.maximum(np.bincount(own[inside], minlength=len(classes)), 1)  # all classes count alike
        y_pred[~inside] = predict_with_tree(columns[inside], own[inside], weights, columns[~inside], MAX_DEPTH)
    return float(np.mean([(y_pred[own == each] == each).mean() for each in range(len(classes))]))


def predict_with_tree(
    columns: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.float64],
    queries: NDArray[np.floating],
    depth: int,
) -> NDArray[np.intp]:
    """Grow a decision tree of at most this depth and predict the queries, [n].

    Splits minimise Gini impurity with a weight for each class. It equals scikit-learn's DecisionTreeClassifier (a test
    compares), which need not be installed for it.
    """
    shares = np.bincount(labels, minlength=len(weights)) * weights
    splits = (
        [_find_best_split(column, labels, weights, shares) for column in columns.T]
        if np.count_nonzero(shares) > 1
        else []
    )
    best = max(range(len(splits)), key=lambda at: splits[at][0], default=0)
    if depth == 0 or not splits or splits[best][0] == -np.inf:
        return np.full(len(queries), shares.argmax())
    left, below = columns[:, best] <= splits[best][1], queries[:, best] <= splits[best][1]
    y_pred = np.empty(len(queries), np.intp)
    y_pred[below] = predict_with_tree(columns[left], labels[left], weights, queries[below], depth - 1)
    y_pred[~below] = predict_with_tree(columns[~left], labels[~left], weights, queries[~below], depth - 1)
    return y_pred


def _find_best_split(
    column: NDArray[np.floating],
    labels: NDArray[np.integer],
    weights: NDArray[np.float64],
    shares: NDArray[np.float64],
) -> tuple[float, float]:
    """Return (purity, threshold) of the best split that leaves MIN_LEAF_IMAGES on each side; -inf without any.

    Purity is the sum over both sides of the squared weights of the classes divided by the side's weight. When an image
    changes sides, only one class's square changes, so no matrix of images by classes is needed.
    """
    order = np.argsort(column, kind="stable")
    values, kinds = column[order], labels[order]
    own = weights[kinds]
    before = own * _count_earlier(kinds)  # the weight of the same class to the left
    left = np.cumsum(own * (2 * before + own))
    right = (shares**2).sum() + np.cumsum(own * (2 * (before - shares[kinds]) + own))
    mass = np.cumsum(own)
    at = np.arange(MIN_LEAF_IMAGES - 1, len(values) - MIN_LEAF_IMAGES)
    at = at[values[at] < values[at + 1]]
    if not len(at):
        return -np.inf, 0.0
    purity = left[at] / mass[at] + right[at] / (mass[-1] - mass[at])
    best = at[purity.argmax()]
    return float(purity.max()), float(values[best] + values[best + 1]) / 2


def _count_earlier(kinds: NDArray[np.integer]) -> NDArray[np.intp]:
    """Count for each element the equal ones before it."""
    order = np.argsort(kinds, kind="stable")
    grouped = kinds[order]
    place = np.arange(len(kinds))
    count = np.empty(len(kinds), np.intp)
    count[order] = place - np.searchsorted(grouped, grouped)
    return count
