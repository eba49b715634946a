"""Fewer features before any head: the axes along which the training images differ most (principal components)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graft.data.duplicates import blocks
from graft.errors import DataError
from graft.heads.head import Head
from graft.training.heads.compact import expand
from graft.training.heads.problem import Problem, Standardised
from graft.training.heads.ridge import standardising

FOLDED = ("linear", "mlp")  # heads that begin with a product, into which the one with the axes is multiplied


def reduced(problem: Problem, count: int) -> tuple[Problem, NDArray[np.float32]]:
    """The problem along so many axes [d, count] of its standardised features, the longest first, and these axes.

    The axes are found on all training images, without their labels. So out-of-fold answers are by heads that never saw
    an image's label, but along axes that its features had a small part in. Test images have none. Features are read in
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
    for at, block in blocks(problem.features):
        rows[at] = block @ kept
    plain = np.zeros(count, np.float32), np.ones(count, np.float32), np.arange(count)
    return replace(problem, features=Standardised(rows, *plain)), kept


def whole(head: Head, axes: NDArray[np.float32], problem: Problem) -> Head:
    """A head that was solved along these axes as one that takes the problem's features as they come."""
    if head.spec["kind"] in FOLDED:
        return expand(head, axes, problem)
    return standardising(head.spec | {"pca": axes.shape[1]}, head.judge, problem, axes.T)
