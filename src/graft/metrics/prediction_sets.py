"""Prediction sets (conformal prediction): the classes that hold the true one with a promised coverage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.metrics.intervals import Interval
from graft_runtime.card import COVERAGES
from graft_runtime.decide import conformal_rank


def fit_prediction_sets(probs: NDArray[np.float64], labels: NDArray[np.integer]) -> tuple[float, ...]:
    """Return, for each of COVERAGES, the probability from which on a class is in the set (Sadinle et al. 2019).

    It is an order statistic of the probabilities of the true class, or of the least likely true label, of held-out
    images. 0, for a set of all classes, where there are too few images.
    """
    if labels.ndim == 1:
        own = probs[np.arange(len(labels)), labels]
    else:
        own = np.where(labels > 0, probs, 1.0).min(axis=1)
    ordered = np.r_[-np.sort(-own), 0.0]
    return tuple(float(ordered[min(conformal_rank(len(own), coverage), len(own) + 1) - 1]) for coverage in COVERAGES)


@dataclass(frozen=True)
class PredictionSetScore:
    """Prediction sets for the share `coverage` of images, the share `covered` in the test, and the mean set size.

    A set is never empty: it holds the likeliest class, so that the share may be higher than requested.
    """

    coverage: float
    covered: float
    interval: Interval
    mean_size: float
