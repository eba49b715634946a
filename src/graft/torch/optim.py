"""Optimisation: parameter groups, optimizers, schedules, range test, moving average and blending of weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from graft.errors import UsageError
from graft.training.recipe import Recipe

RATES = tuple(np.geomspace(1e-6, 1, 40).tolist())  # of the range test
NOISE_STEPS = 10  # of its steps, up to a rate of 2.4e-5, show the noise of the loss and little else
SMOOTHING = 0.5  # weight of the mean so far in its running mean
DECAY_FACTOR = 0.1  # by which step, multi-step, plateau and high-low lower the rate
PLATEAU_PATIENCE = 1  # epochs without a better metric that plateau forgives; torch's 10 would be a whole training


def group_parameters(parameters: Sequence[tuple[int, str, nn.Parameter]], recipe: Recipe) -> list[dict[str, Any]]:
    """Torch's parameter groups for (depth, name, parameter), depth 0 being the head and 1 the last stage.

    `share` is the group's part of the rate: 1 for the head, backbone_rate * layer_decay**depth below it. Norms and
    biases, whatever has fewer than two dimensions, do not decay.
    """
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for depth, name, parameter in parameters:
        decays = parameter.ndim > 1
        share = recipe.layer_decay**depth * (recipe.backbone_rate if depth else 1.0)
        start = {"share": share, "weight_decay": recipe.weight_decay if decays else 0.0}
        found.setdefault((depth, decays), {"params": [], **start})["params"].append((name, parameter))
    return list(found.values())


def build_optimizer(recipe: Recipe, parts: Sequence[dict[str, Any]], rate: float) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over the groups `parts`, at this rate. On a GPU torch itself uses `foreach`."""
    kind, options = _OPTIMIZERS[recipe.optimizer]
    return kind([{**part, "lr": rate * part["share"]} for part in parts], lr=rate, **options)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let every group go at its share of this rate: for a range test. A Schedule sets rates of its own."""
    for part in optimizer.param_groups:
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

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, total: int) -> None:
        self._optimizer = optimizer
        self._factors = compute_rate_factors(recipe, total)
        self._updates = 0
        self._unit_optimizer = _build_unit_optimizer()
        mode = "min" if recipe.metric == "loss" else "max"
        plateau = lr_scheduler.ReduceLROnPlateau(
            self._unit_optimizer, mode, DECAY_FACTOR, PLATEAU_PATIENCE, threshold=0.0
        )
        self._plateau = plateau if recipe.schedule == "plateau" else None
        for part in optimizer.param_groups:
            part.setdefault("initial_lr", part["lr"])  # torch's own word; a loaded optimizer has it already
        self._apply()

    def step(self) -> None:
        """Set the rates of the next update; to be called after each update."""
        self._updates += 1
        self._apply()

    def end_epoch(self, metric: float) -> None:
        """Report the metric of an epoch; only plateau uses it, and lowers the rate where it has not improved."""
        if self._plateau:
            self._plateau.step(metric)
            self._apply()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on here, as plain numbers and lists."""
        plateau = dict(self._plateau.state_dict()) if self._plateau else None
        return {"updates": self._updates, "lowered": self._unit_optimizer.param_groups[0]["lr"], "plateau": plateau}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that state was saved; before or after the optimizer's own is loaded."""
        self._updates = state["updates"]
        self._unit_optimizer.param_groups[0]["lr"] = state["lowered"]
        if self._plateau:
            self._plateau.load_state_dict(state["plateau"])
        self._apply()

    def _apply(self) -> None:
        factor = self._factors[min(self._updates, len(self._factors) - 1)] * self._unit_optimizer.param_groups[0]["lr"]
        for part in self._optimizer.param_groups:
            part["lr"] = part["initial_lr"] * factor


def compute_rate_factors(recipe: Recipe, total: int) -> list[float]:
    """What the rate is multiplied by at each of `total` updates, without what plateau takes off.

    Warm-up rises linearly and reaches 1 after its share of the updates. One-cycle has a rise of its own, over the first
    30 %, and no other.
    """
    total = max(total, 1)
    shape = _simulate_rates(lambda carrier: _build_scheduler(recipe.schedule, carrier, total), total)
    rise = max(round(recipe.warmup * total), 1) if recipe.warmup else 0
    if not rise or recipe.schedule == "one-cycle":
        return shape
    warm = _simulate_rates(lambda carrier: lr_scheduler.LinearLR(carrier, 1 / (rise + 1), 1.0, rise), total)
    return [up * factor for up, factor in zip(warm, shape, strict=True)]


def _build_scheduler(name: str, optimizer: torch.optim.Optimizer, total: int) -> lr_scheduler.LRScheduler:
    """Torch's scheduler of that name over so many updates. Milestones are rounded up: none is update 0."""
    third = math.ceil(total / 3)
    if name == "step":
        return lr_scheduler.StepLR(optimizer, third, DECAY_FACTOR)
    if name == "multi-step":
        return lr_scheduler.MultiStepLR(optimizer, [math.ceil(total / 2), math.ceil(total * 3 / 4)], DECAY_FACTOR)
    if name == "high-low":
        return lr_scheduler.MultiStepLR(optimizer, [third], DECAY_FACTOR)
    if name == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, total)
    if name == "restarts":
        return lr_scheduler.CosineAnnealingWarmRestarts(optimizer, third)
    if name == "one-cycle":
        return lr_scheduler.OneCycleLR(optimizer, 1.0, max(total, 4), pct_start=0.3, cycle_momentum=False)
    return lr_scheduler.ConstantLR(optimizer, 1.0)  # constant, and plateau between its steps


def _build_unit_optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1)], lr=1.0)


def _simulate_rates(make: Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler], total: int) -> list[float]:
    """The rates that a scheduler gives to an optimizer with rate 1."""
    optimizer = _build_unit_optimizer()
    scheduler = make(optimizer)
    optimizer.step()  # moves nothing; a scheduler that goes first would warn
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(total - 1):
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return [float(rate) for rate in rates]


def range_test(step: Callable[[float], float], rates: Sequence[float] = RATES) -> float:
    """A rate to train with, found by raising it from update to update until the loss explodes (Smith 2017).

    `step` makes one update at a rate and returns the loss before it. To save and restore the weights is up to the
    caller. The answer is a tenth of the rate at which the smoothed loss was lowest. Where it did not fall below the
    noise of the first steps, as with a network that is good already, it is a tenth of the last rate that did no harm.
    The steepest descent is no better guide: in trials it was now and then a rate at which training explodes.
    """
    losses, smooth = _record_losses(step, rates)
    if not losses:
        raise UsageError(f"'rate=auto' found no rate: the loss is not finite at {rates[0]:g} already. Name a rate.")
    start, noise = _measure_noise(losses)
    if min(smooth) < start - 2 * noise or len(losses) <= NOISE_STEPS:
        turn = int(np.argmin(smooth))
    else:
        turn = int(np.flatnonzero(np.array(smooth) <= start + 2 * noise)[-1])
    return rates[max(turn - 1, 0)] / 10  # - 1: a loss speaks of the update before it


def _record_losses(step: Callable[[float], float], rates: Sequence[float]) -> tuple[list[float], list[float]]:
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
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        losses.append(loss)
        smooth.append(mean / (1 - SMOOTHING**count))
        start, noise = _measure_noise(losses)
        if count > NOISE_STEPS and smooth[-1] > max(4 * min(smooth), start + 2 * noise):
            break
    return losses, smooth


def _measure_noise(losses: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation) of the first losses."""
    return float(np.mean(losses[:NOISE_STEPS])), float(np.std(losses[:NOISE_STEPS]))


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
        """Exchange the tensors and their means in place: once to evaluate or save the means, once more to go on."""
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


# --- blending of weights ----------------------------------------------------------------------------------------------

Weights = dict[str, Tensor]
ScoredLogits = tuple[NDArray[np.float64], float]  # held-out logits, and their score: higher is better

SHARES = tuple(share / 10 for share in range(10))  # of the epoch that counts; the rest is the start


@dataclass(frozen=True)
class BlendResult:
    """The best weights: `share` of the epoch that counts, the rest the start; or the mean of the later epochs.

    `tried` has the score of each candidate.
    """

    share: float
    mean: bool
    score: float
    tried: dict[str, float]


def snapshot(network: nn.Module, names: Sequence[str]) -> Weights:
    """Copies of the named tensors."""
    now = network.state_dict()
    return {name: now[name].detach().clone() for name in names}


@torch.no_grad()
def restore(network: nn.Module, weights: Weights) -> None:
    """Put the tensors back, in place, so that everybody who shares them sees it."""
    now = network.state_dict()
    for name, value in weights.items():
        now[name].copy_(value)


@torch.no_grad()
def update_mean(mean: Weights, network: nn.Module, names: Sequence[str], count: int) -> Weights:
    """The mean of `count` networks, with one more taken in."""
    now = snapshot(network, names)
    return interpolate(mean, now, 1 / (count + 1)) if count else now


@torch.no_grad()
def interpolate(start: Weights, end: Weights, share: float) -> Weights:
    """(1 - share) of the start and `share` of the end (Wortsman et al. 2022, WiSE-FT); whole numbers are the end's."""
    return {
        name: torch.lerp(start[name], value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }


def choose_best(
    network: nn.Module, start: Weights, best: Weights, mean: Weights, evaluate: Callable[[], ScoredLogits]
) -> tuple[NDArray[np.float64], BlendResult]:
    """Try the candidates in the network, leave the winner in it, and say which it is.

    The epoch that counts comes first and wins a tie. With no start there is nothing to interpolate with.
    """
    found: list[tuple[float, str, float, Weights, NDArray[np.float64]]] = []
    for name, share, weights in _candidates(start, best, mean):
        restore(network, weights)
        logits, score = evaluate()
        found.append((score, name, share, weights, logits))
    score, name, share, weights, logits = max(found, key=lambda each: each[0])
    restore(network, weights)
    return logits, BlendResult(share, name == "mean", score, {name: score for score, name, *_ in found})


def _candidates(start: Weights, best: Weights, mean: Weights) -> Iterator[tuple[str, float, Weights]]:
    yield "epoch", 1.0, best
    if mean:
        yield "mean", 1.0, mean
    if start:
        for share in reversed(SHARES):
            yield f"{share:.1f} of the epoch", share, interpolate(start, best, share)
