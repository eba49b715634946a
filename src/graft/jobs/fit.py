"""Train a classifier on labelled images, evaluate it and save it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

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
from graft.training.choices import Choices
from graft.training.material import Findings, Material, prepare_material
from graft.training.probe import fit_probe
from graft.training.strategies import Direct
from graft.training.trained import TrainedNetwork


def fit(
    source: Any,
    output: str | Path | None = None,
    *,
    against: Any = None,
    strategy: str | None = None,
    head: str | None = None,
    recipe: str | None = None,
    backbone: str | None = None,
    weights: str | Path | None = None,
    offline: bool = False,
    seed: int | None = None,
    boxes: bool = False,
    like: str | Path | None = None,
    columns: str = "",
    strict: bool = False,
    resume: bool = False,
    log: str = "",
    report: bool = True,
    force: bool = False,
    on_epoch: EpochCallback = ignore_epoch,
    watch: ProgressWrapper = no_progress,
) -> Classifier:
    """Train a classifier on labelled images, score it on images kept aside, and save it.

    `source` is a folder with one folder for each class (or train/val/test folders of these), a table of files and
    labels, an archive, a published data set, or an object that holds images; `columns`, `strict` and `boxes` say how
    it is read: see `graft.read_source`. With `against` it is one class against the rest: a folder of images of the
    class, called like it, and in `against` images of anything else. A fifth of the images is held out for the score
    unless the source has a test part. With no `output` nothing is saved. The test images influence nothing but the
    score; near-duplicates are kept on one side of the split.

    `strategy` ('probe' unless given), `head` and `recipe` are texts such as 'tail:cut=0.5', 'mlp:hidden=256' and
    'epochs=5,rate=0.001'; `like` is the model.json of a classifier whose choices are the defaults. While a strategy
    trains, checkpoints are saved in `output`.run, and `resume` continues from there. `weights` is a file, or 'random':
    weights drawn from the seed, to see what pretraining is worth. `log` names 'tensorboard',
    'mlflow' or both; `on_epoch` is called after each epoch. With `report` the folder has a report.html to look at.

    Raises GraftError: UsageError, DataError, WeightsError, CutError, TrainingError or OutputError; each message says
    what to do.

    >>> import graft
    >>> graft.fit("photos/", "model/").predict("photo.jpg")[0].label  # doctest: +SKIP
    'tulip'
    """
    given = {"strategy": strategy, "head": head, "recipe": recipe, "backbone": backbone, "seed": seed}
    # A file's path is not a choice, as it may change: '' only says that a file was given.
    start_weights = None if weights is None else RANDOM if weights == RANDOM else ""
    choices = Choices.from_dict(card.read_choices(Path(like)) if like else {}, **given, weights=start_weights)
    _check_options(choices, output, resume, log)
    place, times = None if output is None else outputs.resolve_output(output), dict[str, float]()
    with storage.lock_folder(place, force=force) if place else nullcontext():
        with record_seconds(times, "read images"):
            data = read_source(source, columns=columns, strict=strict, boxes=boxes, against=against, watch=watch)
        check_classes_repeat(data)
        choices = replace(choices, task=data.task)
        _check_data(choices, data)
        if isinstance(choices.parsed_strategy, Direct):
            return _save_classifier(_evaluate_pretrained(choices, data, weights, offline, times, watch), place, force)
        with record_seconds(times, "load network"):
            pretrained = _build_backbone(choices, weights, offline)
            _check_network(choices, pretrained)
        material = _embed_and_split(choices, pretrained, data, offline, times, watch)
        settings = _settings(choices, pretrained, material)
        run_folder = place if choices.is_finetuning else None
        with open_run(run_folder, settings, log, on_epoch, resume=resume, force=force) as tracker:
            with record_seconds(times, "train" if choices.is_finetuning else "solve head"):
                train = _train_network if choices.is_finetuning else _solve_head
                trained = train(choices, pretrained, material, tracker, watch)
            classifier = finalize(choices, pretrained, trained, times, watch, tracker.troubles)
            with record_seconds(times, "report"):
                html = ""
                if place and report and classifier.report["evaluation"]:
                    source_args = source_arguments(source, columns=columns, against=against, boxes=boxes)
                    html = render_report(classifier, material.data.take(material.test), watch, source_args, place)
            classifier = _save_classifier(classifier, place, force, html)
            tracker.finish({name: value for name, value in classifier.card.metrics.items() if isinstance(value, float)})
    return classifier


def _check_options(choices: Choices, output: str | Path | None, resume: bool, log: str) -> None:
    runs.check(log)
    choices.check()
    choices.check_run(bool(output), resume, log)
    if choices.is_finetuning:
        require_package("torch", f"The strategy {choices.strategy!r} changes a network, and that")
        from graft.torch.alone import check_gradients

        check_gradients()


def _check_network(choices: Choices, pretrained: Backbone) -> None:
    """Raise CutError or UsageError for choices that do not fit this network, before minutes of embedding."""
    if choices.is_finetuning:
        from graft.torch import phases

        phases.check_start(choices, pretrained)
    else:
        probe.check_probe(choices, pretrained)


def _solve_head(
    choices: Choices, pretrained: Backbone, material: Material, _tracker: RunTracker, watch: ProgressWrapper
) -> TrainedNetwork:
    return fit_probe(choices, pretrained, material, watch)


def _train_network(
    choices: Choices, pretrained: Backbone, material: Material, tracker: RunTracker, watch: ProgressWrapper
) -> TrainedNetwork:
    """Fine-tune the network."""
    from graft.torch.finetune import train

    return train(choices, pretrained, material, tracker.run, tracker.log_epoch, watch)


def _check_data(choices: Choices, data: Dataset) -> None:
    """Raise UsageError for a head, loss or teacher that does not fit the labels or the number of images."""
    choices.check_task(data.task)
    choices.check_image_count(len(data))
    if choices.parsed_recipe:
        from graft.torch import phases

        phases.check_teachers(choices.parsed_recipe, data)


def _build_backbone(choices: Choices, weights: str | Path | None, offline: bool) -> Backbone:
    """Return the backbone: pretrained, or with weights drawn from the seed."""
    if choices.has_random_weights:
        if weights and weights != RANDOM:
            raise UsageError("The strategy 'scratch' begins with random weights. Leave --weights out, or choose full.")
        require_package("torch", "A network with random weights is drawn by PyTorch, and that")
        from graft.torch.restore import build_random_backbone

        return build_random_backbone(choices.backbone, choices.seed)
    return load_backbone(choices.backbone, resolve_weights_file(weights), offline)


def select_duplicate_backbone(pretrained: Backbone, offline: bool = False) -> Backbone:
    """Return the network that finds near-duplicates: this one or, if its weights are random, the default one."""
    return load_backbone(offline=offline) if pretrained.source.where == RANDOM else pretrained


def _embed_and_split(
    choices: Choices,
    pretrained: Backbone,
    data: Dataset,
    offline: bool,
    times: dict[str, float],
    watch: ProgressWrapper,
) -> Material:
    """Compute features, find near-duplicates, and split the readable images."""
    with record_seconds(times, "embed images"):
        embedded = embed(
            build_probe_features(select_duplicate_backbone(pretrained, offline)), data, seed=choices.seed, watch=watch
        )
    with record_seconds(times, "split"):
        return prepare_material(data, embedded, choices.seed, watch=watch)


def _settings(choices: Choices, pretrained: Backbone, material: Material) -> dict[str, Any]:
    """Return all that a resumed run must have in common with the interrupted one."""
    versions = {name: card.collect_versions().get(name, "") for name in ("graft", "torch", "timm")}
    recipe = {
        f"recipe {name}": value
        for name, value in (asdict(choices.parsed_recipe) if choices.parsed_recipe else {}).items()
    }
    weights = pretrained.source.sha256 or pretrained.source.origin
    known = asdict(choices) | recipe | {"images": material.fingerprint(), "weights": weights}
    return {name: value for name, value in known.items() if name not in ("recipe", "task")} | versions


def _evaluate_pretrained(
    choices: Choices,
    data: Dataset,
    weights: str | Path | None,
    offline: bool,
    times: dict[str, float],
    watch: ProgressWrapper,
) -> Classifier:
    """Evaluate a network with its published classes: on the test part or, without one, on all images."""
    with record_seconds(times, "load network"):
        classifier = direct.load_published_classifier(choices.backbone, weights, offline=offline)
    known = direct.relabel_dataset(data, classifier)
    tested = known.take(known.part(TEST)) if (known.split == TEST).any() else known
    with record_seconds(times, "evaluate"):
        score = classifier.evaluate(tested, watch=watch).as_dict()
    data_facts = {"train": 0, "test": len(tested), "seed": choices.seed, "root": Path(data.root).name}
    metrics = {name: score[name] for name in ("accuracy", "interval", "macro_f1", "log_loss")}
    described = replace(classifier.card, metrics=metrics, data=data_facts, choices=asdict(choices))
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
