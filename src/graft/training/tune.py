"""From a start to trained weights: phase after phase through the one loop, then the best blend of what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.errors import TrainingError
from graft.model import history
from graft.model.history import Epoch
from graft.progress import Work
from graft.training import blend, loop, metrics
from graft.training.blend import Weights
from graft.training.checkpoint import Run
from graft.training.loop import State, Step
from graft.training.phases import Ground, Taught, taught

Told = Callable[[Epoch], None]

SAVE_EVERY = 60.0  # seconds between checkpoints inside an epoch


@dataclass
class Course:
    """How far a training has come over all its phases; with the state of the loop it makes a checkpoint."""

    phase: int = 0
    updates: int = 0
    waited: int = 0  # epochs of this phase without a better score
    score: float = float("-inf")  # higher is better
    best: Weights = field(default_factory=dict)
    mean: Weights = field(default_factory=dict)
    averaged: int = 0  # epochs in the mean
    epochs: list[Epoch] = field(default_factory=list)
    trouble: str = ""  # why it stopped before its end


@dataclass(frozen=True)
class Tuned:
    """What a training came to: the held-out logits [n, classes] by the weights that the network now has, and how."""

    logits: NDArray[np.float64]
    mixed: blend.Mixed
    course: Course


def tune(ground: Ground, run: Run | None, told: Told) -> Tuned:
    """Train the ground's network in place, and leave the weights in it that the validation pictures speak for.

    With a run, checkpoints are kept in its folder, and training goes on from the newest one. `told` hears of each
    epoch. Raises TrainingError when the loss explodes before the first epoch is over; later, the best epoch counts.
    """
    course, resumed = Course(), run.latest() if run else None
    starts = blend.snapshot(ground.network, ground.names)
    if resumed:
        course = _restored(ground, resumed[1])
    for number in range(course.phase, len(ground.phases)):
        lesson = taught(ground, number, starts)
        state = State(lesson.lesson)
        if resumed:
            state.load_state_dict(resumed[1]["state"])
            resumed = None
        elif number > course.phase:
            course.phase, course.waited = number, 0
        try:
            _phase(ground, lesson, state, course, _Keeper(run, told))
        except TrainingError as error:
            if not course.best:
                raise
            course.trouble = f"{error} The best epoch before that is kept."
            break
    return _finished(ground, starts, course)


@dataclass
class _Keeper:
    """Writes down what happens: checkpoints, history, logs."""

    run: Run | None
    told: Told
    saved: float = field(default_factory=time.monotonic)

    def epoch(self, epoch: Epoch) -> None:
        if self.run:
            self.run.record(epoch)
        self.told(epoch)

    def step(self, ground: Ground, state: State, course: Course, last: bool) -> None:
        if self.run and (last or time.monotonic() - self.saved > SAVE_EVERY):
            self.run.save(course.updates, _state(ground, state, course))
            self.saved = time.monotonic()


def _phase(ground: Ground, taught: Taught, state: State, course: Course, keeper: _Keeper) -> None:
    """One phase: step by step, and a verdict after each epoch."""
    recipe, lesson = ground.recipe, taught.lesson
    note = _Note()
    before = lesson.updates * state.epoch + state.step
    work = Work("updates", note, before)
    if recipe.patience and course.waited >= recipe.patience:  # it was over when the run was interrupted
        return
    began = time.monotonic()
    for step in ground.watch(loop.train(lesson, state), work, lesson.updates * lesson.epochs):
        course.updates += 1
        note.step = step
        if step.last:
            epoch = _judged(ground, taught, state, course, step, time.monotonic() - began)
            began = time.monotonic()
            note.epoch = epoch
            keeper.epoch(epoch)
        keeper.step(ground, state, course, step.last)
        if step.last and recipe.patience and course.waited >= recipe.patience:
            return


def _judged(ground: Ground, taught: Taught, state: State, course: Course, step: Step, seconds: float) -> Epoch:
    """What the validation pictures say of this epoch; the best weights so far are kept."""
    recipe, lesson = ground.recipe, taught.lesson
    with _averaged(state):
        said = loop.logits(lesson.tuned, taught.held_out, len(ground.valid), lesson.batch)
        scores = metrics.judged(said, ground.labels, recipe.metric)
        score = metrics.higher(scores, recipe.metric)
        better = score > course.score
        if better:
            course.score, course.best, course.waited = score, blend.snapshot(ground.network, ground.names), 0
        else:
            course.waited += 1
        if 2 * step.epoch >= recipe.epochs and recipe.blend == "auto":
            course.mean = blend.averaged(course.mean, ground.network, ground.names, course.averaged)
            course.averaged += 1
    state.schedule.epoch(scores[recipe.metric])
    epoch = Epoch(
        phase=taught.name,
        number=step.epoch + 1,
        of=recipe.epochs,
        step=course.updates,
        rate=step.rate,
        loss=step.loss,
        seconds=seconds,
        pictures=len(ground.inner),
        metrics=scores,
        best=better,
    )
    course.epochs.append(epoch)
    return epoch


@contextmanager
def _averaged(state: State) -> Iterator[None]:
    """With the moving average in place of the weights, where there is one."""
    if state.ema:
        state.ema.swap(state.trained)
    try:
        yield
    finally:
        if state.ema:
            state.ema.swap(state.trained)


@dataclass
class _Note:
    """What stands beside the bar."""

    step: Step | None = None
    epoch: Epoch | None = None

    def __call__(self) -> str:
        done = history.line(self.epoch) if self.epoch else ""
        now = f"epoch {self.step.epoch + 1}, loss {self.step.loss:.3f}" if self.step else "training"
        return f"{now}; before: {done}" if done else now


def _finished(ground: Ground, starts: Weights, course: Course) -> Tuned:
    """Choose among start, best epoch, their blends and the mean of the epochs; the winner is left in the network."""
    last = taught(ground, len(ground.phases) - 1, starts)

    def judged() -> tuple[NDArray[np.float64], float]:
        said = loop.logits(last.lesson.tuned, last.held_out, len(ground.valid), last.lesson.batch)
        scores = metrics.judged(said, ground.labels, ground.recipe.metric)
        return said, metrics.higher(scores, ground.recipe.metric)

    wise = ground.recipe.blend == "auto"
    origin = starts if wise and ground.start == "solved" else {}
    said, mixed = blend.best_of(ground.network, origin, course.best, course.mean if wise else {}, judged)
    return Tuned(said, mixed, course)


def _state(ground: Ground, state: State, course: Course) -> dict[str, Any]:
    """A checkpoint: weights, the state of the loop, and the course."""
    return {
        "weights": blend.snapshot(ground.network, ground.names),
        "state": state.state_dict(),
        "course": {**vars(course), "epochs": [vars(epoch) for epoch in course.epochs]},
    }


def _restored(ground: Ground, saved: dict[str, Any]) -> Course:
    blend.restore(ground.network, saved["weights"])
    course = saved["course"]
    return Course(**{**course, "epochs": [Epoch(**epoch) for epoch in course["epochs"]]})
