"""Linear heads: ridge and logistic regression, solved on cached features.

Ridge regression on +-1 targets solves all penalties with one eigendecomposition. The prediction for an image by the
model fitted without it, its other views and its near-duplicates (a group) follows in closed form: with H the hat matrix
and g the rows of a group, it is y_g - (I - H_gg)^-1 (y_g - yhat_g). For single rows that is the textbook leave-one-out
formula. Ridge reads features in blocks, so they may be larger than memory. Logistic regression fits the models of all
folds at once by L-BFGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from graft.data.duplicates import iterate_blocks
from graft.heads.head import Head, Problem, Solution, StandardisedFeatures
from graft.heads.nodes import tensor_shapes
from graft.metrics.calibration import fit_temperature
from graft.progress import ProgressWrapper, no_progress, track_steps

RIDGE_PENALTIES = np.logspace(-4, 2, 13)  # penalty per image, on standardised features
ROWS_PER_BLOCK = 2048  # rows whose left-out predictions are computed at a time
LOGISTIC_PENALTIES = np.logspace(0, -3, 7)  # L2 penalty, as in: mean cross-entropy + penalty / 2 * |weights|^2
PATIENCE = 2  # penalties without a gain before the path is given up
STEPS = 100  # of L-BFGS for each penalty
# The bias' share of the penalty: without any, the bias of a class that a fold lacks would diverge.
BIAS_PENALTY_SHARE = 0.01
# Of L-BFGS: how many steps it remembers, and the slope and the relative gain at which it has converged.
OPTIONS = {"maxiter": STEPS, "maxcor": 10, "gtol": 1e-4, "ftol": 1e-9}

Targets = NDArray[np.generic]  # a class for each image [n], or 0 and 1 for each image and class [n, classes]


# --- Ridge regression -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Basis:
    """The features on their principal axes: Z = X V has columns with squared lengths `power`."""

    axes: NDArray[np.float32]  # V [d, r]
    power: NDArray[np.float64]  # [r]
    projected_targets: NDArray[np.float64]  # Z' Y [r, classes], Y centred


def solve_ridge(problem: Problem, watch: ProgressWrapper = no_progress) -> Solution:
    """Solve the ridge head, with the penalty of the lowest calibrated leave-one-group-out log-loss."""
    targets = 2.0 * problem.targets.astype(np.float64) - 1
    intercept = targets.mean(axis=0)
    penalties, groups = RIDGE_PENALTIES * len(problem), list(_group_by_size(problem.groups))
    with track_steps(watch, "ridge head", 1 + len(groups) + len(RIDGE_PENALTIES)) as step:
        basis = _build_basis(problem, targets - intercept)
        step()
        left_out = _predict_left_out(problem, basis, targets - intercept, penalties, groups, step) + intercept
        losses = []
        for logits in left_out:
            losses.append(fit_temperature(logits, problem.labels)[1])
            step()
    best = int(np.argmin(losses))
    weight = basis.axes @ (basis.projected_targets / (basis.power + penalties[best])[:, None])
    head = linear_head(problem, weight.T, intercept)
    return Solution("ridge", float(RIDGE_PENALTIES[best]), head, left_out[best], losses[best])


def _build_basis(problem: Problem, centred: NDArray[np.float64]) -> _Basis:
    power, axes = problem.axes
    moment = np.zeros((problem.width, problem.classes))
    for rows, block in iterate_blocks(problem.features):
        moment += block.T @ centred[rows]
    return _Basis(axes.astype(np.float32), power, axes.T @ moment)


def _predict_left_out(
    problem: Problem,
    basis: _Basis,
    targets: NDArray[np.float64],
    penalties: NDArray[np.float64],
    groups: Sequence[NDArray[np.intp]],
    step: Callable[[], None],
) -> NDArray[np.float64]:
    """Return predictions [penalties, n, classes] for each group by the model fitted without it."""
    left_out = np.empty((len(penalties), *targets.shape))
    for members in groups:
        rows = problem.features[members.ravel()] @ basis.axes
        rotated = rows.reshape(*members.shape, -1).astype(np.float64)  # [groups, rows in each, r]
        for at, penalty in enumerate(penalties):
            shrunk = rotated / (basis.power + penalty)
            hat = shrunk @ rotated.transpose(0, 2, 1) + 1 / len(problem)  # 1/n is the intercept's share
            residual = targets[members] - shrunk @ basis.projected_targets
            kept = np.eye(members.shape[1]) - hat
            left_out[at, members] = targets[members] - np.linalg.solve(kept, residual)
        step()
    return left_out


def _group_by_size(groups: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """Yield the rows [groups, size] of groups of the same size, ROWS_PER_BLOCK rows at a time."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    sizes = np.array([len(rows) for rows in members])
    for size in np.unique(sizes):
        same = np.stack([rows for rows in members if len(rows) == size])
        step = max(1, ROWS_PER_BLOCK // int(size))
        yield from (same[start : start + step] for start in range(0, len(same), step))


# --- Heads from coefficients, and projected problems ------------------------------------------------------------------


def linear_head(problem: Problem, weight: NDArray[np.floating], bias: NDArray[np.floating]) -> Head:
    """Return a head with this weight [classes, d] and bias [classes] on the problem's standardised features."""
    return build_standardised_head({"kind": "linear"}, {"weight": weight, "bias": bias}, problem)


def build_standardised_head(
    spec: Mapping[str, Any],
    judge: Mapping[str, NDArray[Any]],
    problem: Problem,
    axes: NDArray[np.float32] | None = None,
) -> Head:
    """Return a head that standardises raw features with the problem's mean and scale.

    The problem's width and classes are added to `spec`; `judge` are the tensors of the layers after standardisation, of
    any precision; `axes` [pca, d] come between.
    """
    whole = {**spec, "width": problem.width, "classes": problem.classes}
    tensors = {f"judge.{name}": tensor for name, tensor in judge.items()}
    tensors |= {"mean": problem.features.mean, "scale": problem.features.scale}
    tensors |= {} if axes is None else {"axes": axes}
    kinds = {name: kind for name, (kind, _) in tensor_shapes(whole).items()}
    return Head(whole, {name: tensor.astype(kinds.get(name, tensor.dtype)) for name, tensor in tensors.items()})


def reduce_problem(problem: Problem) -> tuple[Problem, NDArray[np.float32]]:
    """Project the problem onto the axes [d, r] that its images span; return it with these axes."""
    if len(problem) >= problem.width:
        return problem, np.eye(problem.width, dtype=np.float32)
    axes = problem.axes[1].astype(np.float32)
    width = axes.shape[1]
    plain = np.zeros(width, np.float32), np.ones(width, np.float32), np.arange(width)
    return replace(problem, features=StandardisedFeatures(problem.matrix @ axes, *plain)), axes


def expand(head: Head, axes: NDArray[np.float32], problem: Problem) -> Head:
    """Return a head on projected features as one on the problem's own: the first weight is rotated back."""
    narrow: dict[str, NDArray[Any]] = dict(head.body_tensors)
    first = next(name for name, tensor in narrow.items() if tensor.ndim == 2)
    return build_standardised_head(head.spec, narrow | {first: narrow[first] @ axes.T}, problem)


# --- Logistic regression ----------------------------------------------------------------------------------------------


def solve_logistic(problem: Problem, watch: ProgressWrapper = no_progress) -> Solution:
    """Solve the logistic head, with the penalty of the lowest calibrated out-of-fold log-loss."""
    # Ten thousand small products: several threads of BLAS wait for each other, and take almost three times as long.
    with threadpool_limits(1, "blas"), track_steps(watch, "logistic head", STEPS * len(LOGISTIC_PENALTIES)) as step:
        return _fit_regularisation_path(problem, _ProgressSteps(step))


class _ProgressSteps:
    """Report STEPS steps of progress for each penalty; those saved by early convergence are reported at its end."""

    def __init__(self, step: Callable[[], None]) -> None:
        self._step, self._taken = step, 0

    def advance(self) -> None:
        if self._taken < STEPS:
            self._taken += 1
            self._step()

    def finish(self) -> None:
        while self._taken < STEPS:
            self.advance()
        self._taken = 0


def _fit_regularisation_path(problem: Problem, progress_steps: _ProgressSteps) -> Solution:
    small, axes = reduce_problem(problem)
    features = np.c_[small.matrix, np.ones(len(small), np.float32)]  # the bias is one more feature
    targets = problem.targets if problem.is_multilabel else problem.labels
    sample_weights = _sample_weights(problem)
    weights = np.zeros((sample_weights.shape[1], problem.classes, features.shape[1]), np.float32)
    best, worse = None, 0
    for strength in LOGISTIC_PENALTIES:
        weights = _minimise_loss(features, targets, sample_weights, float(strength), weights, progress_steps)
        logits = _predict_out_of_fold(features, weights, sample_weights)
        loss = fit_temperature(logits, problem.labels)[1]
        worse = worse + 1 if best and loss >= best[0] else 0
        if not worse:
            best = loss, float(strength), logits, weights[-1]
        if worse == PATIENCE:
            break
    assert best
    head = linear_head(small, best[3][:, :-1], best[3][:, -1])
    return Solution("logistic", best[1], expand(head, axes, problem), best[2], best[0])


def _sample_weights(problem: Problem) -> NDArray[np.float32]:
    """Return the weight of each image for each model, [n, folds + 1]; the last model is fitted on all."""
    inside = np.concatenate([problem.folds[:, None] != np.unique(problem.folds), np.ones((len(problem), 1), bool)], 1)
    return (inside / np.maximum(inside.sum(axis=0), 1)).astype(np.float32)


def _minimise_loss(
    features: NDArray[np.float32],
    targets: Targets,
    sample_weights: NDArray[np.float32],
    strength: float,
    start: NDArray[np.float32],
    progress_steps: _ProgressSteps,
) -> NDArray[np.float32]:
    """Fit all models at this penalty; return their weights [models, classes, features]."""
    from scipy.optimize import minimize

    penalty = np.full(features.shape[1], strength / 2, np.float32)
    penalty[-1] *= BIAS_PENALTY_SHARE

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        progress_steps.advance()
        weights = flat.astype(np.float32).reshape(start.shape)
        logits = _compute_logits(features, weights)
        errors, slopes = _cross_entropy(logits, targets)
        slopes *= sample_weights[..., None]
        pulled = weights * penalty
        gradient = (slopes.reshape(len(features), -1).T @ features).reshape(start.shape) + 2 * pulled
        total = (errors * sample_weights).sum(dtype=np.float64) + (weights * pulled).sum(dtype=np.float64)
        return float(total), gradient.ravel().astype(np.float64)

    found = minimize(loss, start.ravel().astype(np.float64), jac=True, method="L-BFGS-B", options=OPTIONS)
    progress_steps.finish()
    return found.x.astype(np.float32).reshape(start.shape)


def _compute_logits(features: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of each image by each model, [n, models, classes]."""
    models, classes, width = weights.shape
    return (features @ weights.reshape(-1, width).T).reshape(len(features), models, classes)


def _cross_entropy(logits: NDArray[np.float32], targets: Targets) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the cross-entropy [n, models] of logits [n, models, classes], and its gradient.

    With several labels [n, classes] it is the sum over them.
    """
    if targets.ndim == 2:
        positive = targets[:, None].astype(np.float32)
        errors = (np.logaddexp(0, logits) - positive * logits).sum(axis=2)
        half = np.float32(0.5)
        return errors, half * (1 + np.tanh(half * logits)) - positive
    rows = np.arange(len(logits))
    above = logits - logits.max(axis=2, keepdims=True)
    shares = np.exp(above)
    total = shares.sum(axis=2, keepdims=True)
    errors = np.log(total[..., 0]) - above[rows, :, targets]
    shares /= total
    shares[rows, :, targets] -= 1
    return errors, shares


def _predict_out_of_fold(
    features: NDArray[np.float32], weights: NDArray[np.float32], sample_weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the logits [n, classes] of each image by the model that was fitted without it."""
    without = (sample_weights == 0).argmax(axis=1)
    return _compute_logits(features, weights)[np.arange(len(features)), without].astype(np.float64)
