"""Scikit-learn estimator, for cross_val_score, GridSearchCV and pipelines."""

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
from graft_runtime.formatting import MAX_NAMES, join_names


class ImageClassifier(ClassifierMixin, BaseEstimator):
    """Image classifier with scikit-learn's interface.

    X is a sequence of paths, uint8 arrays [height, width, 3] or PIL images. `fit` trains on all of them; scoring is
    scikit-learn's. Parameters are those of `graft.fit`; `head` and `recipe` are for strategies that train, and
    `random_state` is the seed. Features and stored activations are cached, so that in a cross-validation or a search
    each image goes through the frozen network once.

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
        """Train on images X [n] and labels y [n]; every class needs an image that can be read."""
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        self.classes_, index = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"A classifier needs at least two classes. Got one class: {self.classes_[0]!r}.")
        names = tuple(map(str, self.classes_))  # distinct: values of one type, which np.unique could sort
        data = _build_dataset(X, index, names)
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
        fitted = self.classifier_.classes  # without the classes of which no image could be read
        if lost := [str(label) for name, label in zip(names, self.classes_, strict=True) if name not in fitted]:
            raise DataError(f"Not one image of {join_names(lost, MAX_NAMES)} can be read; every class needs one.")
        return self

    def _seed(self) -> int:
        state = self.random_state
        return state if isinstance(state, int) else int(check_random_state(state).randint(2**31))

    def predict_proba(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
        """Return calibrated probabilities [n, classes], columns as in `classes_`.

        Raises DataError for an image that cannot be read.
        """
        check_is_fitted(self)
        data = _build_dataset(X, None, ())
        probs, _, faults = self.classifier_.predict_probs(data)
        if faults:
            row, reason = next(iter(faults.items()))
            raise DataError(
                f"{len(faults)} of {len(data)} images cannot be used, the first is {data.name(row)}: {reason}."
            )
        return probs

    def predict(self, X: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
        """Return the most probable class of each image, [n]."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False  # a row of numbers is not an image
        tags.input_tags.three_d_array = True
        return tags


def _build_dataset(X: Sequence[Any] | NDArray[Any], index: ArrayLike | None, names: tuple[str, ...]) -> Dataset:
    """Return the images as a data set that is all training part: scikit-learn has split it already."""
    images = list(X)
    if index is not None and len(images) != len(np.asarray(index)):
        raise ValueError(f"X has {len(images)} images, y has {len(np.asarray(index))} labels.")
    data = table.from_images(images, index, names)
    return replace(data, split=np.full(len(data), TRAIN, np.int8))
