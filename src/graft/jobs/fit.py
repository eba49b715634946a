"""Train a classifier on labelled images, evaluate it and save it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Unpack

from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.features import build_probe_features
from graft.backbones.weights import RANDOM, resolve_weights_file
from graft.data.classes import check_classes_repeat
from graft.data.dataset import TEST, Dataset
from graft.data.readers.source import read_source
from graft.errors import UsageError
from graft.extras import require_package
from graft.features.embed import embed
from graft.jobs import direct, outputs, runs
from graft.jobs.finalize import finalize, record_seconds
from graft.jobs.report.report import render_report, source_arguments
from graft.jobs.runs import EpochCallback, RunTracker, ignore_epoch, open_run
from graft.model import card, storage
from graft.model.classifier import Classifier
from graft.progress import ProgressWrapper, no_progress
from graft.training import probe
from graft.training.material import Findings, Material, prepare_material
from graft.training.plan import Plan, PlanChanges, as_plan
from graft.training.probe import TrainedNetwork, fit_probe
from graft.training.strategies import Direct


def fit(
    source: Any,
    output: str | Path | None = None,
    plan: Plan | str = "probe",
    *,
    against: Any = None,
    columns: str = "",
    strict: bool = False,
    boxes: bool = False,
    weights: str | Path | None = None,
    offline: bool = False,
    resume: bool = False,
    log: str = "",
    report: bool = True,
    force: bool = False,
    on_epoch: EpochCallback = ignore_epoch,
    watch: ProgressWrapper = no_progress,
    **changes: Unpack[PlanChanges],
) -> Classifier:
    """Train a classifier on labelled images, score it on images kept aside, and save it.

    `source` is a folder with one folder for each class (or train/val/test folders of these), a table of files and
    labels, an archive, a published data set, or an object that holds images; `columns`, `strict` and `boxes` say how
    it is read: see `graft.read_source`. With `against` it is one class against the rest: a folder of images of the
    class, called like it, and in `against` images of anything else. A fifth of the images is held out for the score
    unless the source has a test part. With no `output` nothing is saved. The test images influence nothing but the
    score; near-duplicates are kept on one side of the split.

    `plan` is a `graft.Plan` or its text, such as 'tail:cut=0.5 backbone=resnet18', and the linear probe unless given;
    `strategy`, `head`, `recipe`, `backbone` and `seed` may be given as keywords, which change it. `weights` is a file,
    or 'random': weights drawn from the seed, to see what pretraining is worth. While a strategy trains, checkpoints are
    saved in `output`.run, and `resume` continues from there. `log` names 'tensorboard', 'mlflow' or both; `on_epoch` is
    called after each epoch. With `report` the folder has a report.html to look at.

    Raises GraftError: UsageError, DataError, WeightsError, CutError, TrainingError or OutputError; each message says
    what to do.

    >>> import graft
    >>> graft.fit("photos/", "model/").predict("photo.jpg")[0].label  # doctest: +SKIP
    'tulip'
    >>> graft.fit("photos/", plan="tail:cut=0.5", backbone="resnet18", seed=1)  # doctest: +SKIP
    """
    # A file's path is no part of a plan, as it may change: '' only says that a file was given.
    start_weights = None if weights is None else RANDOM if weights == RANDOM else ""
    plan = as_plan(plan).change(weights=start_weights, **changes)
    _check_options(plan, output, resume, log)
    place, times = None if output is None else outputs.resolve_output(output), dict[str, float]()
    with storage.lock_folder(place, force=force) if place else nullcontext():
        with record_seconds(times, "read images"):
            data = read_source(source, columns=columns, strict=strict, boxes=boxes, against=against, watch=watch)
        check_classes_repeat(data)
        plan = replace(plan, task=data.task)
        _check_data(plan, data)
        if isinstance(plan.parsed_strategy, Direct):
            return _save_classifier(_evaluate_pretrained(plan, data, weights, offline, times, watch), place, force)
        with record_seconds(times, "load network"):
            pretrained = _build_backbone(plan, weights, offline)
            _check_network(plan, pretrained)
        material = _embed_and_split(plan, pretrained, data, offline, times, watch)
        settings = _settings(plan, pretrained, material)
        run_folder = place if plan.is_finetuning else None
        with open_run(run_folder, settings, log, on_epoch, resume=resume, force=force) as tracker:
            with record_seconds(times, "train" if plan.is_finetuning else "solve head"):
                train = _train_network if plan.is_finetuning else _solve_head
                trained = train(plan, pretrained, material, tracker, watch)
            classifier = finalize(plan, pretrained, trained, times, watch, tracker.troubles)
            with record_seconds(times, "report"):
                html = ""
                if place and report and classifier.report["evaluation"]:
                    source_args = source_arguments(source, columns=columns, against=against, boxes=boxes)
                    html = render_report(classifier, material.data.take(material.test), watch, source_args, place)
            classifier = _save_classifier(classifier, place, force, html)
            tracker.finish({name: value for name, value in classifier.card.metrics.items() if isinstance(value, float)})
    return classifier


def _check_options(plan: Plan, output: str | Path | None, resume: bool, log: str) -> None:
    runs.check(log)
    plan.check()
    plan.check_run(bool(output), resume, log)
    if plan.is_finetuning:
        require_package("torch", f"The strategy {plan.strategy!r} changes a network, and that")
        from graft.torch.alone import check_gradients

        check_gradients()


def _check_network(plan: Plan, pretrained: Backbone) -> None:
    """Raise CutError or UsageError for choices that do not fit this network, before minutes of embedding."""
    if plan.is_finetuning:
        from graft.torch import phases

        phases.check_start(plan, pretrained)
    else:
        probe.check_probe(plan, pretrained)


def _solve_head(
    plan: Plan, pretrained: Backbone, material: Material, _tracker: RunTracker, watch: ProgressWrapper
) -> TrainedNetwork:
    return fit_probe(plan, pretrained, material, watch)


def _train_network(
    plan: Plan, pretrained: Backbone, material: Material, tracker: RunTracker, watch: ProgressWrapper
) -> TrainedNetwork:
    """Fine-tune the network."""
    from graft.torch.finetune import train

    return train(plan, pretrained, material, tracker.run, tracker.log_epoch, watch)


def _check_data(plan: Plan, data: Dataset) -> None:
    """Raise UsageError for a head, loss or teacher that does not fit the labels or the number of images."""
    plan.check_task(data.task)
    plan.check_image_count(len(data))
    if plan.parsed_recipe:
        from graft.torch import phases

        phases.check_teachers(plan.parsed_recipe, data)


def _build_backbone(plan: Plan, weights: str | Path | None, offline: bool) -> Backbone:
    """Return the backbone: pretrained, or with weights drawn from the seed."""
    if plan.has_random_weights:
        if weights and weights != RANDOM:
            raise UsageError("The strategy 'scratch' begins with random weights. Leave --weights out, or choose full.")
        require_package("torch", "A network with random weights is drawn by PyTorch, and that")
        from graft.torch.restore import build_random_backbone

        return build_random_backbone(plan.backbone, plan.seed)
    return load_backbone(plan.backbone, resolve_weights_file(weights), offline)


def select_duplicate_backbone(pretrained: Backbone, offline: bool = False) -> Backbone:
    """Return the network that finds near-duplicates: this one or, if its weights are random, the default one."""
    return load_backbone(offline=offline) if pretrained.source.where == RANDOM else pretrained


def _embed_and_split(
    plan: Plan,
    pretrained: Backbone,
    data: Dataset,
    offline: bool,
    times: dict[str, float],
    watch: ProgressWrapper,
) -> Material:
    """Compute features, find near-duplicates, and split the readable images."""
    with record_seconds(times, "embed images"):
        embedded = embed(
            build_probe_features(select_duplicate_backbone(pretrained, offline)), data, seed=plan.seed, watch=watch
        )
    with record_seconds(times, "split"):
        return prepare_material(data, embedded, plan.seed, watch=watch)


def _settings(plan: Plan, pretrained: Backbone, material: Material) -> dict[str, Any]:
    """Return all that a resumed run must have in common with the interrupted one."""
    versions = {name: card.collect_versions().get(name, "") for name in ("graft", "torch", "timm")}
    recipe = {
        f"recipe {name}": value for name, value in (asdict(plan.parsed_recipe) if plan.parsed_recipe else {}).items()
    }
    weights = pretrained.source.sha256 or pretrained.source.origin
    known = asdict(plan) | recipe | {"images": material.fingerprint(), "weights": weights}
    return {name: value for name, value in known.items() if name not in ("recipe", "task")} | versions


def _evaluate_pretrained(
    plan: Plan,
    data: Dataset,
    weights: str | Path | None,
    offline: bool,
    times: dict[str, float],
    watch: ProgressWrapper,
) -> Classifier:
    """Evaluate a network with its published classes: on the test part or, without one, on all images."""
    with record_seconds(times, "load network"):
        classifier = direct.load_published_classifier(plan.backbone, weights, offline=offline)
    known = direct.relabel_dataset(data, classifier)
    tested = known.take(known.part(TEST)) if (known.split == TEST).any() else known
    with record_seconds(times, "evaluate"):
        score = classifier.evaluate(tested, watch=watch).as_dict()
    data_facts = {"train": 0, "test": len(tested), "seed": plan.seed, "root": Path(data.root).name}
    metrics = {name: score[name] for name in ("accuracy", "interval", "macro_f1", "log_loss")}
    described = replace(classifier.card, metrics=metrics, data=data_facts, choices=asdict(plan))
    report = {
        "classes": classifier.classes,
        "task": described.task,
        "strategy": described.strategy,
        "example": known.name(0),
        "evaluation": score,
        "data": data_facts | asdict(Findings({}, dict(data.ignored), columns=data.columns)),
        "seconds": times,
    }
    return replace(classifier, card=described, report=report)


def _save_classifier(classifier: Classifier, output: Path | None, force: bool, html: str = "") -> Classifier:
    if output:
        classifier.save(output, page=html, force=force)
    return classifier
