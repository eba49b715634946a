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
    """Mean recall of the classes, each picture answered by a decision tree that was grown without its fold."""
    from sklearn.metrics import balanced_accuracy_score  # here, because it takes over a second to import
    from sklearn.tree import DecisionTreeClassifier

    answers = np.empty_like(labels)
    for fold in np.unique(folds):
        tree = DecisionTreeClassifier(max_depth=DEPTH, min_samples_leaf=LEAF, class_weight="balanced", random_state=0)
        answers[folds == fold] = tree.fit(columns[folds != fold], labels[folds != fold]).predict(columns[folds == fold])
    return float(balanced_accuracy_score(labels, answers))
