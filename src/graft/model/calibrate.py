"""Temperature scaling: probabilities that mean what they say. Thresholds: from which of them on a label is given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from graft_runtime.decide import UNSURE, probabilities

FEW = 10  # pictures of a class below which its threshold is drawn towards that of all classes together
_LOWEST, _HIGHEST = np.log(1e-3), np.log(1e3)


def temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[float, float]:
    """The temperature that makes out-of-fold logits [n, classes] most likely, and the log-loss it leaves.

    Guo et al. 2017, with Platt's 1999 correction: each label counts as certain only to (n + 1) / (n + 2), so that a
    set without a single out-of-fold error does not call for infinite confidence. Of several labels [n, classes] each
    is a question of its own, and the loss is the mean over all of them.
    """
    doubt = 1 / (len(labels) + 2)
    smooth = _single(logits, labels, doubt) if labels.ndim == 1 else labels.astype(float) * (1 - 2 * doubt) + doubt
    judge = _loss if labels.ndim == 1 else _binary_loss

    def loss(log_temperature: float) -> float:
        return judge(logits, smooth, float(np.exp(log_temperature)))

    best = minimize_scalar(loss, bounds=(_LOWEST, _HIGHEST), method="bounded")
    return float(np.exp(best.x)), float(best.fun)


def _single(logits: NDArray[np.floating], labels: NDArray[np.integer], doubt: float) -> NDArray[np.float64]:
    smooth = np.full(logits.shape, doubt / (logits.shape[1] - 1))
    smooth[np.arange(len(labels)), labels] = 1 - doubt
    return smooth


def _loss(logits: NDArray[np.floating], smooth: NDArray[np.float64], heat: float) -> float:
    chances = probabilities(logits, heat)
    return float(-(smooth * np.log(np.maximum(chances, 1e-30))).sum(axis=1).mean())


def _binary_loss(logits: NDArray[np.floating], smooth: NDArray[np.float64], heat: float) -> float:
    scaled = np.asarray(logits, np.float64) / heat
    return float((np.logaddexp(0, scaled) - smooth * scaled).mean())


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
