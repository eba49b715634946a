"""Multinomial logistic regression: all folds and the final model in one go, down a path of weaker penalties.

Reading the features is what costs, so each product with them serves every fold at once; a fold is a column of weights
that ignores its own pictures. Of several labels each is a regression of its own, all with one penalty. Each step of
the path starts where the last one ended. The weights are those of scikit-learn (a test compares), which would read
the features once more for each fold and penalty.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from graft.model.calibrate import temperature
from graft.progress import Watch, steps, unwatched
from graft.training.heads.compact import compact, expand
from graft.training.heads.problem import Problem, Solution
from graft.training.heads.ridge import linear_head

STRENGTHS = np.logspace(0, -3, 7)  # L2 penalty, as in: mean cross-entropy + penalty / 2 * |weights|^2
PATIENCE = 2  # steps without a gain before the path is given up
STEPS = 100  # of L-BFGS for each penalty
LOOSE_BIAS = 0.01  # the bias' share of the penalty: without any, a class that a fold lacks would run to infinity


def solve(problem: Problem, watch: Watch = unwatched) -> Solution:
    """The logistic head whose penalty gives the lowest calibrated out-of-fold log-loss."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # L-BFGS is ten thousand small sums: on a busy machine threads wait for each other
    try:
        with steps(watch, "logistic head", STEPS * len(STRENGTHS)) as step:
            return _along_the_path(problem, _Ticks(step))
    finally:
        torch.set_num_threads(threads)


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
    features = functional.pad(torch.from_numpy(small.matrix), (0, 1), value=1.0)  # the bias is one more feature
    targets = torch.from_numpy(problem.targets if problem.several else problem.labels)
    shares = _shares(problem)
    weights = torch.zeros(shares.shape[1], problem.classes, features.shape[1])
    best, worse = None, 0
    for strength in STRENGTHS:
        weights = _minimised(features, targets, shares, float(strength), weights, ticks)
        logits = _out_of_fold(features, weights, shares)
        loss = temperature(logits, problem.labels)[1]
        worse = worse + 1 if best and loss >= best[0] else 0
        if not worse:
            best = loss, float(strength), logits, weights[-1].numpy()
        if worse == PATIENCE:
            break
    assert best
    head = linear_head(small, best[3][:, :-1], best[3][:, -1])
    return Solution("logistic", best[1], expand(head, axes, problem), best[2], best[0])


def _shares(problem: Problem) -> Tensor:
    """How much each picture counts for each model, [n, folds + 1]; the last model is fitted on all."""
    inside = np.concatenate([problem.folds[:, None] != np.unique(problem.folds), np.ones((len(problem), 1), bool)], 1)
    return torch.from_numpy((inside / np.maximum(inside.sum(axis=0), 1)).astype(np.float32))


def _minimised(
    features: Tensor, targets: Tensor, shares: Tensor, strength: float, start: Tensor, ticks: _Ticks
) -> Tensor:
    """Weights [models, classes, features] of all models at this penalty."""
    weights = start.clone().requires_grad_()
    penalty = torch.full((features.shape[1],), strength / 2)
    penalty[-1] *= LOOSE_BIAS
    search = torch.optim.LBFGS([weights], max_iter=STEPS, tolerance_grad=1e-4, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        logits = (features @ weights.flatten(0, 1).T).unflatten(1, start.shape[:2])
        total = (_errors(logits, targets) * shares).sum() + (weights.square() * penalty).sum()
        total.backward()
        ticks.one()
        return total

    search.step(loss)  # pyright: ignore[reportArgumentType]
    ticks.rest()
    return weights.detach()


def _errors(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy [n, models] of logits [n, models, classes]; of several labels [n, classes] the sum over all."""
    if targets.ndim == 1:
        repeated = targets[:, None].expand(-1, logits.shape[1])
        return functional.cross_entropy(logits.movedim(2, 1), repeated, reduction="none")
    every = targets[:, None].expand_as(logits)
    return functional.binary_cross_entropy_with_logits(logits, every, reduction="none").sum(dim=2)


def _out_of_fold(features: Tensor, weights: Tensor, shares: Tensor) -> NDArray[np.float64]:
    """The logits [n, classes] of each picture by the model that was fitted without it."""
    without = (shares == 0).int().argmax(dim=1)
    every = (features @ weights.flatten(0, 1).T).unflatten(1, weights.shape[:2])
    return every[torch.arange(len(features)), without].double().numpy()
