"""Head selection: choose head and layers by out-of-fold log-loss, optionally after PCA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.duplicates import iterate_blocks
from graft.errors import DataError
from graft.heads import linear
from graft.heads.designs import check_head, check_head_installed
from graft.heads.head import Head, Problem, Solution, StandardisedFeatures
from graft.heads.linear import build_standardised_head, expand
from graft.metrics.calibration import calibrated_losses
from graft.progress import ProgressWrapper, no_progress

PCA_MERGEABLE = ("linear", "mlp")  # heads that begin with a matrix product, into which the axes are multiplied
MAX_LOGISTIC_COST = 1e8  # 'auto' tries logistic regression too up to so many products per step: about 10 s on two cores
MIN_Z_SCORE = 2.0  # standard errors by which all layers must be better than the last one


@dataclass(frozen=True)
class ProbeResult:
    """The chosen head, the layers that it reads, and the scores of all candidates."""

    solution: Solution
    layers: str
    problem: Problem
    candidates: list[dict[str, Any]]

    @property
    def columns(self) -> NDArray[np.intp]:
        """The columns of the cached features that the head reads."""
        return self.problem.features.columns

    @property
    def accuracy(self) -> float:
        """Out-of-fold accuracy."""
        return self.solution.accuracy(self.problem.labels)

    @property
    def metrics(self) -> dict[str, float]:
        """Out-of-fold metrics by name for a report."""
        return self.solution.metrics(self.problem.labels)


def choose_head(
    head: str, layers: str, problems: Mapping[str, Problem], pca: int = 0, watch: ProgressWrapper = no_progress
) -> ProbeResult:
    """Solve a head on the given layers; with 'auto', choose by the lowest out-of-fold log-loss.

    All layers are read where they are better than the last alone by more than MIN_Z_SCORE standard errors: within noise
    the simpler head is also better on images unlike the training ones (bench/README.md). Ridge decides between the
    layers, as it is the fastest; on these, logistic regression may then do better. With `pca` every head is solved on
    so many principal axes of each choice of layers.

    Raises UsageError for an unknown name and DataError where the features exceed what the head can hold in memory, or
    have fewer axes.
    """
    check_head_installed(head)
    check_head(head, layers, multilabel=any(problem.is_multilabel for problem in problems.values()))
    wanted = problems if layers == "auto" else {layers: problems[layers]}
    smaller = {name: reduce_with_pca(problem, pca) if pca else (problem, None) for name, problem in wanted.items()}
    if head not in ("auto", "ridge") and not all(small.fits_in_memory for small, _ in smaller.values()):
        hint = "Use head=ridge, or keep fewer features with pca=64, for instance."
        raise DataError(f"The head {head!r} needs all features in memory, and there are too many. {hint}")
    first = "ridge" if head == "auto" else head
    solved = {name: _fit_head(first, small, watch) for name, (small, _) in smaller.items()}
    name = _choose_layers(solved, problems)
    found = [*solved.items()]
    if head == "auto" and _cost(smaller[name][0]) <= MAX_LOGISTIC_COST:
        found.append((name, _fit_head("logistic", smaller[name][0], watch)))
    best = min((solution for layer, solution in found if layer == name), key=lambda solution: solution.loss)
    tried = [_describe_candidate(layer, solution, problems[layer]) for layer, solution in found]
    axes = smaller[name][1]
    if axes is not None:
        best = replace(best, head=merge_pca(best.head, axes, problems[name]))
    return ProbeResult(best, name, problems[name], tried)


def _choose_layers(solutions: Mapping[str, Solution], problems: Mapping[str, Problem]) -> str:
    """Return 'last', or 'all' where all layers are better by more than noise."""
    if len(solutions) == 1:
        return next(iter(solutions))
    return "all" if paired_z_score(solutions["all"], solutions["last"], problems["all"]) > MIN_Z_SCORE else "last"


def paired_z_score(first: Solution, second: Solution, problem: Problem) -> float:
    """Return by how many standard errors the first has the lower out-of-fold log-loss, each at its own temperature.

    Paired, and over groups: views of an image and its near-duplicates are not independent.
    """
    gain = calibrated_losses(second.logits, problem.labels) - calibrated_losses(first.logits, problem.labels)
    _, group, size = np.unique(problem.groups, return_inverse=True, return_counts=True)
    own = np.bincount(group, gain) / size
    error = own.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else 0.0
    return float(own.mean() / error) if error else 0.0


def _fit_head(name: str, problem: Problem, watch: ProgressWrapper) -> Solution:
    own = {"ridge": linear.solve_ridge, "logistic": linear.solve_logistic}
    if name in own:
        return own[name](problem, watch)
    from graft.heads import classical  # here, because scikit-learn takes over a second to import

    return classical.solve(name, problem, watch)


def _cost(problem: Problem) -> int:
    """Return the number of products of one pass over all features by a linear head."""
    return len(problem) * min(len(problem), problem.width) * problem.classes


def _describe_candidate(layers: str, solution: Solution, problem: Problem) -> dict[str, Any]:
    return {
        "head": solution.name,
        "layers": layers,
        "strength": solution.strength,
        **solution.metrics(problem.labels),
    }


# --- Principal components ---------------------------------------------------------------------------------------------


def reduce_with_pca(problem: Problem, count: int) -> tuple[Problem, NDArray[np.float32]]:
    """Project the problem onto the first `count` principal axes; return it with these axes [d, count].

    The axes are fitted on all training images, without their labels: out-of-fold predictions never use the label of
    the image itself, but its features have a small part in the axes. Test images have none. Features are read in
    blocks, and what is left of them fits in memory. The sign of an axis is such that its largest number is above 0.

    Raises DataError where the images differ along fewer axes.
    """
    power, axes = problem.axes
    if count > len(power):
        raise DataError(
            f"pca={count} asks for more axes than these training images differ along: there are {len(power)}. Choose "
            f"pca={len(power)} or less, or add images."
        )
    longest = axes[:, np.argsort(-power, kind="stable")[:count]]
    signs = np.sign(longest[np.abs(longest).argmax(axis=0), np.arange(count)])
    kept = (longest * signs).astype(np.float32)
    rows = np.empty((len(problem), count), np.float32)
    for at, block in iterate_blocks(problem.features):
        rows[at] = block @ kept
    plain = np.zeros(count, np.float32), np.ones(count, np.float32), np.arange(count)
    return replace(problem, features=StandardisedFeatures(rows, *plain)), kept


def merge_pca(head: Head, axes: NDArray[np.float32], problem: Problem) -> Head:
    """Return a head that was solved on these axes as one that takes the problem's raw features."""
    if head.spec["kind"] in PCA_MERGEABLE:
        return expand(head, axes, problem)
    return build_standardised_head(head.spec | {"pca": axes.shape[1]}, head.body_tensors, problem, axes.T)
