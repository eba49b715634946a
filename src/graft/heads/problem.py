"""Input and output of the head solvers: standardised features with labels and folds, and the solved head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graft.data import dataset as table
from graft.data.duplicates import FeatureRows, iterate_blocks, mean_and_std
from graft.heads.head import Head
from graft.metrics.ranking import mean_average_precision

# Bytes of features that a solver may hold in memory; beyond it only ridge, which streams, applies.
MAX_FEATURE_BYTES = 1 << 30


@dataclass(frozen=True)
class StandardisedFeatures:
    """Features with mean 0 and the given scale, computed on access, so that no second copy is held."""

    features: FeatureRows
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    columns: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return (self.features[rows][:, self.columns] - self.mean) * self.scale

    def drop_before(self, first: int) -> StandardisedFeatures:
        """Return the features without the columns before `first`."""
        return StandardisedFeatures(self.features, self.mean[first:], self.scale[first:], self.columns[first:])


def standardise_features(features: FeatureRows, widths: Sequence[int]) -> StandardisedFeatures:
    """Standardise the features of several layers; `widths` are those of the layers, the last one last.

    The earlier layers together get the same norm as the last, else the wider group would dominate the other
    (Evci et al. 2022, Head2Toe). bench/README.md has the gain in accuracy.
    """
    mean, spread = mean_and_std(features)
    early = sum(widths[:-1])
    weight = np.ones(sum(widths), np.float32)
    weight[:early] = np.sqrt(widths[-1] / max(early, 1))
    return StandardisedFeatures(features, mean, weight / spread, np.arange(sum(widths)))


@dataclass(frozen=True)
class Problem:
    """Standardised training features [n, d] with labels, groups and cross-validation folds.

    `groups` number the rows that must stay together: all views of an image and its near-duplicates. No group is split
    over several `folds`. `labels` are one class for each row [n], or 0 and 1 for each row and class [n, classes].
    """

    features: StandardisedFeatures
    labels: NDArray[np.integer]
    groups: NDArray[np.int64]
    folds: NDArray[np.int8]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.features.columns)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.labels.ndim == 2

    @cached_property
    def targets(self) -> NDArray[np.float32]:
        """The labels as a matrix [n, classes] of 0 and 1."""
        return table.label_matrix(self.labels, self.classes)

    @property
    def fits_in_memory(self) -> bool:
        """Whether all features fit in memory at once, as all solvers but ridge need."""
        return len(self) * self.width * 4 <= MAX_FEATURE_BYTES

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """All features [n, d] in memory."""
        matrix = np.empty((len(self), self.width), np.float32)
        for rows, block in iterate_blocks(self.features):
            matrix[rows] = block
        return matrix

    @cached_property
    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(power [r], axes [d, r]): the principal axes of the features, and the squared length along each.

        Computed from the smaller Gram matrix, features by features or images by images.
        """
        if len(self) <= self.width:
            power, left = _eigendecompose(self.matrix @ self.matrix.T)
            return power, (self.matrix.T @ left) / np.sqrt(power)
        gram = np.zeros((self.width, self.width), np.float32)
        for _, block in iterate_blocks(self.features):
            gram += block.T @ block
        return _eigendecompose(gram)


def _eigendecompose(symmetric: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy.linalg import eigh  # twice as fast as NumPy's, and here because it takes half a second to import

    values, vectors = eigh(symmetric, driver="evd")
    real = values > values[-1] * 1e-6  # below it float32 holds only rounding
    return values[real].astype(np.float64), vectors[:, real].astype(np.float64)


@dataclass(frozen=True)
class Solution:
    """A solved head with its out-of-fold logits [n, classes] on the training images.

    `strength` is the chosen penalty (or k of kNN); `loss` is the calibrated log-loss of the out-of-fold logits.
    """

    name: str
    strength: float
    head: Head
    logits: NDArray[np.float64]
    loss: float

    def accuracy(self, labels: NDArray[np.integer]) -> float:
        """Return the out-of-fold accuracy; with several labels, the share of right decisions over images and labels."""
        y_pred = self.logits.argmax(axis=1) if labels.ndim == 1 else self.logits > 0
        return float((y_pred == labels).mean())

    def metrics(self, labels: NDArray[np.integer]) -> dict[str, float]:
        """Return the out-of-fold metrics by name for a report; with several labels also mean average precision."""
        found = {"out_of_fold_loss": self.loss, "out_of_fold_accuracy": self.accuracy(labels)}
        if labels.ndim == 2:
            found["out_of_fold_mean_average_precision"] = mean_average_precision(self.logits, labels)
        return found
