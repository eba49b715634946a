"""From a start to trained weights: phase after phase through the one loop, then the best blend of what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.errors import TrainingError
from graft.model import history
from graft.model.history import Epoch
from graft.progress import Work
from graft.torch import blend, loop
from graft.torch.blend import Weights
from graft.torch.checkpoint import Run
from graft.torch.loop import State, Step
from graft.torch.phases import Ground, Taught, taught
from graft.training import metrics

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
    rates: list[float] = field(default_factory=list)  # of the head, in each phase
    trouble: str = ""  # why it stopped before its end

    @property
    def best_epoch(self) -> int:
        """Its number, counted from 1; 0 before the first."""
        return max((epoch.number for epoch in self.epochs if epoch.best), default=0)


@dataclass(frozen=True)
class Tuned:
    """What a training came to: its weights, what they say of the held-out pictures, [n, classes], and how it went."""

    logits: NDArray[np.float64]
    mixed: blend.Mixed
    course: Course
    kept: int  # the number of the epoch that is mixed with the start
    weights: Weights


def tune(ground: Ground, run: Run | None, told: Told, saved: dict[str, Any] | None = None) -> Tuned:
    """Train the ground's network in place, and leave the weights in it that the validation pictures speak for.

    With a run, checkpoints are kept in its folder; `saved` is one to go on from. `told` hears of each epoch. Raises
    TrainingError when the loss explodes before the first epoch is over; later, the best epoch counts.
    """
    if saved and saved["chosen"]:  # it was interrupted later, when all was chosen
        tuned = _chosen(saved["chosen"])
        blend.restore(ground.network, tuned.weights)
        return tuned
    starts = blend.snapshot(ground.network, ground.names)
    course, last = _taught(ground, starts, _Keeper(run, told), saved)
    return _finished(ground, starts, course, last)


def again(ground: Ground, tuned: Tuned, run: Run | None, told: Told, saved: dict[str, Any] | None = None) -> None:
    """The same training with nothing held out, at the same rates and blended as was best.

    Raises TrainingError when the loss explodes.
    """
    starts = blend.snapshot(ground.network, ground.names)
    course, _ = _taught(ground, starts, _Keeper(run, told, tuned), saved if saved and saved["chosen"] else None)
    end = course.mean if tuned.mixed.mean else course.best
    blend.restore(ground.network, blend.between(starts, end, tuned.mixed.share))


def _taught(ground: Ground, starts: Weights, keeper: _Keeper, saved: dict[str, Any] | None) -> tuple[Course, Taught]:
    """Phase after phase, from the start or from a checkpoint; with the last phase that was reached."""
    course = _restored(ground, saved) if saved else Course()
    lesson = None
    for number in range(course.phase, len(ground.phases)):
        rates = keeper.chosen.course.rates if keeper.chosen else course.rates
        lesson = taught(ground, number, starts, rates[number] if number < len(rates) else None)
        course.rates = [*course.rates[:number], lesson.lesson.rate]
        state = State(lesson.lesson)
        if saved:
            state.load_state_dict(saved["state"])
            saved = None
        elif number > course.phase:
            course.phase, course.waited = number, 0
        try:
            _phase(ground, lesson, state, course, keeper)
        except TrainingError as error:
            if keeper.chosen or not course.best:
                raise
            course.trouble = f"{error} The {'last' if ground.refits else 'best'} epoch before that is kept."
            break
    assert lesson  # a checkpoint is never past the last phase
    return course, lesson


@dataclass
class _Keeper:
    """Writes down what happens: checkpoints, history, logs. `chosen` is what a refit repeats."""

    run: Run | None
    told: Told
    chosen: Tuned | None = None
    saved: float = field(default_factory=time.monotonic)

    def epoch(self, epoch: Epoch) -> None:
        if self.chosen:  # the curves are those of the training by which all was chosen
            return
        if self.run:
            self.run.record(epoch)
        self.told(epoch)

    def step(self, ground: Ground, state: State, course: Course, last: bool) -> None:
        if self.run and (last or time.monotonic() - self.saved > SAVE_EVERY):
            before = self.chosen.course.updates if self.chosen else 0
            self.run.save(before + course.updates, _state(ground, state, course, self.chosen))
            self.saved = time.monotonic()


def _phase(ground: Ground, taught: Taught, state: State, course: Course, keeper: _Keeper) -> None:
    """One phase: step by step, and a verdict after each epoch."""
    recipe, lesson = ground.recipe, taught.lesson
    note = _Note()
    before = lesson.updates * state.epoch + state.step
    work = Work("updates on all pictures" if keeper.chosen else "updates", note, before)
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
    recipe = ground.recipe
    with _averaged(state):
        scores = _answers(ground, taught)[1] if len(ground.valid) else {}
        score = metrics.higher(scores, recipe.metric) if scores else float(step.epoch)  # in a refit the last one counts
        better = score > course.score
        if better or ground.refits:
            course.best = blend.snapshot(ground.network, ground.names)
        course.score, course.waited = max(score, course.score), 0 if better else course.waited + 1
        if 2 * step.epoch >= recipe.epochs and recipe.blend == "auto":
            course.mean = blend.averaged(course.mean, ground.network, ground.names, course.averaged)
            course.averaged += 1
    if scores:
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
        best=better and bool(scores),
    )
    course.epochs.append(epoch)
    return epoch


def _answers(ground: Ground, taught: Taught) -> tuple[NDArray[np.float64], metrics.Scores]:
    """What the network says of the held-out pictures, and how good that is."""
    said = loop.logits(taught.lesson.tuned, taught.held_out, len(ground.valid), taught.lesson.batch)
    if not np.isfinite(said).all():
        raise TrainingError(loop.diverged(float("nan"), taught.lesson, ground.recipe.epochs - 1, taught.lesson.updates))
    return said, metrics.judged(said, ground.labels, ground.recipe.metric)


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


def _finished(ground: Ground, starts: Weights, course: Course, last: Taught) -> Tuned:
    """Choose among start, best epoch, their blends and the mean of the epochs; the winner is left in the network."""

    def judged() -> blend.Judged:
        said, scores = _answers(ground, last)
        return said, metrics.higher(scores, ground.recipe.metric)

    wise = ground.recipe.blend == "auto"
    origin = starts if wise and ground.start == "solved" else {}
    said, mixed = blend.best_of(ground.network, origin, course.best, course.mean if wise else {}, judged)
    kept = course.epochs[-1].number if ground.refits else course.best_epoch
    return Tuned(said, mixed, course, kept, blend.snapshot(ground.network, ground.names))


def _state(ground: Ground, state: State, course: Course, chosen: Tuned | None) -> dict[str, Any]:
    """A checkpoint: weights, the state of the loop, the course; in a refit also what was chosen before."""
    return {
        "weights": blend.snapshot(ground.network, ground.names),
        "state": state.state_dict(),
        "course": _plain(course),
        "chosen": {
            "logits": torch.from_numpy(chosen.logits),
            "mixed": vars(chosen.mixed),
            "course": _plain(chosen.course) | {"best": {}, "mean": {}},
            "kept": chosen.kept,
            "weights": chosen.weights,
        }
        if chosen
        else None,
    }


def _plain(course: Course) -> dict[str, Any]:
    return {**vars(course), "epochs": [vars(epoch) for epoch in course.epochs]}


def _course(plain: dict[str, Any]) -> Course:
    return Course(**{**plain, "epochs": [Epoch(**epoch) for epoch in plain["epochs"]]})


def _chosen(plain: dict[str, Any]) -> Tuned:
    mixed, course = blend.Mixed(**plain["mixed"]), _course(plain["course"])
    return Tuned(plain["logits"].numpy(), mixed, course, plain["kept"], plain["weights"])


def _restored(ground: Ground, saved: dict[str, Any]) -> Course:
    blend.restore(ground.network, saved["weights"])
    return _course(saved["course"])
