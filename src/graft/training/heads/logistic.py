"""Multinomial logistic regression: all folds and the final model in one go, down a path of weaker penalties.

Reading the features is what costs, so each product with them serves every fold at once; a fold is a column of weights
that ignores its own images. Of several labels each is a regression of its own, all with one penalty. Each step of
the path starts where the last one ended. The weights are those of scikit-learn (a test compares), which would read
the features once more for each fold and penalty.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from graft.model.calibrate import temperature
from graft.progress import Watch, steps, unwatched
from graft.training.heads.compact import compact, expand
from graft.training.heads.problem import Problem, Solution
from graft.training.heads.ridge import linear_head

STRENGTHS = np.logspace(0, -3, 7)  # L2 penalty, as in: mean cross-entropy + penalty / 2 * |weights|^2
PATIENCE = 2  # steps without a gain before the path is given up
STEPS = 100  # of L-BFGS for each penalty
LOOSE_BIAS = 0.01  # the bias' share of the penalty: without any, a class that a fold lacks would run to infinity
# Of L-BFGS: how many steps it remembers, and the slope and the relative gain at which it has converged.
OPTIONS = {"maxiter": STEPS, "maxcor": 10, "gtol": 1e-4, "ftol": 1e-9}

Targets = NDArray[np.generic]  # a class for each image [n], or 0 and 1 for each image and class [n, classes]


def solve(problem: Problem, watch: Watch = unwatched) -> Solution:
    """The logistic head whose penalty gives the lowest calibrated out-of-fold log-loss."""
    # Ten thousand small products: several threads of BLAS wait for each other, and take almost three times as long.
    with threadpool_limits(1, "blas"), steps(watch, "logistic head", STEPS * len(STRENGTHS)) as step:
        return _along_the_path(problem, _Ticks(step))


class _Ticks:
    """STEPS for each penalty: those that were not needed, as its search had converged, are taken at its end."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step, self._taken = step, 0

    def one(self) -> None:
        if self._taken < STEPS:
            self._taken += 1
            self._step()

    def rest(self) -> None:
        while self._taken < STEPS:
            self.one()
        self._taken = 0


def _along_the_path(problem: Problem, ticks: _Ticks) -> Solution:
    small, axes = compact(problem)
    features = np.c_[small.matrix, np.ones(len(small), np.float32)]  # the bias is one more feature
    targets = problem.targets if problem.several else problem.labels
    shares = _shares(problem)
    weights = np.zeros((shares.shape[1], problem.classes, features.shape[1]), np.float32)
    best, worse = None, 0
    for strength in STRENGTHS:
        weights = _minimised(features, targets, shares, float(strength), weights, ticks)
        logits = _out_of_fold(features, weights, shares)
        loss = temperature(logits, problem.labels)[1]
        worse = worse + 1 if best and loss >= best[0] else 0
        if not worse:
            best = loss, float(strength), logits, weights[-1]
        if worse == PATIENCE:
            break
    assert best
    head = linear_head(small, best[3][:, :-1], best[3][:, -1])
    return Solution("logistic", best[1], expand(head, axes, problem), best[2], best[0])


def _shares(problem: Problem) -> NDArray[np.float32]:
    """How much each image counts for each model, [n, folds + 1]; the last model is fitted on all."""
    inside = np.concatenate([problem.folds[:, None] != np.unique(problem.folds), np.ones((len(problem), 1), bool)], 1)
    return (inside / np.maximum(inside.sum(axis=0), 1)).astype(np.float32)


def _minimised(
    features: NDArray[np.float32],
    targets: Targets,
    shares: NDArray[np.float32],
    strength: float,
    start: NDArray[np.float32],
    ticks: _Ticks,
) -> NDArray[np.float32]:
    """Weights [models, classes, features] of all models at this penalty."""
    from scipy.optimize import minimize

    penalty = np.full(features.shape[1], strength / 2, np.float32)
    penalty[-1] *= LOOSE_BIAS

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        ticks.one()
        weights = flat.astype(np.float32).reshape(start.shape)
        logits = _logits(features, weights)
        errors, slopes = _errors(logits, targets)
        slopes *= shares[..., None]
        pulled = weights * penalty
        gradient = (slopes.reshape(len(features), -1).T @ features).reshape(start.shape) + 2 * pulled
        total = (errors * shares).sum(dtype=np.float64) + (weights * pulled).sum(dtype=np.float64)
        return float(total), gradient.ravel().astype(np.float64)

    found = minimize(loss, start.ravel().astype(np.float64), jac=True, method="L-BFGS-B", options=OPTIONS)
    ticks.rest()
    return found.x.astype(np.float32).reshape(start.shape)


def _logits(features: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each image by each model, [n, models, classes]."""
    models, classes, width = weights.shape
    return (features @ weights.reshape(-1, width).T).reshape(len(features), models, classes)


def _errors(logits: NDArray[np.float32], targets: Targets) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cross-entropy [n, models] of logits [n, models, classes], and its slope by each of them.

    Of several labels [n, classes] it is the sum over all.
    """
    if targets.ndim == 2:
        there = targets[:, None].astype(np.float32)
        errors = (np.logaddexp(0, logits) - there * logits).sum(axis=2)
        half = np.float32(0.5)
        return errors, half * (1 + np.tanh(half * logits)) - there
    rows = np.arange(len(logits))
    above = logits - logits.max(axis=2, keepdims=True)
    shares = np.exp(above)
    total = shares.sum(axis=2, keepdims=True)
    errors = np.log(total[..., 0]) - above[rows, :, targets]
    shares /= total
    shares[rows, :, targets] -= 1
    return errors, shares


def _out_of_fold(
    features: NDArray[np.float32], weights: NDArray[np.float32], shares: NDArray[np.float32]
) -> NDArray[np.float64]:
    """The logits [n, classes] of each image by the model that was fitted without it."""
    without = (shares == 0).argmax(axis=1)
    return _logits(features, weights)[np.arange(len(features)), without].astype(np.float64)
