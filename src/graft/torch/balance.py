"""Classes of unequal size: weights of pictures, shifted logits, and the order in which an epoch sees the pictures.

Targets are the matrix [n, classes] of the training pictures. With several labels a picture may have none; these
pictures count as one more class.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.torch.losses import Task, one_vs_rest
from graft.training.recipe import Recipe

ABSENT = 0.5  # pictures that a class without any counts as: its logarithm must be finite


def class_weights(targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from rows of targets [m, classes] to the weights [m] of their pictures.

    A class weighs the inverse of its frequency and a picture the mean of its classes, also of a mixed picture; over
    the training pictures the weights have mean 1.
    """
    known = _or_none(targets)
    weights = _inverse(known)
    weights = weights / _mean(known, weights).mean()
    return lambda rows: _mean(_or_none(rows), weights.to(rows))


def log_prior(targets: Tensor, recipe: Recipe, task: Task) -> Tensor:
    """What is added to the logits [n, classes] in the loss only, so that they need not learn the frequencies.

    The log frequency of each class (Menon et al. 2021; Ren et al. 2020), or its log odds where the loss asks for each
    class by itself.
    """
    count = len(targets)
    if not one_vs_rest(recipe, task):
        return (targets.double().sum(0).clamp(min=ABSENT) / count).log().to(targets)
    positive = targets.double().sum(0).clamp(ABSENT, max(count - ABSENT, ABSENT))
    return (positive / (count - positive)).log().to(targets)


def order(count: int, targets: Tensor, recipe: Recipe, seed: int, epoch: int) -> NDArray[np.intp]:
    """The order of the pictures in this epoch: all of them once; with balance=sampler a draw with equal classes.

    The draw has as many pictures, some twice and some not at all. With several labels a picture is as likely as its
    rarest class makes it.
    """
    random = np.random.default_rng((seed, epoch))
    if recipe.balance != "sampler":
        return random.permutation(count)
    known = _or_none(targets)
    chances = (known * _inverse(known)).amax(1).double().cpu().numpy()
    return random.choice(count, count, p=chances / chances.sum())


def _or_none(targets: Tensor) -> Tensor:
    """Targets [n, classes + 1]; the last column is 1 for pictures without a class."""
    return torch.cat([targets, (targets.sum(1, keepdim=True) == 0).to(targets)], 1)


def _inverse(known: Tensor) -> Tensor:
    return len(known) / known.sum(0).clamp(min=ABSENT)


def _mean(known: Tensor, weights: Tensor) -> Tensor:
    return known @ weights / known.sum(1)
