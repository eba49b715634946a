"""What moves the weights: parameter groups, optimizers, the rate over time, finding a rate, and their running mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from graft.errors import UsageError
from graft.training.recipe import Recipe

RATES = tuple(np.geomspace(1e-6, 1, 40).tolist())  # of the range test
QUIET = 10  # of its steps, up to a rate of 2.4e-5, show the noise of the loss and little else
SMOOTH = 0.5  # weight of the mean so far in its running mean
FACTOR = 0.1  # by which step, multi-step, plateau and high-low lower the rate
PLATEAU_PATIENCE = 1  # epochs without a better metric that plateau forgives; torch's 10 would be a whole training


def groups(parameters: Sequence[tuple[int, str, nn.Parameter]], recipe: Recipe) -> list[dict[str, Any]]:
    """Torch's parameter groups for (depth, name, parameter), depth 0 being the head and 1 the last stage.

    `share` is the group's part of the rate, layer_decay**depth. Norms and biases, whatever has fewer than two
    dimensions, do not decay.
    """
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for depth, name, parameter in parameters:
        decays = parameter.ndim > 1
        start = {"share": recipe.layer_decay**depth, "weight_decay": recipe.weight_decay if decays else 0.0}
        found.setdefault((depth, decays), {"params": [], **start})["params"].append((name, parameter))
    return list(found.values())


def optimizer(recipe: Recipe, parts: Sequence[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
    """The optimizer that the recipe names over `groups`, at this rate. Torch itself goes `foreach` on a GPU."""
    kind, options = _OPTIMIZERS[recipe.optimizer]
    return kind([{**part, "lr": rate * part["share"]} for part in parts], lr=rate, **options)


def set_rate(moved: torch.optim.Optimizer, rate: float) -> None:
    """Let every group go at its share of this rate: for a range test. A Schedule sets rates of its own."""
    for part in moved.param_groups:
        part["lr"] = rate * part["share"]


_OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "adagrad": (torch.optim.Adagrad, {}),
    "adadelta": (torch.optim.Adadelta, {}),
    "rmsprop": (torch.optim.RMSprop, {}),
}


class Schedule:
    """The rate of each update: the optimizer's first rate, times warm-up, times the shape that the recipe names.

    The factors of all `total` updates are worked out at once by torch's schedulers, on an optimizer of their own with
    rate 1: two of them cannot be chained where one overwrites the rate (one-cycle, restarts), and what must be saved to
    go on is the number of updates. Beyond the last update its rate stays.
    """

    def __init__(self, moved: torch.optim.Optimizer, recipe: Recipe, total: int) -> None:
        self._moved = moved
        self._factors = factors(recipe, total)
        self._updates = 0
        self._carrier = _carrier()
        mode = "min" if recipe.metric == "loss" else "max"
        plateau = lr_scheduler.ReduceLROnPlateau(self._carrier, mode, FACTOR, PLATEAU_PATIENCE, threshold=0.0)
        self._plateau = plateau if recipe.schedule == "plateau" else None
        for part in moved.param_groups:
            part.setdefault("initial_lr", part["lr"])  # torch's own word; a loaded optimizer has it already
        self._apply()

    def step(self) -> None:
        """Set the rates of the next update; to be called after each update."""
        self._updates += 1
        self._apply()

    def epoch(self, metric: float) -> None:
        """Hear the metric of an epoch; only plateau listens, and lowers the rate where it has not become better."""
        if self._plateau:
            self._plateau.step(metric)
            self._apply()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on here, as plain numbers and lists."""
        plateau = dict(self._plateau.state_dict()) if self._plateau else None
        return {"updates": self._updates, "lowered": self._carrier.param_groups[0]["lr"], "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was saved; before or after the optimizer's own is loaded."""
        self._updates = state["updates"]
        self._carrier.param_groups[0]["lr"] = state["lowered"]
        if self._plateau:
            self._plateau.load_state_dict(state["plateau"])
        self._apply()

    def _apply(self) -> None:
        factor = self._factors[min(self._updates, len(self._factors) - 1)] * self._carrier.param_groups[0]["lr"]
        for part in self._moved.param_groups:
            part["lr"] = part["initial_lr"] * factor


def factors(recipe: Recipe, total: int) -> list[float]:
    """What the rate is multiplied by at each of `total` updates, without what plateau takes off.

    Warm-up rises linearly and reaches 1 after its share of the updates. One-cycle has a rise of its own, over the first
    30 %, and no other.
    """
    total = max(total, 1)
    shape = _run(lambda carrier: _shape(recipe.schedule, carrier, total), total)
    rise = max(round(recipe.warmup * total), 1) if recipe.warmup else 0
    if not rise or recipe.schedule == "one-cycle":
        return shape
    warm = _run(lambda carrier: lr_scheduler.LinearLR(carrier, 1 / (rise + 1), 1.0, rise), total)
    return [up * factor for up, factor in zip(warm, shape, strict=True)]


def _shape(name: str, carrier: torch.optim.Optimizer, total: int) -> lr_scheduler.LRScheduler:
    """Torch's scheduler of that name over so many updates. Milestones are rounded up: none is update 0."""
    third = math.ceil(total / 3)
    if name == "step":
        return lr_scheduler.StepLR(carrier, third, FACTOR)
    if name == "multi-step":
        return lr_scheduler.MultiStepLR(carrier, [math.ceil(total / 2), math.ceil(total * 3 / 4)], FACTOR)
    if name == "high-low":
        return lr_scheduler.MultiStepLR(carrier, [third], FACTOR)
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(carrier, total)
    if name == "restarts":
        return lr_scheduler.CosineAnnealingWarmRestarts(carrier, third)
    if name == "one-cycle":
        return lr_scheduler.OneCycleLR(carrier, 1.0, max(total, 4), pct_start=0.3, cycle_momentum=False)
    return lr_scheduler.ConstantLR(carrier, 1.0)  # constant, and plateau between its steps


def _carrier() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=1.0)


def _run(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], total: int) -> list[float]:
    """The rates that a scheduler gives to an optimizer with rate 1."""
    carrier = _carrier()
    scheduler = make(carrier)
    carrier.step()  # moves nothing; a scheduler that goes first would warn
    rates = [carrier.param_groups[0]["lr"]]
    for _ in range(total - 1):
        scheduler.step()
        rates.append(carrier.param_groups[0]["lr"])
    return [float(rate) for rate in rates]


def range_test(step: Callable[[float], float], rates: Sequence[float] = RATES) -> float:
    """A rate to train with, found by raising it from update to update until the loss explodes (Smith 2017).

    `step` makes one update at a rate and returns the loss before it. To save and restore the weights is up to the
    caller. The answer is a tenth of the rate at which the smoothed loss was lowest. Where it did not fall below the
    noise of the first steps, as with a network that is good already, it is a tenth of the last rate that did no harm.
    The steepest descent is no better guide: in trials it was now and then a rate at which training explodes.
    """
    losses, smooth = _explored(step, rates)
    if not losses:
        raise UsageError(f"'rate=auto' found no rate: the loss is not finite at {rates[0]:g} already. Name a rate.")
    start, noise = _quiet(losses)
    if min(smooth) < start - 2 * noise or len(losses) <= QUIET:
        turn = int(np.argmin(smooth))
    else:
        turn = int(np.flatnonzero(np.array(smooth) <= start + 2 * noise)[-1])
    return rates[max(turn - 1, 0)] / 10  # - 1: a loss speaks of the update before it


def _explored(step: Callable[[float], float], rates: Sequence[float]) -> tuple[list[float], list[float]]:
    """The losses, and their running mean, up to where it exceeds 4 times its best or the loss is not finite.

    It must exceed the noise as well: the loss of a network that is good already can be 4 times another by chance.
    """
    losses: list[float] = []
    smooth: list[float] = []
    mean = 0.0
    for count, rate in enumerate(rates, start=1):
        loss = step(rate)
        if not math.isfinite(loss):
            break
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        losses.append(loss)
        smooth.append(mean / (1 - SMOOTH**count))
        start, noise = _quiet(losses)
        if count > QUIET and smooth[-1] > max(4 * min(smooth), start + 2 * noise):
            break
    return losses, smooth


def _quiet(losses: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation) of the first losses."""
    return float(np.mean(losses[:QUIET])), float(np.std(losses[:QUIET]))


class Ema:
    """The running mean of floating tensors; `decay` is reached slowly, as min(decay, (1 + n) / (10 + n))."""

    def __init__(self, tensors: Iterable[Tensor], decay: float) -> None:
        self._means = [tensor.detach().clone() for tensor in tensors]
        self._decay = decay
        self._updates = 0

    def update(self, tensors: Iterable[Tensor]) -> None:
        """Take in the tensors as they are after an update."""
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        get_ema_multi_avg_fn(decay)(self._means, [tensor.detach() for tensor in tensors], None)
        self._updates += 1

    @torch.no_grad()
    def swap(self, tensors: Iterable[Tensor]) -> None:
        """Exchange the tensors and their means in place: once to judge or save the means, once more to go on."""
        for mean, tensor in zip(self._means, tensors, strict=True):
            kept = tensor.detach().clone()
            tensor.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on here."""
        return {"updates": self._updates, "means": list(self._means)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was saved."""
        self._updates = state["updates"]
        for mean, saved in zip(self._means, state["means"], strict=True):
            mean.copy_(saved)
