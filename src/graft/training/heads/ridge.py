"""Ridge regression on +-1 targets, every penalty at once, with exact leave-one-unit-out answers.

One eigendecomposition gives the solution for all penalties. What the model would say of a picture had it never seen
it, nor its other views and near-duplicates, follows in closed form: with H the hat matrix and u the rows of a unit,
the left-out answer is y_u - (I - H_uu)^-1 (y_u - yhat_u). For single rows that is the textbook leave-one-out formula.
Features are read in blocks, so the table may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.duplicates import blocks
from graft.heads.checks import shapes
from graft.heads.head import Head
from graft.model.calibrate import temperature
from graft.progress import Watch, steps, unwatched
from graft.training.heads.problem import Problem, Solution

STRENGTHS = np.logspace(-4, 2, 13)  # penalty per picture, on standardised features
AT_ONCE = 2048  # rows


@dataclass(frozen=True)
class _Basis:
    """The data in its own axes: Z = X V has columns with squared lengths `power`."""

    axes: NDArray[np.float32]  # V [d, r]
    power: NDArray[np.float64]  # [r]
    towards: NDArray[np.float64]  # Z' Y [r, classes], Y centred


def solve(problem: Problem, watch: Watch = unwatched) -> Solution:
    """The ridge head whose penalty gives the lowest calibrated leave-one-unit-out log-loss."""
    targets = 2.0 * problem.targets.astype(np.float64) - 1
    middle = targets.mean(axis=0)
    penalties, groups = STRENGTHS * len(problem), list(_alike(problem.units))
    with steps(watch, "ridge head", 1 + len(groups) + len(STRENGTHS)) as step:
        basis = _basis(problem, targets - middle)
        step()
        left_out = _left_out(problem, basis, targets - middle, penalties, groups, step) + middle
        losses = []
        for logits in left_out:
            losses.append(temperature(logits, problem.labels)[1])
            step()
    best = int(np.argmin(losses))
    weight = basis.axes @ (basis.towards / (basis.power + penalties[best])[:, None])
    head = linear_head(problem, weight.T, middle)
    return Solution("ridge", float(STRENGTHS[best]), head, left_out[best], losses[best])


def linear_head(problem: Problem, weight: NDArray[np.floating], bias: NDArray[np.floating]) -> Head:
    """A Head with this weight [classes, d] and bias [classes] on the problem's standardised features."""
    return standardising({"kind": "linear"}, {"weight": weight, "bias": bias}, problem)


def standardising(
    spec: Mapping[str, Any],
    judge: Mapping[str, NDArray[Any]],
    problem: Problem,
    axes: NDArray[np.float32] | None = None,
) -> Head:
    """A head with the problem's mean and scale in front: it takes features as they come.

    `spec` is with the problem's width and classes; `judge` are the tensors of what comes after, of any precision;
    `axes` [pca, d] come between.
    """
    whole = {**spec, "width": problem.width, "classes": problem.classes}
    tensors = {f"judge.{name}": tensor for name, tensor in judge.items()}
    tensors |= {"mean": problem.features.mean, "scale": problem.features.scale}
    tensors |= {} if axes is None else {"axes": axes}
    kinds = {name: kind for name, (kind, _) in shapes(whole).items()}
    return Head(whole, {name: tensor.astype(kinds.get(name, tensor.dtype)) for name, tensor in tensors.items()})


def _basis(problem: Problem, centred: NDArray[np.float64]) -> _Basis:
    power, axes = problem.axes
    moment = np.zeros((problem.width, problem.classes))
    for rows, block in blocks(problem.features):
        moment += block.T @ centred[rows]
    return _Basis(axes.astype(np.float32), power, axes.T @ moment)


def _left_out(
    problem: Problem,
    basis: _Basis,
    targets: NDArray[np.float64],
    penalties: NDArray[np.float64],
    groups: Sequence[NDArray[np.intp]],
    step: Callable[[], None],
) -> NDArray[np.float64]:
    """Answers [penalties, n, classes] for each unit by the model fitted without it."""
    answers = np.empty((len(penalties), *targets.shape))
    for units in groups:
        rows = problem.features[units.ravel()] @ basis.axes
        rotated = rows.reshape(*units.shape, -1).astype(np.float64)  # [units, rows in each, r]
        for at, penalty in enumerate(penalties):
            shrunk = rotated / (basis.power + penalty)
            hat = shrunk @ rotated.transpose(0, 2, 1) + 1 / len(problem)  # 1/n is the intercept's share
            residual = targets[units] - shrunk @ basis.towards
            kept = np.eye(units.shape[1]) - hat
            answers[at, units] = targets[units] - np.linalg.solve(kept, residual)
        step()
    return answers


def _alike(units: NDArray[np.int64]) -> Iterator[NDArray[np.intp]]:
    """Rows [units, size] of units that have the same size, AT_ONCE rows at a time."""
    order = np.argsort(units, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(units[order])) + 1)
    sizes = np.array([len(rows) for rows in members])
    for size in np.unique(sizes):
        same = np.stack([rows for rows in members if len(rows) == size])
        step = max(1, AT_ONCE // int(size))
        yield from (same[start : start + step] for start in range(0, len(same), step))
