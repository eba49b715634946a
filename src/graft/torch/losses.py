"""Losses: logits and targets, both [n, classes], become one number for each image, for the loop to weigh.

'multiclass': each image is of one class, and the probabilities of all classes sum to 1 (softmax). 'multilabel': each
class is binary (sigmoid). Targets are probabilities: one-hot, multi-hot or anything between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from graft.training.recipe import Recipe, Task, check_loss

Loss = Callable[[Tensor, Tensor], Tensor]

GAMMA = 2.0  # of the focal loss (Lin et al. 2017)
GAMMA_NEGATIVE, MARGIN = 4, 0.05  # of the asymmetric loss (Ridnik et al. 2021), which leaves the positives as they are
MIN_PROBABILITY = 1e-8  # a probability below it counts as this


def build_loss(recipe: Recipe, task: Task) -> Loss:
    """The loss that the recipe names, with its smoothing; 'auto' is cross-entropy or, for multilabel, bce.

    With one class for each image 'bce' and 'asymmetric' ask "this class or not?" once for each class
    (Wightman et al. 2021). Smoothing moves the targets of every loss: towards 1/classes, or towards 1/2 where each
    class is asked for by itself.
    """
    check_loss(recipe, task)
    legal = {**_SIGMOID, **_SOFTMAX} if task == "multiclass" else _SIGMOID
    loss, is_one_vs_rest = legal[_loss_name(recipe, task)], one_vs_rest(recipe, task)

    def smoothed(logits: Tensor, targets: Tensor) -> Tensor:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # half precision has no room for logs
        neutral = 1 / 2 if is_one_vs_rest else 1 / targets.shape[1]
        return loss(logits, targets * (1 - recipe.smoothing) + neutral * recipe.smoothing)

    return smoothed


def one_vs_rest(recipe: Recipe, task: Task) -> bool:
    """Whether the loss asks for each class by itself (sigmoid), and not for one among all (softmax)."""
    return task == "multilabel" or _loss_name(recipe, task) not in _SOFTMAX


def penalty(parameters: Sequence[Tensor], starts: Sequence[Tensor], recipe: Recipe) -> Tensor | None:
    """l1 * sum |w| + l2_sp / 2 * sum (w - start)^2 (Xuhong et al. 2018); None, at no cost, where both are 0."""
    parts: list[Tensor] = []
    if recipe.l1:
        parts += [recipe.l1 * weight.abs().sum() for weight in parameters]
    if recipe.l2_sp:
        pairs = zip(parameters, starts, strict=True)
        parts += [recipe.l2_sp / 2 * (weight - start).square().sum() for weight, start in pairs]
    return torch.stack(parts).sum() if parts else None


def _loss_name(recipe: Recipe, task: Task) -> str:
    if recipe.loss != "auto":
        return recipe.loss
    return "cross-entropy" if task == "multiclass" else "bce"


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits, targets, reduction="none")


def _kl(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.kl_div(logits.log_softmax(1), targets, reduction="none").sum(1)


def _softmax_focal(logits: Tensor, targets: Tensor) -> Tensor:
    logs = logits.log_softmax(1)
    return -(targets * (1 - logs.exp()) ** GAMMA * logs).sum(1)


def _softmax_mse(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.softmax(1) - targets).square().sum(1)


def _bce(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)


def _sigmoid_focal(logits: Tensor, targets: Tensor) -> Tensor:
    # alpha=-1: no weight for the positives, so that gamma 0 is bce; that is what `balance` is for
    return sigmoid_focal_loss(logits, targets, alpha=-1, gamma=GAMMA).mean(1)


def _sigmoid_mse(logits: Tensor, targets: Tensor) -> Tensor:
    return (logits.sigmoid() - targets).square().sum(1)


def _asymmetric(logits: Tensor, targets: Tensor) -> Tensor:
    """timm's AsymmetricLossMultiLabel for each image: by itself it gives one per image only in newer versions."""
    yes = logits.sigmoid()
    no = (1 - yes + MARGIN).clamp(max=1)  # negatives that are easy by the margin count nothing
    error = targets * yes.clamp(min=MIN_PROBABILITY).log() + (1 - targets) * no.clamp(min=MIN_PROBABILITY).log()
    miss = 1 - yes * targets - no * (1 - targets)
    return -(error * miss ** (GAMMA_NEGATIVE * (1 - targets))).sum(1)


_SOFTMAX: dict[str, Loss] = {
    "cross-entropy": _cross_entropy,
    "focal": _softmax_focal,
    "kl": _kl,
    "mse": _softmax_mse,
}
_SIGMOID: dict[str, Loss] = {
    "asymmetric": _asymmetric,
    "bce": _bce,
    "focal": _sigmoid_focal,
    "mse": _sigmoid_mse,
}


# --- class balance ----------------------------------------------------------------------------------------------------

MIN_COUNT = 0.5  # images that a class without any counts as: its logarithm must be finite


def build_weight_function(targets: Tensor) -> Callable[[Tensor], Tensor]:
    """The function from rows of targets [m, classes] to the weights [m] of their images.

    A class weighs the inverse of its frequency and an image the mean of its classes, also of a mixed image; over
    the training images the weights have mean 1.
    """
    known = _add_none_class(targets)
    weights = _inverse_frequencies(known)
    weights = weights / _mean_weights(known, weights).mean()
    return lambda rows: _mean_weights(_add_none_class(rows), weights.to(rows))


def log_prior(targets: Tensor, recipe: Recipe, task: Task) -> Tensor:
    """What is added to the logits [n, classes] in the loss only, so that they need not learn the frequencies.

    The log frequency of each class (Menon et al. 2021; Ren et al. 2020), or its log odds where the loss asks for each
    class by itself.
    """
    count = len(targets)
    if not one_vs_rest(recipe, task):
        return (targets.double().sum(0).clamp(min=MIN_COUNT) / count).log().to(targets)
    positive = targets.double().sum(0).clamp(MIN_COUNT, max(count - MIN_COUNT, MIN_COUNT))
    return (positive / (count - positive)).log().to(targets)


def draw_order(count: int, targets: Tensor, recipe: Recipe, seed: int, epoch: int) -> NDArray[np.intp]:
    """The order of the images in this epoch: all of them once; with balance=sampler a draw with equal classes.

    The draw has as many images, some twice and some not at all. With several labels an image is as likely as its
    rarest class makes it.
    """
    random = np.random.default_rng((seed, epoch))
    if recipe.balance != "sampler":
        return random.permutation(count)
    known = _add_none_class(targets)
    weights = (known * _inverse_frequencies(known)).amax(1).double().cpu().numpy()
    return random.choice(count, count, p=weights / weights.sum())


def _add_none_class(targets: Tensor) -> Tensor:
    """Targets [n, classes + 1]; the last column is 1 for images without a class."""
    return torch.cat([targets, (targets.sum(1, keepdim=True) == 0).to(targets)], 1)


def _inverse_frequencies(known: Tensor) -> Tensor:
    return len(known) / known.sum(0).clamp(min=MIN_COUNT)


def _mean_weights(known: Tensor, weights: Tensor) -> Tensor:
    return known @ weights / known.sum(1)
