"""What a head is solved from, and what a solver gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from graft.data import dataset as table
from graft.data.duplicates import Rows, blocks, moments
from graft.heads.head import Head
from graft.model.ranking import mean_average_precision

TOP = 1 << 30  # bytes of features that a solver may hold in memory; beyond it only ridge, which streams, applies


@dataclass(frozen=True)
class Standardised:
    """Features with mean 0 and the given scale, made when asked for: never a second copy of the table."""

    features: Rows
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    columns: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return (self.features[rows][:, self.columns] - self.mean) * self.scale

    def only(self, first: int) -> Standardised:
        """The same without the columns before this one."""
        return Standardised(self.features, self.mean[first:], self.scale[first:], self.columns[first:])


def standardised(features: Rows, widths: Sequence[int]) -> Standardised:
    """Features of several layers made comparable; `widths` are those of the layers, the last one last.

    The earlier layers together get the same norm as the last, else the wider group would drown the other
    (Evci et al. 2022, Head2Toe). bench/README.md has what it is worth.
    """
    mean, spread = moments(features)
    early = sum(widths[:-1])
    weight = np.ones(sum(widths), np.float32)
    weight[:early] = np.sqrt(widths[-1] / max(early, 1))
    return Standardised(features, mean, weight / spread, np.arange(sum(widths)))


@dataclass(frozen=True)
class Problem:
    """Standardised training features [n, d] and everything an honest solver needs beside them.

    `units` number what must not be torn apart: all views of a picture and its near-duplicates. `folds` respect them.
    `labels` are one class for each row [n], or 0 and 1 for each row and class [n, classes].
    """

    features: Standardised
    labels: NDArray[np.integer]
    units: NDArray[np.int64]
    folds: NDArray[np.int8]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """How many features there are."""
        return len(self.features.columns)

    @property
    def several(self) -> bool:
        """Whether a picture may have several labels, or none."""
        return self.labels.ndim == 2

    @cached_property
    def targets(self) -> NDArray[np.float32]:
        """The labels as a matrix [n, classes] of 0 and 1."""
        return table.targets(self.labels, self.classes)

    @property
    def fits_in_memory(self) -> bool:
        """Whether solvers that need all features at once may be tried."""
        return len(self) * self.width * 4 <= TOP

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """All features [n, d] in memory."""
        whole = np.empty((len(self), self.width), np.float32)
        for rows, block in blocks(self.features):
            whole[rows] = block
        return whole

    @cached_property
    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(power [r], axes [d, r]): the directions that the pictures span, and the squared length along each.

        From the smaller of the two tables of products, features by features or pictures by pictures.
        """
        if len(self) <= self.width:
            power, left = _eigen(self.matrix @ self.matrix.T)
            return power, (self.matrix.T @ left) / np.sqrt(power)
        gram = np.zeros((self.width, self.width), np.float32)
        for _, block in blocks(self.features):
            gram += block.T @ block
        return _eigen(gram)


def _eigen(symmetric: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy.linalg import eigh  # twice as fast as NumPy's, and here because it takes half a second to import

    values, vectors = eigh(symmetric, driver="evd")
    real = values > values[-1] * 1e-6  # below it float32 holds only rounding
    return values[real].astype(np.float64), vectors[:, real].astype(np.float64)


@dataclass(frozen=True)
class Solution:
    """A solved head, and the logits [n, classes] that it gives for training pictures it was not fitted on.

    `strength` is the chosen penalty (or k of kNN); `loss` is the calibrated log-loss of the out-of-fold logits.
    """

    name: str
    strength: float
    head: Head
    logits: NDArray[np.float64]
    loss: float

    def accuracy(self, labels: NDArray[np.integer]) -> float:
        """Share of out-of-fold answers that are right; of several labels, each is an answer of its own."""
        answers = self.logits.argmax(axis=1) if labels.ndim == 1 else self.logits > 0
        return float((answers == labels).mean())

    def figures(self, labels: NDArray[np.integer]) -> dict[str, float]:
        """What the out-of-fold answers are worth, by names for a report; several labels also have a ranking."""
        found = {"out_of_fold_loss": self.loss, "out_of_fold_accuracy": self.accuracy(labels)}
        if labels.ndim == 2:
            found["out_of_fold_mean_average_precision"] = mean_average_precision(self.logits, labels)
        return found
