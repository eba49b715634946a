"""Calibration of probabilities: temperature and vector scaling, prediction sets, thresholds, reliability.

A threshold is the probability from which on a label is predicted; for a prediction set, from which on a class is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.classes import join_names
from graft.metrics.intervals import Interval
from graft.metrics.unknown import Shift
from graft_runtime.card import COVERAGES, MULTICLASS, MULTILABEL, RANGES
from graft_runtime.decide import DEFAULT_THRESHOLD, compute_probabilities, conformal_rank

FULL_WEIGHT_IMAGES = 10  # images of a class below which its threshold is shrunk towards that of all classes together
MIN_SCALED_IMAGES = 20  # images for each class, on average, from which on one may have a scale and a shift of its own
MIN_STANDARD_ERRORS = 2.0  # standard errors by which class-wise calibration must be better than a temperature
MAX_CELLS = 5_000_000  # images x classes from which on a scale for each class takes minutes to find
BINS = 15
FEW, MIN_CLASS_IMAGES = 100, 10  # test images below which a score, or that of a class, says little
MAX_NAMED = 5  # classes in one sentence
_LOWEST, _HIGHEST = np.log(1e-3), np.log(1e3)  # bounds of the search for the log of the temperature


@dataclass(frozen=True)
class Calibration:
    """From logits to probabilities. `scales` and `shifts` [classes] are empty where a temperature alone serves as well.

    `sets` are the thresholds of prediction sets; `losses` the cross-validated log-losses of the methods compared.
    """

    temperature: float
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    sets: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()

    def predict_probs(self, logits: NDArray[np.floating], task: str) -> NDArray[np.float64]:
        """Return probabilities [n, classes]."""
        return compute_probabilities(logits, self.temperature, task, self.scales, self.shifts)


def calibrate(logits: NDArray[np.floating], labels: NDArray[np.integer], folds: NDArray[np.integer]) -> Calibration:
    """Fit a calibration on out-of-fold logits [n, classes]; `folds` [n] keep near-duplicates together.

    Each class gets a scale and a shift of its own only where there are enough images and, cross-validated, that lowers
    the log-loss clearly. Prediction sets are fitted on probabilities that were calibrated on other folds.
    """
    best_temperature, _ = fit_temperature(logits, labels)
    task = MULTICLASS if labels.ndim == 1 else MULTILABEL
    has_folds = len(np.unique(folds)) > 1 and logits.size <= MAX_CELLS
    enough = len(logits) >= MIN_SCALED_IMAGES * logits.shape[1]
    ways = (_fit_temperature_only, _fit_vector_scaling) if has_folds and enough else (_fit_temperature_only,)
    heldout_probs = [
        _cross_validate(way, logits, labels, folds, task)
        if has_folds
        else way(logits, labels).predict_probs(logits, task)
        for way in ways
    ]
    losses = [_log_losses(probs, labels) for probs in heldout_probs]
    gain = losses[0] - losses[-1]
    own = bool(gain.mean() > MIN_STANDARD_ERRORS * gain.std() / np.sqrt(len(gain)))
    best = ways[-1](logits, labels) if own else Calibration(best_temperature)
    sets = fit_prediction_sets(heldout_probs[-1 if own else 0], labels)
    return Calibration(best_temperature, best.scales, best.shifts, sets, tuple(float(each.mean()) for each in losses))


def _cross_validate(
    way: Fitter, logits: NDArray[np.floating], labels: NDArray[np.integer], folds: NDArray[np.integer], task: str
) -> NDArray[np.float64]:
    """Return the probabilities of each fold by the calibration fitted on the others."""
    probs = np.empty(logits.shape)
    for fold in np.unique(folds):
        out = folds == fold
        probs[out] = way(logits[~out], labels[~out]).predict_probs(logits[out], task)
    return probs


def _log_losses(probs: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the log-loss of each image, [n]; with several labels the mean over them."""
    if labels.ndim == 1:
        return -np.log(np.maximum(probs[np.arange(len(labels)), labels], 1e-15))
    return -np.log(np.maximum(np.where(labels > 0, probs, 1 - probs), 1e-15)).mean(axis=1)


def _fit_temperature_only(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Calibration:
    return Calibration(fit_temperature(logits, labels)[0])


def _fit_vector_scaling(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Calibration:
    """Fit vector scaling (Guo et al. 2017), for several labels Platt scaling (1999), shrunk towards the temperature."""
    best_temperature, classes = fit_temperature(logits, labels)[0], logits.shape[1]
    scaled, wanted = np.asarray(logits, np.float64) / best_temperature, _smooth_labels(logits, labels)
    task = MULTICLASS if labels.ndim == 1 else MULTILABEL
    neutral = np.repeat([1.0, 0.0], classes)

    def loss(both: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scales, shifts = both[:classes], both[classes:]
        moved = scaled * scales + shifts
        probs = compute_probabilities(moved, 1.0, task)
        whole = np.logaddexp.reduce(moved, axis=1).sum() if task == MULTICLASS else np.logaddexp(0, moved).sum()
        error = probs - wanted
        prior = both - neutral
        slope = np.r_[(error * scaled).sum(axis=0), error.sum(axis=0)] + prior
        return float(whole - (wanted * moved).sum() + (prior**2).sum() / 2), slope

    from scipy.optimize import minimize  # here, because it takes half a second to import

    found = minimize(loss, neutral, jac=True, method="L-BFGS-B").x
    if found[:classes].min() < RANGES["scales"][0]:  # a scale of 0 or less inverts a class's logits: noise
        return Calibration(best_temperature)
    return Calibration(best_temperature, tuple(found[:classes].tolist()), tuple(found[classes:].tolist()))


Fitter = Callable[[NDArray[np.floating], NDArray[np.integer]], Calibration]


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[float, float]:
    """Return the temperature that maximises the likelihood of out-of-fold logits [n, classes], and its log-loss.

    Guo et al. 2017, with Platt's 1999 correction: each label counts as certain only to (n + 1) / (n + 2), so that a
    set without a single out-of-fold error does not lead to infinite confidence. With several labels [n, classes] the
    loss is the mean over all of them.
    """
    smooth = _smooth_labels(logits, labels)
    losses = _softmax_losses if labels.ndim == 1 else _binary_losses

    def loss(log_temperature: float) -> float:
        return float(losses(logits, smooth, float(np.exp(log_temperature))).mean())

    from scipy.optimize import minimize_scalar  # here, because it takes half a second to import

    best = minimize_scalar(loss, bounds=(_LOWEST, _HIGHEST), method="bounded")
    return float(np.exp(best.x)), float(best.fun)


def calibrated_losses(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the log-loss [n] of each image at its best temperature; the mean is that of `fit_temperature`."""
    losses = _softmax_losses if labels.ndim == 1 else _binary_losses
    return losses(logits, _smooth_labels(logits, labels), fit_temperature(logits, labels)[0])


def _smooth_labels(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the targets [n, classes], smoothed by Platt's correction."""
    doubt = 1 / (len(labels) + 2)
    return (
        _smooth_single_label(logits, labels, doubt)
        if labels.ndim == 1
        else labels.astype(float) * (1 - 2 * doubt) + doubt
    )


def _smooth_single_label(
    logits: NDArray[np.floating], labels: NDArray[np.integer], doubt: float
) -> NDArray[np.float64]:
    smooth = np.full(logits.shape, doubt / (logits.shape[1] - 1))
    smooth[np.arange(len(labels)), labels] = 1 - doubt
    return smooth


def _softmax_losses(
    logits: NDArray[np.floating], smooth: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    probs = compute_probabilities(logits, temperature)
    return -(smooth * np.log(np.maximum(probs, 1e-30))).sum(axis=1)


def _binary_losses(
    logits: NDArray[np.floating], smooth: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    scaled = np.asarray(logits, np.float64) / temperature
    return (np.logaddexp(0, scaled) - smooth * scaled).mean(axis=1)


# --- Thresholds of labels ---------------------------------------------------------------------------------------------


def fit_thresholds(probs: NDArray[np.float64], labels: NDArray[np.integer]) -> tuple[float, ...]:
    """Return, for each class, the threshold of the highest F1 on out-of-fold probabilities.

    Below FULL_WEIGHT_IMAGES images of a class its threshold is shrunk towards the one that is best for all classes
    together.
    """
    common = _best_threshold(probs.ravel(), labels.ravel())
    found = []
    for own, y_true in zip(probs.T, labels.T, strict=True):
        trust = min(1.0, int(y_true.sum()) / FULL_WEIGHT_IMAGES)
        found.append(trust * _best_threshold(own, y_true) + (1 - trust) * common)
    return tuple(found)


def _best_threshold(probs: NDArray[np.float64], y_true: NDArray[np.integer]) -> float:
    """Return the threshold of the highest F1, midway between two probabilities; DEFAULT_THRESHOLD without positives."""
    if not y_true.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probs, kind="stable")
    ordered = np.r_[probs[order], 0.0]
    hits = np.cumsum(y_true[order], dtype=np.float64)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    best = int(np.where(ordered[:-1] > ordered[1:], f1, -1).argmax())  # never between equal probabilities
    return float(ordered[best : best + 2].mean())


# --- Reliability and caveats ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReliabilityBin:
    """Predictions with a probability from `low` on and below `high`: mean confidence, and share that is right.

    `confidence` and `right` are None where there is no such prediction.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    right: float | None


@dataclass(frozen=True)
class Rejection:
    """Share of the test images, all of known classes, that is rejected as unknown, where `rate` was requested."""

    rate: float
    rejected: float
    interval: Interval


@dataclass(frozen=True)
class UnknownClassScore:
    """Test images of classes that the classifier does not know, counted by class.

    `accuracy` counts them as wrong; `rejected` is the share of them that is rejected as unknown, None where the
    classifier has no such threshold.
    """

    classes: dict[str, int]
    accuracy: float
    interval: Interval
    rejected: float | None = None


@dataclass(frozen=True)
class Trust:
    """What to know before trusting a score: reliability, prediction sets, unknowns, leaks and shift.

    `before` and `after` are the reliability without and with calibration; `seen` counts the test images trained on.
    `unlabelled` images were left out, as their label is missing; `shift` is the difference from the training images.
    """

    before: tuple[ReliabilityBin, ...] = ()
    after: tuple[ReliabilityBin, ...] = ()
    sets: PredictionSetScore | None = None
    unknown: Rejection | None = None
    strangers: UnknownClassScore | None = None
    seen: int = 0
    unlabelled: int = 0
    shift: Shift | None = None


def reliability_bins(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS
) -> tuple[ReliabilityBin, ...]:
    """Return the predictions [n] in bins of confidence, with the share of each bin that is right."""
    which = bin_indices(confidence, bins)
    counts = np.bincount(which, minlength=bins)
    sure, hits = (np.bincount(which, values, minlength=bins) for values in (confidence, right))
    return tuple(
        ReliabilityBin(
            at / bins, (at + 1) / bins, n, float(sure[at]) / n if n else None, float(hits[at]) / n if n else None
        )
        for at, n in enumerate(counts.tolist())
    )


def bin_indices(confidence: NDArray[np.floating], bins: int = BINS) -> NDArray[np.intp]:
    """Return the bin of each confidence, in equal steps from 0 to 1."""
    return np.minimum((confidence * bins).astype(np.intp), bins - 1)


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Return the expected calibration error, 0 to 1 (Naeini et al. 2015)."""
    gaps = np.bincount(bin_indices(confidence, bins), confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def build_caveats(count: int, of_classes: Mapping[str, int], trust: Trust) -> tuple[str, ...]:
    """Return caveats about a score of `count` test images, as sentences."""
    caveats = [*(trust.shift.score_caveats() if trust.shift else ())]
    caveats += [f"{count} test images are few: the true figure may be anywhere in that range"] * (count < FEW)
    none = [name for name, own in of_classes.items() if not own]
    few = [name for name, own in of_classes.items() if 0 < own < MIN_CLASS_IMAGES]
    if none:
        caveats.append(
            f"no test image of {join_names(none, MAX_NAMED)}: nothing is known about how well these are told"
        )
    if few:
        caveats.append(
            f"fewer than {MIN_CLASS_IMAGES} test images of {join_names(few, MAX_NAMED)}: "
            "the figures of these say little"
        )
    if trust.strangers:
        own, total = trust.strangers, sum(trust.strangers.classes.values())
        caveats.append(
            f"{total:,} more images show what the classifier does not know "
            f"({join_names(list(own.classes), MAX_NAMED)}): with "
            f"these counted as wrong {own.accuracy:.1%} are right"
        )
    if trust.unlabelled:
        caveats.append(f"{trust.unlabelled:,} images without a label are not counted")
    if trust.seen:  # last, beside what else `graft fit` says of leaks
        caveats.append(f"{trust.seen:,} of these images were trained on: the score flatters. Use images of their own")
    return tuple(caveats)


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
