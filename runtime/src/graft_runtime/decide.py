"""From logits to answers: calibrated probabilities, labels, prediction sets, unknown images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import COVERAGES, MULTICLASS, MULTILABEL

DEFAULT_THRESHOLD = 0.5  # the threshold of a label that has none of its own
UNKNOWN_RATE = 0.05  # of images of known classes that may be called unknown
NOT_FINITE = "the network gave no number"  # the fault of an image with outputs that are not finite


@dataclass(frozen=True)
class Answer:
    """The answer of a classifier for one image: its likeliest class and the probability of each class.

    `labels` are the predicted labels, likeliest first: one, or for multilabel those that reach their thresholds, which
    may be none. `prediction_set` holds the true class as often as the coverage says, likeliest first; None without a
    coverage. An image that is `unknown` is unlike the training data: it has no labels.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    labels: tuple[str, ...]
    prediction_set: tuple[str, ...] | None = None
    unknown: bool = False

    def __repr__(self) -> str:
        odd = ", unknown" if self.unknown else ""
        return f"<Answer {self.probability:.1%} {self.label} of {len(self.probabilities):,} classes{odd}>"


def compute_probabilities(
    logits: NDArray[np.floating],
    temperature: float,
    task: str = MULTICLASS,
    scales: Sequence[float] = (),
    shifts: Sequence[float] = (),
) -> NDArray[np.float64]:
    """Compute calibrated class probabilities [n, classes] from logits [n, classes] (Guo et al. 2017).

    They are divided by the temperature and then, where a class has a scale and a shift of its own, multiplied and
    moved by these. They sum to 1 where an image has one label; each stands for itself where it may have several.
    A row with a logit that is not finite becomes nan: `build_answers` gives None for it.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    if len(scales):
        scaled = scaled * np.asarray(scales) + np.asarray(shifts)
    good = find_finite_rows(scaled)[:, None]
    scaled = np.where(good, scaled, 0)
    if task == MULTILABEL:
        return np.where(good, np.exp(-np.logaddexp(0, -scaled)), np.nan)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.where(good, powers / powers.sum(axis=1, keepdims=True), np.nan)


def find_finite_rows(*parts: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask [n] of the rows in which all numbers of all these arrays [n, ...] are finite."""
    rows = (np.isfinite(part.reshape(len(part), math.prod(part.shape[1:]))).all(axis=1) for part in parts)
    return np.logical_and.reduce(list(rows))


def conformal_rank(count: int, share: float) -> int:
    """Return the rank, from 1, of the held-out score that a new score does not exceed with this probability.

    Split conformal prediction (Vovk et al. 2005).
    """
    return math.ceil(round((count + 1) * share, 9))


def unknown_threshold(scores: Sequence[float] | NDArray[np.floating], share: float) -> float:
    """Return the score above which an image is unknown, so that at most this share of known images is.

    `scores` are the sorted held-out scores; with fewer than 19 there is no threshold for a share of 5 %. Returns inf
    where there is no threshold.
    """
    at = conformal_rank(len(scores), 1 - share)
    return float(scores[at - 1]) if 0 < share < 1 and at <= len(scores) else math.inf


def prediction_set_threshold(thresholds: Sequence[float], coverage: float) -> float:
    """Return the least probability of a class in a prediction set of this coverage, or the next larger known one.

    `thresholds` are such probabilities, one for each of COVERAGES. Raises ValueError for a larger coverage.
    """
    if not thresholds or not 0 < coverage <= COVERAGES[-1]:
        raise ValueError(f"There are no sets of coverage {coverage}.")
    return thresholds[next(at for at, known in enumerate(COVERAGES) if coverage <= known + 1e-9)]


def build_answers(
    probs: NDArray[np.float64],
    classes: Sequence[str],
    task: str = MULTICLASS,
    thresholds: Sequence[float] = (),
    set_threshold: float | None = None,
    unknown: NDArray[np.bool_] | None = None,
) -> Iterator[Answer | None]:
    """Yield an Answer for each row of probabilities [n, classes]; None for a row that is not finite: see NOT_FINITE.

    `thresholds` [classes] are for multilabel; `set_threshold` is the probability from which on a class is in the
    prediction set; `unknown` [n] is a mask of the unknown images.
    """
    limits = np.asarray(thresholds or [DEFAULT_THRESHOLD] * len(classes))
    unknown_rows = np.zeros(len(probs), bool) if unknown is None else unknown
    for row, is_unknown, good in zip(probs, unknown_rows.tolist(), find_finite_rows(probs).tolist(), strict=True):
        if not good:
            yield None
            continue
        order = np.argsort(-row, kind="stable")
        label_indices = order[row[order] >= limits[order]] if task == MULTILABEL else order[:1]
        best = int(order[0])
        yield Answer(
            label=classes[best],
            probability=float(row[best]),
            probabilities=dict(zip(classes, row.tolist(), strict=True)),
            labels=() if is_unknown else tuple(str(classes[at]) for at in label_indices),
            prediction_set=None
            if set_threshold is None
            else tuple(str(classes[at]) for at in order[: prediction_set_size(row, set_threshold)]),
            unknown=is_unknown,
        )


def prediction_set_size(row: NDArray[np.float64], threshold: float) -> int:
    """Return the size of a prediction set: the classes that reach the threshold, and at least one."""
    return max(1, int((row >= threshold).sum()))
