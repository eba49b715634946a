"""Temperature scaling: probabilities that mean what they say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from graft_runtime.decide import probabilities

_LOWEST, _HIGHEST = np.log(1e-3), np.log(1e3)


def temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[float, float]:
    """The temperature that makes out-of-fold logits [n, classes] most likely, and the log-loss it leaves.

    Guo et al. 2017, with Platt's 1999 correction: each label counts as certain only to (n + 1) / (n + 2), so that a
    set without a single out-of-fold error does not call for infinite confidence.
    """
    smooth = np.full(logits.shape, 1 / (len(labels) + 2) / (logits.shape[1] - 1))
    smooth[np.arange(len(labels)), labels] = 1 - 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        chances = probabilities(logits, float(np.exp(log_temperature)))
        return float(-(smooth * np.log(np.maximum(chances, 1e-30))).sum(axis=1).mean())

    best = minimize_scalar(loss, bounds=(_LOWEST, _HIGHEST), method="bounded")
    return float(np.exp(best.x)), float(best.fun)
