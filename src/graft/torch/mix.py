"""Mixup and cutmix: each picture of a batch is mixed with the one before it, and so are their targets.

Not torchvision's: its MixUp takes neither uint8 pictures nor tokens [n, t, d], and both draw from torch's global
generator, which a resumed run would find elsewhere. A test compares the results.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from graft.errors import UsageError
from graft.training.recipe import Recipe

STREAM = 1  # default_rng((a, b)) and default_rng((a, b, 0)) are the same: this sets the draws apart from the order's


def mix(inputs: Tensor, targets: Tensor, recipe: Recipe, seed: int, epoch: int, step: int) -> tuple[Tensor, Tensor]:
    """The batch as the recipe's mixup and cutmix make it; one of the two, drawn anew at each step, where both are set.

    `mixup` and `cutmix` are the alpha of Beta(alpha, alpha), from which each step draws the share of the picture itself
    (Zhang et al. 2018, Yun et al. 2019). Every draw belongs to (seed, epoch, step). Inputs are pictures, maps
    [n, c, h, w] or, for mixup only, any activations.
    """
    if recipe.cutmix and inputs.ndim != 4:
        raise UsageError(
            f"'cutmix' needs pictures or maps [n, channels, height, width] above the cut. Got {list(inputs.shape)}. "
            "Use 'mixup', or a strategy that trains the whole network."
        )
    if not (recipe.mixup or recipe.cutmix):
        return inputs, targets
    random = np.random.default_rng((seed, epoch, step, STREAM))
    cutting = bool(recipe.cutmix) and not (recipe.mixup and random.random() < 0.5)
    alpha = recipe.cutmix if cutting else recipe.mixup
    share = float(random.beta(alpha, alpha))
    if not cutting:
        return mixup(inputs, share), mixup(targets, share)
    left, top, right, bottom = rectangle(inputs.shape[3], inputs.shape[2], share, random)
    kept = 1 - (right - left) * (bottom - top) / (inputs.shape[2] * inputs.shape[3])
    return cutmix(inputs, (left, top, right, bottom)), mixup(targets, kept)


def mixup(batch: Tensor, share: float) -> Tensor:
    """`share` of each row and the rest of the row before it; whole numbers become float."""
    return batch * share + batch.roll(1, 0) * (1 - share)


def cutmix(batch: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Each picture [n, c, h, w] with the box (left, top, right, bottom) of the picture before it."""
    left, top, right, bottom = box
    mixed = batch.clone()
    mixed[..., top:bottom, left:right] = batch.roll(1, 0)[..., top:bottom, left:right]
    return mixed


def rectangle(width: int, height: int, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of 1 - share of the area around a uniform place, less what lies outside the picture."""
    x, y, side = int(random.integers(width)), int(random.integers(height)), math.sqrt(1 - share) / 2
    wide, high = int(side * width), int(side * height)
    return max(x - wide, 0), max(y - high, 0), min(x + wide, width), min(y + high, height)
