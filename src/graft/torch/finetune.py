"""Fine-tuning: run the phases through the training loop, then choose the best blend of weights."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.backbone import Backbone as Pretrained
from graft.errors import TrainingError
from graft.metrics import ranking
from graft.model import history
from graft.model.history import Epoch
from graft.progress import ProgressTask, ProgressWrapper
from graft.torch import adapters, engine, loop, optim, phases
from graft.torch.checkpoint import TrainingRun
from graft.torch.loop import PhaseInputs, TrainingState, TrainingStep
from graft.torch.optim import Weights
from graft.torch.phases import (
    FinetuneInputs,
    PreparedPhase,
    prepare_phase,
)
from graft.torch.record import describe_phases, describe_refit
from graft.torch.restore import backbone_to_module, module_to_network
from graft.training.material import Material
from graft.training.plan import Plan
from graft.training.probe import FinetunedNetwork, TrainedNetwork, fit_probe
from graft.training.strategies import Lora

EpochCallback = Callable[[Epoch], None]

SAVE_EVERY = 60.0  # seconds between checkpoints inside an epoch


@dataclass
class FinetuneProgress:
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
class FinetuneResult:
    """Result of fine-tuning: weights, held-out logits [n, classes], and the progress."""

    logits: NDArray[np.float64]
    blend_result: optim.BlendResult
    progress: FinetuneProgress
    kept_epoch: int  # the number of the epoch that is mixed with the start
    weights: Weights


def finetune(
    inputs: FinetuneInputs,
    starts: Weights,
    run: TrainingRun | None,
    on_epoch: EpochCallback,
    checkpoint: dict[str, Any] | None = None,
) -> FinetuneResult:
    """Train the network of the inputs in place, and leave the weights in it that score best on the validation images.

    `starts` are the weights that it comes with. With a run, checkpoints are kept in its folder; `checkpoint` is one to
    resume from. `on_epoch` is called after each epoch. Raises TrainingError when the loss explodes in the first epoch;
    later, the best epoch counts.
    """
    if checkpoint and checkpoint["chosen"]:  # it was interrupted later, when all was chosen
        result = _result_from_dict(checkpoint["chosen"])
        optim.restore(inputs.network, result.weights)
        return result
    progress, last = _run_phases(inputs, starts, _RunRecorder(run, on_epoch), checkpoint)
    return _choose_blend(inputs, starts, progress, last)


def refit(
    inputs: FinetuneInputs,
    starts: Weights,
    result: FinetuneResult,
    run: TrainingRun | None,
    on_epoch: EpochCallback,
    checkpoint: dict[str, Any] | None = None,
) -> None:
    """Train what was chosen a little further, on all images, those held out included.

    Raises TrainingError when the loss explodes.
    """
    gc.collect()  # the halves of a cut refer to themselves: gradients and copies of the training before
    progress, _ = _run_phases(
        inputs.build_refit(result.progress.rates[-1]),
        starts,
        _RunRecorder(run, on_epoch, result),
        checkpoint if checkpoint and checkpoint["chosen"] else None,
    )
    optim.restore(inputs.network, progress.best)


def _run_phases(
    inputs: FinetuneInputs, starts: Weights, recorder: _RunRecorder, checkpoint: dict[str, Any] | None
) -> tuple[FinetuneProgress, PreparedPhase]:
    """Phase after phase, from the start or from a checkpoint; with the last phase that was reached."""
    progress = _restore_progress(inputs, checkpoint) if checkpoint else FinetuneProgress()
    prepared = None
    for number in range(progress.phase, len(inputs.phases)):
        known = progress.rates[number] if number < len(progress.rates) else None
        prepared = prepare_phase(inputs, number, starts, known)
        progress.rates = [*progress.rates[:number], prepared.phase_inputs.rate]
        state = TrainingState(prepared.phase_inputs)
        if checkpoint:
            state.load_state_dict(checkpoint["state"])
            checkpoint = None
        elif number > progress.phase:
            progress.phase, progress.waited = number, 0
        try:
            _train_phase(inputs, prepared, state, progress, recorder)
        except TrainingError as error:
            if recorder.refit_of or not progress.best:
                raise
            progress.trouble = (
                f"{error} The {'last' if inputs.is_last_epoch_kept else 'best'} epoch before that is kept."
            )
            break
    assert prepared  # a checkpoint is never past the last phase
    return progress, prepared


@dataclass
class _RunRecorder:
    """Writes down what happens: checkpoints, history, logs. `refit_of` is what a refit repeats."""

    run: TrainingRun | None
    on_epoch: EpochCallback
    refit_of: FinetuneResult | None = None
    saved_at: float = field(default_factory=time.monotonic)

    def record_epoch(self, epoch: Epoch) -> None:
        if self.refit_of:  # the curves are those of the training by which all was chosen
            return
        if self.run:
            self.run.append_epoch(epoch)
        self.on_epoch(epoch)

    def save_step(self, inputs: FinetuneInputs, state: TrainingState, progress: FinetuneProgress, last: bool) -> None:
        if self.run and (last or time.monotonic() - self.saved_at > SAVE_EVERY):
            before = self.refit_of.progress.updates if self.refit_of else 0
            self.run.save(before + progress.updates, _build_checkpoint(inputs, state, progress, self.refit_of))
            self.saved_at = time.monotonic()


def _train_phase(
    inputs: FinetuneInputs,
    prepared: PreparedPhase,
    state: TrainingState,
    progress: FinetuneProgress,
    recorder: _RunRecorder,
) -> None:
    """One phase: step by step, and a verdict after each epoch."""
    recipe, phase_inputs = inputs.recipe, prepared.phase_inputs
    note = _ProgressText()
    before = phase_inputs.updates * state.epoch + state.step
    work = ProgressTask("updates on all images" if recorder.refit_of else "updates", note, before)
    if recipe.patience and progress.waited >= recipe.patience:  # it was over when the run was interrupted
        return
    began = time.monotonic()
    with _fold_frozen_norms(phase_inputs):
        for step in inputs.watch(loop.train(phase_inputs, state), work, phase_inputs.updates * phase_inputs.epochs):
            progress.updates += 1
            note.step = step
            if step.is_last:
                epoch = _evaluate_epoch(inputs, prepared, state, progress, step, time.monotonic() - began)
                began = time.monotonic()
                note.epoch = epoch
                recorder.record_epoch(epoch)
            recorder.save_step(inputs, state, progress, step.is_last)
            if step.is_last and recipe.patience and progress.waited >= recipe.patience:
                return


def _fold_frozen_norms(phase_inputs: PhaseInputs) -> AbstractContextManager[object]:
    """Each step is cheaper with the statistics of batch norm folded in, and the same but for the last bits."""
    if phase_inputs.recipe.batch_norm != "frozen":
        return nullcontext()
    rows = np.arange(min(2, len(phase_inputs.targets)))
    batch = engine.move_batch_to_device(phase_inputs.feed.read_evaluation_batch(rows))
    return engine.fold_batch_norm(phase_inputs.tuned, batch)


def _evaluate_epoch(
    inputs: FinetuneInputs,
    prepared: PreparedPhase,
    state: TrainingState,
    progress: FinetuneProgress,
    step: TrainingStep,
    seconds: float,
) -> Epoch:
    """Evaluate this epoch on the validation images; the best weights so far are kept."""
    recipe = inputs.recipe
    with _swap_in_ema(state):
        scores = _evaluate_held_out(inputs, prepared)[1] if len(inputs.valid_rows) else {}
        score = (
            ranking.score_to_maximise(scores, recipe.metric) if scores else float(step.epoch)
        )  # in a refit the last one counts
        better = score > progress.score
        if better or inputs.is_last_epoch_kept:
            progress.best = optim.snapshot(inputs.network, inputs.tensor_names)
        progress.score, progress.waited = max(score, progress.score), 0 if better else progress.waited + 1
        if 2 * step.epoch >= recipe.epochs and recipe.blend == "auto":
            progress.mean = optim.update_mean(progress.mean, inputs.network, inputs.tensor_names, progress.averaged)
            progress.averaged += 1
    if scores:
        state.schedule.end_epoch(scores[recipe.metric])
    epoch = Epoch(
        phase=prepared.name,
        number=step.epoch + 1,
        of=recipe.epochs,
        step=progress.updates,
        rate=step.rate,
        loss=step.loss,
        seconds=seconds,
        images=len(inputs.train_rows),
        metrics=scores,
        best=better and bool(scores),
    )
    progress.epochs.append(epoch)
    return epoch


def _evaluate_held_out(inputs: FinetuneInputs, prepared: PreparedPhase) -> tuple[NDArray[np.float64], ranking.Scores]:
    """Return the logits of the held-out images, and their scores."""
    logits = loop.predict_logits(
        prepared.phase_inputs.tuned, prepared.held_out, len(inputs.valid_rows), prepared.phase_inputs.batch
    )
    if not np.isfinite(logits).all():
        raise TrainingError(
            loop.describe_divergence(
                float("nan"), prepared.phase_inputs, inputs.recipe.epochs - 1, prepared.phase_inputs.updates
            )
        )
    return logits, ranking.compute_scores(logits, inputs.valid_labels, inputs.recipe.metric)


@contextmanager
def _swap_in_ema(state: TrainingState) -> Iterator[None]:
    """With the moving average in place of the weights, where there is one."""
    if state.ema:
        state.ema.swap(state.trained)
    try:
        yield
    finally:
        if state.ema:
            state.ema.swap(state.trained)


@dataclass
class _ProgressText:
    """What stands beside the bar."""

    step: TrainingStep | None = None
    epoch: Epoch | None = None

    def __call__(self) -> str:
        done = history.format_epoch(self.epoch) if self.epoch else ""
        now = f"epoch {self.step.epoch + 1}, loss {self.step.loss:.3f}" if self.step else "training"
        return f"{now}; before: {done}" if done else now


def _choose_blend(
    inputs: FinetuneInputs, starts: Weights, progress: FinetuneProgress, last: PreparedPhase
) -> FinetuneResult:
    """Choose among start, best epoch, their blends and the mean of the epochs; the winner is left in the network."""

    def evaluate() -> optim.ScoredLogits:
        logits, scores = _evaluate_held_out(inputs, last)
        return logits, ranking.score_to_maximise(scores, inputs.recipe.metric)

    may_blend = inputs.recipe.blend == "auto"
    origin = starts if may_blend and inputs.start == "solved" else {}
    logits, mixed = optim.choose_best(
        inputs.network, origin, progress.best, progress.mean if may_blend else {}, evaluate
    )
    kept = progress.epochs[-1].number if inputs.is_last_epoch_kept else progress.best_epoch
    return FinetuneResult(logits, mixed, progress, kept, optim.snapshot(inputs.network, inputs.tensor_names))


def _build_checkpoint(
    inputs: FinetuneInputs, state: TrainingState, progress: FinetuneProgress, chosen: FinetuneResult | None
) -> dict[str, Any]:
    """A checkpoint: weights, the state of the loop, the course; in a refit also what was chosen before."""
    return {
        "weights": optim.snapshot(inputs.network, inputs.tensor_names),
        "state": state.state_dict(),
        "course": _progress_to_dict(progress),
        "chosen": {
            "logits": torch.from_numpy(chosen.logits),
            "mixed": vars(chosen.blend_result),
            "course": _progress_to_dict(chosen.progress) | {"best": {}, "mean": {}},
            "kept": chosen.kept_epoch,
            "weights": chosen.weights,
        }
        if chosen
        else None,
    }


def _progress_to_dict(progress: FinetuneProgress) -> dict[str, Any]:
    return {**vars(progress), "epochs": [vars(epoch) for epoch in progress.epochs]}


def _progress_from_dict(plain: dict[str, Any]) -> FinetuneProgress:
    return FinetuneProgress(**{**plain, "epochs": [history.epoch_from_dict(epoch) for epoch in plain["epochs"]]})


def _result_from_dict(plain: dict[str, Any]) -> FinetuneResult:
    mixed, progress = optim.BlendResult(**plain["mixed"]), _progress_from_dict(plain["course"])
    return FinetuneResult(plain["logits"].numpy(), mixed, progress, plain["kept"], plain["weights"])


def _restore_progress(inputs: FinetuneInputs, checkpoint: dict[str, Any]) -> FinetuneProgress:
    optim.restore(inputs.network, checkpoint["weights"])
    return _progress_from_dict(checkpoint["course"])


def train(
    plan: Plan,
    pretrained: Pretrained,
    material: Material,
    run: TrainingRun | None,
    on_epoch: EpochCallback,
    watch: ProgressWrapper,
) -> TrainedNetwork:
    """Weights above a cut, trained by the loop; where validation speaks for the start alone, that is a probe."""
    backbone = backbone_to_module(pretrained)
    saved = run.load_latest() if run else None
    checkpoint = saved[1] if saved else None
    inputs = phases.build_finetune_inputs(plan, pretrained, backbone, material, watch)
    starts = optim.snapshot(inputs.network, inputs.tensor_names)
    result = finetune(inputs, starts, run, on_epoch, checkpoint)
    if plan.may_keep_probe:
        result = _compare_with_probe(plan, pretrained, inputs, result)
    record = describe_phases(inputs, result.progress.epochs) | describe_training(result)
    if result.blend_result.share == 0:  # the solved head won; solved on all images it is better still
        probe = fit_probe(Plan(backbone=plan.backbone, seed=plan.seed), pretrained, material, watch)
        return replace(probe, record=record | {"solved_again": len(material.train)} | probe.record)
    if inputs.has_refit and not result.progress.trouble:
        try:
            refit(inputs, starts, result, run, on_epoch, checkpoint)
            record |= describe_refit(inputs, record)
        except TrainingError as error:
            optim.restore(inputs.network, result.weights)
            why = "Training on, with all images, failed: what was held out to choose by is not learned from."
            record["training"]["trouble"] = f"{why} {error}"
    if isinstance(plan.parsed_strategy, Lora):
        adapters.merge_adapters(backbone.module)
    return _to_trained_network(inputs, result, record)


def _to_trained_network(inputs: FinetuneInputs, result: FinetuneResult, record: dict[str, Any]) -> TrainedNetwork:
    network = inputs.network.eval().requires_grad_(False)
    network.to("cpu", memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    gc.collect()
    return FinetunedNetwork.from_record(
        module_to_network(network), inputs.material, result.logits, inputs.valid_labels, inputs.valid_rows, record
    ).centre_logits()


def _compare_with_probe(
    plan: Plan, pretrained: Pretrained, inputs: FinetuneInputs, result: FinetuneResult
) -> FinetuneResult:
    """The result with a share of 0 where a head that is solved on the same images scores better than the training."""
    probe = fit_probe(
        Plan(backbone=plan.backbone, seed=plan.seed), pretrained, inputs.material, inputs.watch, inputs.train_rows
    )
    logits = np.concatenate([probe.network.head(features) for features in probe.iterate_features(inputs.valid_rows)])
    metric = inputs.recipe.metric
    score = ranking.score_to_maximise(ranking.compute_scores(logits.astype(float), inputs.valid_labels, metric), metric)
    mixed = result.blend_result
    tried = mixed.tried | {"solved head": score}
    share = 0.0 if score > mixed.score else mixed.share
    return replace(result, blend_result=replace(mixed, share=share, tried=tried))


def describe_training(result: FinetuneResult) -> dict[str, Any]:
    """What came of the training."""
    progress, mixed = result.progress, result.blend_result
    return {
        "training": {
            "epochs": len(progress.epochs),
            "best_epoch": progress.best_epoch,
            "kept": result.kept_epoch,
            "blend": {"share": mixed.share, "mean": mixed.mean, "tried": mixed.tried},
            "rates": progress.rates,
            "trouble": progress.trouble,
            "history": [asdict(epoch) for epoch in progress.epochs],
        }
    }
