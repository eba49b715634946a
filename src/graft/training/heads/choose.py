"""The best head for the features at hand, by out-of-fold evidence alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.errors import DataError
from graft.model.calibrate import tempered
from graft.progress import Watch, unwatched
from graft.training.heads import logistic, ridge
from graft.training.heads.names import check, check_installed
from graft.training.heads.pca import reduced, whole
from graft.training.heads.problem import Problem, Solution

REFINED = 1e8  # 'auto' tries logistic regression too up to so many products per step: about 10 s on two cores
LEAD = 2.0  # standard errors by which all layers must be better than the last one


@dataclass(frozen=True)
class Chosen:
    """The winning head, the layers that it reads, and what else was tried: one line for each candidate."""

    solution: Solution
    layers: str
    problem: Problem
    tried: list[dict[str, Any]]

    @property
    def columns(self) -> NDArray[np.intp]:
        """The columns of the cached features that the head reads."""
        return self.problem.features.columns

    @property
    def accuracy(self) -> float:
        """Share of out-of-fold answers that are right."""
        return self.solution.accuracy(self.problem.labels)

    @property
    def figures(self) -> dict[str, float]:
        """What the out-of-fold answers are worth, by names for a report."""
        return self.solution.figures(self.problem.labels)


def choose(head: str, layers: str, problems: Mapping[str, Problem], pca: int = 0, watch: Watch = unwatched) -> Chosen:
    """Solve the asked head on the asked layers; with 'auto', let the lowest out-of-fold log-loss decide.

    All layers are read where they are better than the last alone by more than LEAD standard errors: within noise the
    simpler head is also better on images unlike the training ones (bench/README.md). Ridge decides between the layers,
    as it takes the shortest; on these, logistic regression may then do better. With `pca` every head is solved along so
    many axes of each choice of layers.
    Raises UsageError for an unknown name and DataError where the features exceed what the head can hold in memory, or
    have fewer axes.
    """
    check_installed(head)
    check(head, layers, several=any(problem.several for problem in problems.values()))
    wanted = problems if layers == "auto" else {layers: problems[layers]}
    smaller = {name: reduced(problem, pca) if pca else (problem, None) for name, problem in wanted.items()}
    if head not in ("auto", "ridge") and not all(small.fits_in_memory for small, _ in smaller.values()):
        hint = "Use head=ridge, or keep fewer features with pca=64, for instance."
        raise DataError(f"The head {head!r} needs all features in memory, and there are too many. {hint}")
    first = "ridge" if head == "auto" else head
    solved = {name: _solve(first, small, watch) for name, (small, _) in smaller.items()}
    name = _simplest(solved, problems)
    found = [*solved.items()]
    if head == "auto" and _cost(smaller[name][0]) <= REFINED:
        found.append((name, _solve("logistic", smaller[name][0], watch)))
    best = min((solution for layer, solution in found if layer == name), key=lambda solution: solution.loss)
    tried = [_line(layer, solution, problems[layer]) for layer, solution in found]
    axes = smaller[name][1]
    if axes is not None:
        best = replace(best, head=whole(best.head, axes, problems[name]))
    return Chosen(best, name, problems[name], tried)


def _simplest(solved: Mapping[str, Solution], problems: Mapping[str, Problem]) -> str:
    """The choice of layers: the last one, unless all are better by more than noise."""
    if len(solved) == 1:
        return next(iter(solved))
    return "all" if lead(solved["all"], solved["last"], problems["all"]) > LEAD else "last"


def lead(one: Solution, other: Solution, problem: Problem) -> float:
    """By how many standard errors the first has the lower out-of-fold log-loss, both at their own temperatures.

    Paired, and over units: views of an image and its near-duplicates are no evidence of their own.
    """
    gain = tempered(other.logits, problem.labels) - tempered(one.logits, problem.labels)
    _, unit, size = np.unique(problem.units, return_inverse=True, return_counts=True)
    own = np.bincount(unit, gain) / size
    error = own.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else 0.0
    return float(own.mean() / error) if error else 0.0


def _solve(name: str, problem: Problem, watch: Watch) -> Solution:
    own = {"ridge": ridge.solve, "logistic": logistic.solve}
    if name in own:
        return own[name](problem, watch)
    from graft.training.heads import classical  # here, because scikit-learn takes over a second to import

    return classical.solve(name, problem, watch)


def _cost(problem: Problem) -> int:
    """Products of one look at all features by a linear head."""
    return len(problem) * min(len(problem), problem.width) * problem.classes


def _line(layers: str, solution: Solution, problem: Problem) -> dict[str, Any]:
    return {
        "head": solution.name,
        "layers": layers,
        "strength": solution.strength,
        **solution.figures(problem.labels),
    }
