"""The same problem in fewer dimensions: n pictures span at most n, whatever the width of their features.

A rotation: nothing is lost, and solvers have less to do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.heads.head import Head
from graft.training.heads.problem import Problem, Standardised
from graft.training.heads.ridge import standardising


def compact(problem: Problem) -> tuple[Problem, NDArray[np.float32]]:
    """The problem on the axes [d, r] that its pictures span, and these axes."""
    if len(problem) >= problem.width:
        return problem, np.eye(problem.width, dtype=np.float32)
    axes = problem.axes[1].astype(np.float32)
    width = axes.shape[1]
    plain = np.zeros(width, np.float32), np.ones(width, np.float32), np.arange(width)
    return replace(problem, features=Standardised(problem.matrix @ axes, *plain)), axes


def expand(head: Head, axes: NDArray[np.float32], problem: Problem) -> Head:
    """A head on compact features as one on the problem's own: what it first multiplies with is rotated back."""
    narrow: dict[str, NDArray[Any]] = dict(head.judge)
    first = next(name for name, tensor in narrow.items() if tensor.ndim == 2)
    return standardising(head.spec, narrow | {first: narrow[first] @ axes.T}, problem)
