"""Probabilities that mean what they say: a temperature, and where it helps a scale and a shift for each class.

Thresholds: from which probability on a label is given. Sets: from which on a class is in a prediction set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import COVERAGES, MULTICLASS, MULTILABEL, RANGES
from graft_runtime.decide import UNSURE, probabilities, rank

FEW = 10  # pictures of a class below which its threshold is drawn towards that of all classes together
ENOUGH = 20  # pictures for each class, on average, from which on one may have a scale and a shift of its own
CLEAR = 2.0  # standard errors by which class-wise calibration must be better than a temperature
CELLS = 5_000_000  # pictures x classes from which on a scale for each class takes minutes to find
_LOWEST, _HIGHEST = np.log(1e-3), np.log(1e3)


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of logits. `loss` is the log-loss of both ways, each on folds that it was not fitted on.

    `scales` and `shifts` [classes] are empty where the temperature alone serves as well.
    """

    temperature: float
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    sets: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()

    def chances(self, logits: NDArray[np.floating], task: str) -> NDArray[np.float64]:
        """Probabilities [n, classes]."""
        return probabilities(logits, self.temperature, task, self.scales, self.shifts)


def calibrate(logits: NDArray[np.floating], labels: NDArray[np.integer], folds: NDArray[np.integer]) -> Calibration:
    """From out-of-fold logits [n, classes]; `folds` [n] keep near-duplicates together.

    Each class gets a scale and a shift of its own only where there are pictures enough and, on folds left out, that
    lowers the log-loss clearly. The sets come from probabilities that were calibrated on other folds.
    """
    heat, _ = temperature(logits, labels)
    task = MULTICLASS if labels.ndim == 1 else MULTILABEL
    several = len(np.unique(folds)) > 1 and logits.size <= CELLS
    enough = len(logits) >= ENOUGH * logits.shape[1]
    ways = (_by_temperature, _by_class) if several and enough else (_by_temperature,)
    crossed = [
        _crossed(way, logits, labels, folds, task) if several else way(logits, labels).chances(logits, task)
        for way in ways
    ]
    losses = [_each_loss(chances, labels) for chances in crossed]
    gain = losses[0] - losses[-1]
    own = bool(gain.mean() > CLEAR * gain.std() / np.sqrt(len(gain)))
    best = ways[-1](logits, labels) if own else Calibration(heat)
    sets = prediction_sets(crossed[-1 if own else 0], labels)
    return Calibration(heat, best.scales, best.shifts, sets, tuple(float(each.mean()) for each in losses))


def _crossed(
    way: Way, logits: NDArray[np.floating], labels: NDArray[np.integer], folds: NDArray[np.integer], task: str
) -> NDArray[np.float64]:
    """Probabilities of each fold by what was found on the others."""
    chances = np.empty(logits.shape)
    for fold in np.unique(folds):
        out = folds == fold
        chances[out] = way(logits[~out], labels[~out]).chances(logits[out], task)
    return chances


def _each_loss(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """The log-loss of each picture, [n]; of several labels the mean over them."""
    if labels.ndim == 1:
        return -np.log(np.maximum(chances[np.arange(len(labels)), labels], 1e-15))
    return -np.log(np.maximum(np.where(labels > 0, chances, 1 - chances), 1e-15)).mean(axis=1)


def _by_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Calibration:
    return Calibration(temperature(logits, labels)[0])


def _by_class(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> Calibration:
    """Vector scaling (Guo et al. 2017), for several labels Platt's (1999), drawn towards the temperature alone."""
    heat, classes = temperature(logits, labels)[0], logits.shape[1]
    scaled, wanted = np.asarray(logits, np.float64) / heat, _smoothed(logits, labels)
    task = MULTICLASS if labels.ndim == 1 else MULTILABEL
    neutral = np.repeat([1.0, 0.0], classes)

    def loss(both: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scales, shifts = both[:classes], both[classes:]
        moved = scaled * scales + shifts
        chances = probabilities(moved, 1.0, task)
        whole = np.logaddexp.reduce(moved, axis=1).sum() if task == MULTICLASS else np.logaddexp(0, moved).sum()
        error = chances - wanted
        prior = both - neutral
        slope = np.r_[(error * scaled).sum(axis=0), error.sum(axis=0)] + prior
        return float(whole - (wanted * moved).sum() + (prior**2).sum() / 2), slope

    from scipy.optimize import minimize  # here, because it takes half a second to import

    found = minimize(loss, neutral, jac=True, method="L-BFGS-B").x
    if found[:classes].min() < RANGES["scales"][0]:  # it would turn a class's logits round: that is noise
        return Calibration(heat)
    return Calibration(heat, tuple(found[:classes].tolist()), tuple(found[classes:].tolist()))


Way = Callable[[NDArray[np.floating], NDArray[np.integer]], Calibration]


def prediction_sets(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> tuple[float, ...]:
    """For each of COVERAGES the least probability of a class in a set that holds the truth so often (Sadinle 2019).

    By order statistics of what held-out pictures give to their own class, or to the least likely of their labels. 0,
    for a set of all classes, where there are too few pictures to say.
    """
    if labels.ndim == 1:
        own = chances[np.arange(len(labels)), labels]
    else:
        own = np.where(labels > 0, chances, 1.0).min(axis=1)
    ordered = np.r_[-np.sort(-own), 0.0]
    return tuple(float(ordered[min(rank(len(own), coverage), len(own) + 1) - 1]) for coverage in COVERAGES)


def temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[float, float]:
    """The temperature that makes out-of-fold logits [n, classes] most likely, and the log-loss it leaves.

    Guo et al. 2017, with Platt's 1999 correction: each label counts as certain only to (n + 1) / (n + 2), so that a
    set without a single out-of-fold error does not call for infinite confidence. Of several labels [n, classes] each
    is a question of its own, and the loss is the mean over all of them.
    """
    smooth = _smoothed(logits, labels)
    judge = _losses if labels.ndim == 1 else _binary_losses

    def loss(log_temperature: float) -> float:
        return float(judge(logits, smooth, float(np.exp(log_temperature))).mean())

    from scipy.optimize import minimize_scalar  # as above

    best = minimize_scalar(loss, bounds=(_LOWEST, _HIGHEST), method="bounded")
    return float(np.exp(best.x)), float(best.fun)


def tempered(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """The log-loss [n] of each image at that temperature; their mean is the one that `temperature` leaves."""
    judge = _losses if labels.ndim == 1 else _binary_losses
    return judge(logits, _smoothed(logits, labels), temperature(logits, labels)[0])


def _smoothed(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """What the probabilities ought to be [n, classes], none of them certain."""
    doubt = 1 / (len(labels) + 2)
    return _single(logits, labels, doubt) if labels.ndim == 1 else labels.astype(float) * (1 - 2 * doubt) + doubt


def _single(logits: NDArray[np.floating], labels: NDArray[np.integer], doubt: float) -> NDArray[np.float64]:
    smooth = np.full(logits.shape, doubt / (logits.shape[1] - 1))
    smooth[np.arange(len(labels)), labels] = 1 - doubt
    return smooth


def _losses(logits: NDArray[np.floating], smooth: NDArray[np.float64], heat: float) -> NDArray[np.float64]:
    chances = probabilities(logits, heat)
    return -(smooth * np.log(np.maximum(chances, 1e-30))).sum(axis=1)


def _binary_losses(logits: NDArray[np.floating], smooth: NDArray[np.float64], heat: float) -> NDArray[np.float64]:
    scaled = np.asarray(logits, np.float64) / heat
    return (np.logaddexp(0, scaled) - smooth * scaled).mean(axis=1)


def thresholds(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> tuple[float, ...]:
    """For each class the probability from which on to give its label: where F1 on out-of-fold answers is highest.

    A class of fewer than FEW pictures has too little to choose by: its threshold lies the nearer to the one that is
    best for all classes together, the fewer it has.
    """
    common = _best_threshold(chances.ravel(), labels.ravel())
    found = []
    for own, there in zip(chances.T, labels.T, strict=True):
        trust = min(1.0, int(there.sum()) / FEW)
        found.append(trust * _best_threshold(own, there) + (1 - trust) * common)
    return tuple(found)


def _best_threshold(chances: NDArray[np.float64], there: NDArray[np.integer]) -> float:
    """Between the two probabilities where a cut gives the highest F1; UNSURE where no picture has the label."""
    if not there.any():
        return UNSURE
    order = np.argsort(-chances, kind="stable")
    ordered = np.r_[chances[order], 0.0]
    hits = np.cumsum(there[order], dtype=np.float64)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    best = int(np.where(ordered[:-1] > ordered[1:], f1, -1).argmax())  # never between equal probabilities
    return float(ordered[best : best + 2].mean())
