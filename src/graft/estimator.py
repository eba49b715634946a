"""graft as a scikit-learn classifier, for cross_val_score, GridSearchCV and pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from graft.backbones import catalog
from graft.data import dataset as table
from graft.data.dataset import TRAIN, Dataset
from graft.errors import DataError
from graft.jobs.fit import fit as job
from graft_runtime.screen import MANY, listed


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of pictures: X is a sequence of paths, uint8 arrays [height, width, 3] or PIL pictures.

    All pictures given to `fit` are trained on; scoring is scikit-learn's. Parameters are those of `graft.fit`; `head`
    and `recipe` are for strategies that train, and `random_state` is the seed. Features and stored crossings are
    cached, so that in a cross validation or a search each picture goes through the frozen network once.

    >>> from sklearn.model_selection import cross_val_score
    >>> cross_val_score(ImageClassifier(strategy="probe:head=ridge"), paths, labels)  # doctest: +SKIP
    """

    def __init__(
        self,
        strategy: str = "probe",
        backbone: str = catalog.DEFAULT,
        weights: str | Path | None = None,
        offline: bool = False,
        random_state: int | np.random.RandomState | None = 0,
        head: str | None = None,
        recipe: str | None = None,
    ) -> None:
        self.strategy = strategy
        self.backbone = backbone
        self.weights = weights
        self.offline = offline
        self.random_state = random_state
        self.head = head
        self.recipe = recipe

    def fit(self, X: Sequence[Any] | NDArray[Any], y: ArrayLike | None) -> Self:
        """Train on pictures X [n] and labels y [n]; every class needs a picture that can be read."""
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"A classifier needs at least two classes. Got one class: {self.classes_[0]!r}.")
        names = tuple(map(str, self.classes_))  # distinct: values of one type, which np.unique could sort
        data = _table(X, index, names)
        self.classifier_ = job(
            data,
            strategy=self.strategy,
            head=self.head,
            recipe=self.recipe,
            backbone=self.backbone,
            weights=self.weights,
            offline=self.offline,
            seed=self._seed(),
        )
        left = self.classifier_.classes  # without the classes that lost every picture to a fault
        if lost := [str(label) for name, label in zip(names, self.classes_, strict=True) if name not in left]:
            raise DataError(f"Not one picture of {listed(lost, MANY)} can be read; every class needs one.")
        return self

    def _seed(self) -> int:
        given = self.random_state
        return given if isinstance(given, int) else int(check_random_state(given).randint(2**31))

    def predict_proba(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
        """Calibrated probabilities [n, classes], columns as in `classes_`; DataError for a picture it cannot read."""
        check_is_fitted(self)
        data = _table(X, None, ())
        chances, _, faults = self.classifier_.probabilities(data)
        if faults:
            row, reason = next(iter(faults.items()))
            raise DataError(
                f"{len(faults)} of {len(data)} pictures cannot be used, the first is {data.name(row)}: {reason}."
            )
        return chances

    def predict(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """The likeliest class of each picture, [n]."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # a row of numbers is no picture
        tags.input_tags.three_d_array = True
        return tags


def _table(X: Sequence[Any] | NDArray[Any], index: ArrayLike | None, names: tuple[str, ...]) -> Dataset:
    pictures = list(X)
    if index is not None and len(pictures) != len(np.asarray(index)):
        raise ValueError(f"X has {len(pictures)} pictures, y has {len(np.asarray(index))} labels.")
    made = table.of_any(pictures, index, names)
    return replace(made, split=np.full(len(made), TRAIN, np.int8))
