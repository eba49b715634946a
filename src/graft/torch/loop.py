"""The one training loop: a generator of steps. Early stopping, progress, checkpoints and logs are the caller's `for`.

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
from graft.torch import balance, engine, losses, mix, optim
from graft.torch.alone import seeded
from graft.torch.feed import Feed
from graft.torch.losses import Task
from graft.training.recipe import Recipe

EXPLODED = 100.0  # times the loss of guessing: beyond it nothing is learned any more

Placed = tuple[int, str, nn.Parameter]  # how many stages below the head (0), name in the network, and the parameter


@dataclass(frozen=True)
class Lesson:
    """One phase: the tuned half and its trainable parameters, what it learns from, and how.

    `first` is the number of epochs before this phase; `epochs` how many it has; `rate` that of the head. `still` are
    parts of the tuned half that are frozen all the same, and stay in eval mode as the frozen half does.
    """

    tuned: nn.Module
    parameters: list[Placed]
    feed: Feed
    targets: Tensor  # [n, classes]
    task: Task
    recipe: Recipe
    batch: int
    rate: float
    first: int
    epochs: int
    seed: int
    starts: dict[str, Tensor]  # the weights before tuning, which L2-SP pulls towards
    still: tuple[nn.Module, ...] = ()

    @property
    def updates(self) -> int:
        """Updates of the weights in one epoch."""
        return math.ceil(len(self.targets) / (self.batch * self.recipe.accumulate))


@dataclass(frozen=True)
class Step:
    """One update: its number in the epoch, counted from 1, of how many, the loss, and the rate of the head."""

    number: int
    of: int
    loss: float
    rate: float
    epoch: int
    last: bool


class State:
    """All that changes while a lesson lasts: what a checkpoint holds."""

    def __init__(self, lesson: Lesson) -> None:
        recipe = lesson.recipe
        self.lesson = lesson
        self.optimizer = optim.optimizer(recipe, optim.groups(lesson.parameters, recipe), lesson.rate)
        self.schedule = optim.Schedule(self.optimizer, recipe, lesson.updates * lesson.epochs)
        self.trained = [parameter for _, _, parameter in lesson.parameters]
        self.ema = optim.Ema(self.trained, recipe.ema) if recipe.ema else None
        self.loss_of = losses.loss_of(recipe, lesson.task)
        self.weigh = balance.class_weights(lesson.targets) if recipe.balance == "weights" else None
        self.prior = balance.log_prior(lesson.targets, recipe, lesson.task) if recipe.balance == "logits" else None
        self.chunk = lesson.batch  # pictures that go through the network at once; halved when memory runs out
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
        """Go on from a state that was saved after any step of the same lesson."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.epoch, self.step, self.chunk = state["place"]
        self.loss = state["loss"]


def train(lesson: Lesson, state: State) -> Iterator[Step]:
    """Train in place, from where the state is to the lesson's end, and yield after each update.

    Stop consuming to stop early. Raises TrainingError when the loss explodes or is no number any more, before that
    loss has touched the weights, and when memory does not suffice for a single picture.
    """
    while state.epoch < lesson.epochs:
        epoch = lesson.first + state.epoch
        order = balance.order(len(lesson.targets), lesson.targets, lesson.recipe, lesson.seed, epoch)
        size = lesson.batch * lesson.recipe.accumulate
        groups = [order[start : start + size] for start in range(0, len(order), size)][state.step :]
        for rows, inputs in zip(groups, lesson.feed.batches(groups, epoch), strict=True):
            rate = state.optimizer.param_groups[0]["lr"]
            loss = _update(state, inputs, lesson.targets[rows], epoch)
            state.step, state.loss = state.step + 1, state.loss + loss
            last = state.step == lesson.updates
            mean = state.loss / state.step
            yield Step(state.step, lesson.updates, mean, rate, epoch, last)
        state.epoch, state.step, state.loss = state.epoch + 1, 0, 0.0


@torch.no_grad()
def logits(tuned: nn.Module, feed: Feed, count: int, batch: int) -> NDArray[np.float64]:
    """What the tuned half says of the feed's pictures as they will be judged, [count, classes]."""
    tuned.eval()
    starts = range(0, count, batch)
    said = [tuned(engine.ready(feed.still(np.arange(start, min(start + batch, count))))) for start in starts]
    return torch.cat(said).double().cpu().numpy()


def seed_of(*parts: object) -> int:
    """A seed for torch from whatever the draw depends on."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def find_rate(lesson: Lesson) -> float:
    """The rate that a range test speaks for (Smith 2017); the weights are as before when it returns."""
    tensors = [*(parameter for _, _, parameter in lesson.parameters), *lesson.tuned.buffers()]
    before = [tensor.detach().clone() for tensor in tensors]
    state = State(lesson)
    order = balance.order(len(lesson.targets), lesson.targets, lesson.recipe, lesson.seed, 0)
    size = min(lesson.batch, len(order))
    groups = [np.resize(order[start:], size) for start in range(0, len(order), size)]
    groups = (groups * len(optim.RATES))[: len(optim.RATES)]
    inputs = lesson.feed.batches(groups, 0)
    steps = iter(zip(groups, inputs, strict=True))

    def tried(rate: float) -> float:
        rows, batch = next(steps)
        optim.set_rate(state.optimizer, rate)
        state.step += 1  # for draws of its own
        return _update(state, batch, lesson.targets[rows], 0, checked=False)

    try:
        return optim.range_test(tried)
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


def _update(state: State, inputs: Tensor, targets: Tensor, epoch: int, checked: bool = True) -> float:
    """One update of the weights; the mean loss before it."""
    lesson = state.lesson
    inputs, targets = mix.mix(inputs, targets, lesson.recipe, lesson.seed, epoch, state.step)
    inputs, targets = engine.ready(inputs), targets.to(inputs.device)
    loss = _gradients(state, inputs, targets, seed_of(lesson.seed, epoch, state.step))
    limit = EXPLODED * math.log(max(lesson.targets.shape[1], 3))
    if checked and not loss <= limit:
        raise TrainingError(diverged(loss, lesson, epoch, state.step))
    if lesson.recipe.clip:
        nn.utils.clip_grad_norm_(state.trained, lesson.recipe.clip)
    state.optimizer.step()
    state.schedule.step()
    if state.ema:
        state.ema.update(state.trained)
    return loss


def _gradients(state: State, inputs: Tensor, targets: Tensor, seed: int) -> float:
    """The mean loss, its gradients left in the parameters; when memory runs out, in smaller and smaller pieces."""
    while True:
        state.optimizer.zero_grad(set_to_none=True)
        try:
            with seeded(seed, gpu=inputs.is_cuda):
                return _backward(state, inputs, targets)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        if state.chunk == 1:
            raise TrainingError(
                "Memory does not suffice to train on a single picture at a time. Use a smaller network "
                "(`graft backbones`), or a cut further up: --strategy tail."
            )
        state.chunk //= 2


def _backward(state: State, inputs: Tensor, targets: Tensor) -> float:
    lesson, total = state.lesson, 0.0
    alone = min(len(inputs), state.chunk, len(inputs) % state.chunk or state.chunk) == 1
    training_mode(lesson.tuned, lesson.recipe, alone)
    for part in lesson.still:
        part.eval()
    for some, wanted in zip(inputs.split(state.chunk), targets.split(state.chunk), strict=True):
        said = lesson.tuned(some)
        each = state.loss_of(said if state.prior is None else said + state.prior.to(said), wanted)
        loss = (each if state.weigh is None else each * state.weigh(wanted)).sum() / len(inputs)
        loss.backward()
        total += loss.item()
    if lesson.recipe.l1 or lesson.recipe.l2_sp:
        starts = [lesson.starts[name] for _, name, _ in lesson.parameters]
        extra = losses.penalty(state.trained, starts, lesson.recipe)
        assert extra is not None
        extra.backward()
    return total


def training_mode(tuned: nn.Module, recipe: Recipe, alone: bool = False) -> None:
    """Train mode; batch norm keeps its statistics unless the recipe says otherwise, and for a picture `alone`."""
    tuned.train()
    if recipe.batch_norm == "frozen" or alone:  # one picture has no statistics
        for part in tuned.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """A GPU says it by the kind of error; on a CPU it is the words of PyTorch, which differ with the system."""
    words = ("not enough memory", "can't allocate memory", "bad_alloc")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(each in str(error) for each in words)


def diverged(loss: float, lesson: Lesson, epoch: int, step: int) -> str:
    what = "is no number any more" if math.isnan(loss) else f"has exploded ({loss:.3g})"
    return (
        f"The loss {what} in epoch {epoch + 1}, step {step + 1}, at rate {lesson.rate:g}. "
        f"Lower the rate, for example --recipe rate={lesson.rate / 10:g}"
        f"{'' if lesson.recipe.clip else ', or limit the gradients: clip=1'}."
    )
