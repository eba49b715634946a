"""The training loop: a generator of steps. Early stopping, progress, checkpoints and logs are the caller's `for`.

Every random draw is a function of (seed, epoch, step), so a state that was saved after any step and loaded again goes
on to the same weights, bit for bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.errors import TrainingError
from graft.torch import augment, engine, losses, optim
from graft.torch.alone import temporary_seed
from graft.torch.feed import Feed
from graft.training.recipe import Recipe, Task

MAX_LOSS_FACTOR = 100.0  # times the loss of guessing: beyond it nothing is learned any more

# (stages below the head, name in the network, parameter); the head's have depth 0.
DepthParameter = tuple[int, str, nn.Parameter]


@dataclass(frozen=True)
class PhaseInputs:
    """One phase: the tuned half and its trainable parameters, what it learns from, and how.

    `first_epoch` is the number of epochs before this phase; `epochs` how many it has; `rate` that of the head.
    `frozen_parts` are parts of the tuned half that are not trained, and stay in eval mode as the frozen half does.
    """

    tuned: nn.Module
    parameters: list[DepthParameter]
    feed: Feed
    targets: Tensor  # [n, classes]
    task: Task
    recipe: Recipe
    batch: int
    rate: float
    first_epoch: int
    epochs: int
    seed: int
    start_weights: dict[str, Tensor]  # the weights before tuning, which L2-SP pulls towards
    frozen_parts: tuple[nn.Module, ...] = ()

    @property
    def updates(self) -> int:
        """Updates of the weights in one epoch."""
        return math.ceil(len(self.targets) / (self.batch * self.recipe.accumulate))


@dataclass(frozen=True)
class TrainingStep:
    """One update: its number in the epoch, counted from 1, of how many, the loss, and the rate of the head."""

    number: int
    total: int
    loss: float
    rate: float
    epoch: int
    is_last: bool


class TrainingState:
    """All that changes during a phase: what a checkpoint holds."""

    def __init__(self, phase_inputs: PhaseInputs) -> None:
        recipe = phase_inputs.recipe
        self.phase_inputs = phase_inputs
        self.optimizer = optim.build_optimizer(
            recipe, optim.group_parameters(phase_inputs.parameters, recipe), phase_inputs.rate
        )
        self.schedule = optim.Schedule(self.optimizer, recipe, phase_inputs.updates * phase_inputs.epochs)
        self.trained = [parameter for _, _, parameter in phase_inputs.parameters]
        self.ema = optim.Ema(self.trained, recipe.ema) if recipe.ema else None
        self.loss_function = losses.build_loss(recipe, phase_inputs.task)
        self.weigh_images = losses.build_weight_function(phase_inputs.targets) if recipe.balance == "weights" else None
        self.log_prior = (
            losses.log_prior(phase_inputs.targets, recipe, phase_inputs.task) if recipe.balance == "logits" else None
        )
        self.chunk = phase_inputs.batch  # images that go through the network at once; halved when memory runs out
        self.epoch, self.step = 0, 0  # epochs done; updates done in the present one
        self.loss = 0.0  # sum over the present epoch

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on from here, but for the weights themselves."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "place": [self.epoch, self.step, self.chunk],
            "loss": self.loss,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that was saved after any step of the same phase."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.epoch, self.step, self.chunk = state["place"]
        self.loss = state["loss"]


def train(phase_inputs: PhaseInputs, state: TrainingState) -> Iterator[TrainingStep]:
    """Train in place, from where the state is to the end of the phase, and yield after each update.

    Stop consuming to stop early. Raises TrainingError when the loss explodes or is no number any more, before that
    loss has touched the weights, and when memory does not suffice for a single image.
    """
    while state.epoch < phase_inputs.epochs:
        epoch = phase_inputs.first_epoch + state.epoch
        order = losses.draw_order(
            len(phase_inputs.targets), phase_inputs.targets, phase_inputs.recipe, phase_inputs.seed, epoch
        )
        size = phase_inputs.batch * phase_inputs.recipe.accumulate
        groups = [order[start : start + size] for start in range(0, len(order), size)][state.step :]
        for rows, inputs in zip(groups, phase_inputs.feed.batches(groups, epoch), strict=True):
            rate = state.optimizer.param_groups[0]["lr"]
            loss = _update(state, inputs, phase_inputs.targets[rows], epoch)
            state.step, state.loss = state.step + 1, state.loss + loss
            last = state.step == phase_inputs.updates
            mean = state.loss / state.step
            yield TrainingStep(state.step, phase_inputs.updates, mean, rate, epoch, last)
        state.epoch, state.step, state.loss = state.epoch + 1, 0, 0.0


@torch.no_grad()
def predict_logits(tuned: nn.Module, feed: Feed, count: int, batch: int) -> NDArray[np.float64]:
    """Compute the logits of the feed's evaluation images, [count, classes]."""
    tuned.eval()
    starts = range(0, count, batch)
    outputs = [
        tuned(engine.move_batch_to_device(feed.read_evaluation_batch(np.arange(start, min(start + batch, count)))))
        for start in starts
    ]
    return torch.cat(outputs).double().cpu().numpy()


def derive_seed(*parts: object) -> int:
    """A seed for torch from whatever the draw depends on."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def find_rate(phase_inputs: PhaseInputs) -> float:
    """The rate that a range test speaks for (Smith 2017); the weights are as before when it returns."""
    tensors = [*(parameter for _, _, parameter in phase_inputs.parameters), *phase_inputs.tuned.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    state = TrainingState(phase_inputs)
    order = losses.draw_order(
        len(phase_inputs.targets), phase_inputs.targets, phase_inputs.recipe, phase_inputs.seed, 0
    )
    size = min(phase_inputs.batch, len(order))
    groups = [np.resize(order[start:], size) for start in range(0, len(order), size)]
    groups = (groups * len(optim.RATES))[: len(optim.RATES)]
    inputs = phase_inputs.feed.batches(groups, 0)
    steps = iter(zip(groups, inputs, strict=True))

    def try_rate(rate: float) -> float:
        rows, batch = next(steps)
        optim.set_rate(state.optimizer, rate)
        state.step += 1  # for draws of its own
        return _update(state, batch, phase_inputs.targets[rows], 0, check_loss=False)

    try:
        return optim.range_test(try_rate)
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


def _update(state: TrainingState, inputs: Tensor, targets: Tensor, epoch: int, check_loss: bool = True) -> float:
    """One update of the weights; the mean loss before it."""
    phase_inputs = state.phase_inputs
    inputs, targets = augment.mix_batch(inputs, targets, phase_inputs.recipe, phase_inputs.seed, epoch, state.step)
    inputs, targets = engine.move_batch_to_device(inputs), targets.to(inputs.device)
    loss = _compute_gradients(state, inputs, targets, derive_seed(phase_inputs.seed, epoch, state.step))
    limit = MAX_LOSS_FACTOR * math.log(max(phase_inputs.targets.shape[1], 3))
    if check_loss and not loss <= limit:
        raise TrainingError(describe_divergence(loss, phase_inputs, epoch, state.step))
    if phase_inputs.recipe.clip:
        nn.utils.clip_grad_norm_(state.trained, phase_inputs.recipe.clip)
    state.optimizer.step()
    state.schedule.step()
    if state.ema:
        state.ema.update(state.trained)
    return loss


def _compute_gradients(state: TrainingState, inputs: Tensor, targets: Tensor, seed: int) -> float:
    """The mean loss, its gradients left in the parameters; when memory runs out, in smaller and smaller pieces."""
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        try:
            with temporary_seed(seed, gpu=inputs.is_cuda):
                return _backward(state, inputs, targets)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        if state.chunk == 1:
            raise TrainingError(
                "Memory does not suffice to train on a single image at a time. Use a smaller network "
                "(`graft backbones`), or a cut further up: --strategy tail."
            )
        state.chunk //= 2


def _backward(state: TrainingState, inputs: Tensor, targets: Tensor) -> float:
    phase_inputs, total = state.phase_inputs, 0.0
    single_image = min(len(inputs), state.chunk, len(inputs) % state.chunk or state.chunk) == 1
    set_training_mode(phase_inputs.tuned, phase_inputs.recipe, single_image)
    for part in phase_inputs.frozen_parts:
        part.eval()
    for some, wanted in zip(inputs.split(state.chunk), targets.split(state.chunk), strict=True):
        outputs = phase_inputs.tuned(some)
        each = state.loss_function(
            outputs if state.log_prior is None else outputs + state.log_prior.to(outputs), wanted
        )
        loss = (each if state.weigh_images is None else each * state.weigh_images(wanted)).sum() / len(inputs)
        loss.backward()
        total += loss.item()
    if phase_inputs.recipe.l1 or phase_inputs.recipe.l2_sp:
        starts = [phase_inputs.start_weights[name] for _, name, _ in phase_inputs.parameters]
        extra = losses.penalty(state.trained, starts, phase_inputs.recipe)
        assert extra is not None
        extra.backward()
    return total


def set_training_mode(tuned: nn.Module, recipe: Recipe, single_image: bool = False) -> None:
    """Train mode; batch norm keeps its statistics unless the recipe says otherwise, and for a `single_image`."""
    tuned.train()
    if recipe.batch_norm == "frozen" or single_image:  # one image has no statistics
        for part in tuned.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """A GPU says it by the kind of error; on a CPU it is the words of PyTorch, which differ with the system."""
    words = ("not enough memory", "can't allocate memory", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(each in str(error) for each in words)


def describe_divergence(loss: float, phase_inputs: PhaseInputs, epoch: int, step: int) -> str:
    what = "is no number any more" if math.isnan(loss) else f"has exploded ({loss:.3g})"
    return (
        f"The loss {what} in epoch {epoch + 1}, step {step + 1}, at rate {phase_inputs.rate:g}. "
        f"Lower the rate, for example --recipe rate={phase_inputs.rate / 10:g}"
        f"{'' if phase_inputs.recipe.clip else ', or limit the gradients: clip=1'}."
    )
