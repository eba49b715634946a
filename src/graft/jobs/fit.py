"""Labelled pictures to a saved classifier: the main job, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.stages import probed
from graft.backbones.weights import RANDOM, file_of
from graft.data.classes import check_shared
from graft.data.dataset import TEST, Dataset
from graft.data.read.source import read_source
from graft.errors import UsageError
from graft.extras import needed
from graft.jobs import direct, finish, logs, outputs
from graft.jobs.report import commands
from graft.jobs.report.report import page
from graft.jobs.running import Running, Told, running, unheard
from graft.model import card, storage
from graft.model.classifier import Classifier
from graft.progress import Watch, unwatched
from graft.training import probe
from graft.training.choices import Choices
from graft.training.embed import embed
from graft.training.material import Findings, Material, prepare
from graft.training.probe import Trained, solve
from graft.training.strategies import Direct


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
    told: Told = unheard,
    watch: Watch = unwatched,
) -> Classifier:
    """Train a classifier on labelled pictures, score it on pictures kept aside, and save it.

    `source` is a folder with one folder for each class (or train/val/test folders of these), a table of files and
    labels, an archive, a published data set, or an object that holds pictures; `columns`, `strict` and `boxes` say how
    it is read: see `graft.read_source`. With `against` it is one class against the rest: a folder of images of the
    class, called like it, and in `against` images of anything else. A fifth of the pictures is kept for the score
    unless it has a test part. With no `output` nothing is saved. The test pictures influence nothing but the score;
    near-duplicates stay on one side.

    `strategy` ('probe' unless given), `head` and `recipe` are texts such as 'tail:cut=0.5', 'mlp:hidden=256' and
    'epochs=5,rate=0.001'; `like` is the model.json of a classifier whose choices count where none is given. While a
    strategy trains, checkpoints lie in `output`.run, and `resume` goes on from there. `weights` is a file, or 'random':
    any network with weights that the seed draws, to see what pretraining is worth. `log` names 'tensorboard',
    'mlflow' or both; `told` hears of each epoch. With `report` the folder has a report.html to look at.

    Raises GraftError: UsageError, DataError, WeightsError, CutError, TrainingError or OutputError, each saying what to
    do.

    >>> import graft
    >>> graft.fit("photos/", "model/").predict("photo.jpg")[0].label  # doctest: +SKIP
    'tulip'
    """
    asked = {"strategy": strategy, "head": head, "recipe": recipe, "backbone": backbone, "seed": seed}
    begun = None if weights is None else RANDOM if weights == RANDOM else ""  # a file is no choice: its path may change
    choices = Choices.of(card.choices(Path(like)) if like else {}, **asked, weights=begun)
    _check(choices, output, resume, log)
    place, times = None if output is None else outputs.place_of(output), dict[str, float]()
    with storage.claimed(place, force=force) if place else nullcontext():
        with timed(times, "read pictures"):
            data = read_source(source, columns=columns, strict=strict, boxes=boxes, against=against, watch=watch)
        check_shared(data)
        choices = replace(choices, task=data.task)
        _check_data(choices, data)
        if isinstance(choices.plan, Direct):
            return _saved(_direct(choices, data, weights, offline, times, watch), place, force)
        with timed(times, "load network"):
            pretrained = _start(choices, weights, offline)
            _check_network(choices, pretrained)
        material = _looked_at(choices, pretrained, data, offline, times, watch)
        settings = _settings(choices, pretrained, material)
        with running(place if choices.trains else None, settings, log, told, resume=resume, force=force) as now:
            with timed(times, "train" if choices.trains else "solve head"):
                trained = (_trained if choices.trains else _solved)(choices, pretrained, material, now, watch)
            with timed(times, "evaluate"):
                classifier, calibration = finish.calibrated(choices, pretrained, trained)
                classifier, score = finish.examined(finish.aware(classifier, trained, watch), trained, watch)
                trained.record["calibration"] = asdict(calibration)
                trained.record["weights"] = weights_of(pretrained)
            classifier = finish.recorded(classifier, trained, score, times, now.troubles)
            with timed(times, "report"):
                tested = material.data.take(material.test)
                words = commands.words(source, columns=columns, against=against, boxes=boxes)
                html = page(classifier, tested, watch, words, place) if place and report and score else ""
            classifier = _saved(classifier, place, force, html)
            now.finish({name: value for name, value in classifier.card.metrics.items() if isinstance(value, float)})
    return classifier


def _check(choices: Choices, output: str | Path | None, resume: bool, log: str) -> None:
    logs.check(log)
    choices.check()
    choices.check_run(bool(output), resume, log)
    if choices.trains:
        needed("torch", f"The strategy {choices.strategy!r} changes a network, and that")
        from graft.torch.alone import check_gradients

        check_gradients()


def _check_network(choices: Choices, pretrained: Backbone) -> None:
    """Raises CutError or UsageError for what this network does not take: now, and not after minutes of embedding."""
    if choices.trains:
        from graft.torch import start

        start.check(choices, pretrained)
    else:
        probe.check(choices, pretrained)


def _solved(choices: Choices, pretrained: Backbone, material: Material, _now: Running, watch: Watch) -> Trained:
    return solve(choices, pretrained, material, watch)


def _trained(choices: Choices, pretrained: Backbone, material: Material, now: Running, watch: Watch) -> Trained:
    """The one place where a fit changes a network."""
    from graft.torch.train import train

    return train(choices, pretrained, material, now.run, now.hear, watch)


def _check_data(choices: Choices, data: Dataset) -> None:
    """Raises UsageError for what does not go with the labels, or with so few images: a head, a loss, a teacher."""
    choices.check_task(data.task)
    choices.check_count(len(data))
    if choices.settings:
        from graft.torch import teachers

        teachers.check(choices.settings, data)


def _start(choices: Choices, weights: str | Path | None, offline: bool) -> Backbone:
    """The backbone: pretrained, or with weights drawn from the seed."""
    if choices.drawn:
        if weights and weights != RANDOM:
            raise UsageError("The strategy 'scratch' begins with random weights. Leave --weights out, or choose full.")
        needed("torch", "A network with random weights is drawn by PyTorch, and that")
        from graft.torch.fresh import fresh_backbone

        return fresh_backbone(choices.backbone, choices.seed)
    return load_backbone(choices.backbone, file_of(weights), offline)


def weights_of(pretrained: Backbone) -> dict[str, str]:
    """Where the weights that the network began with are from, for the report."""
    return {"where": pretrained.source.where, "origin": pretrained.source.origin}


def looking(pretrained: Backbone, offline: bool = False) -> Backbone:
    """The network that finds near-duplicates: this one, unless it has seen nothing and cannot; then the default one."""
    return load_backbone(offline=offline) if pretrained.source.where == RANDOM else pretrained


def _looked_at(
    choices: Choices, pretrained: Backbone, data: Dataset, offline: bool, times: dict[str, float], watch: Watch
) -> Material:
    """The good pictures with their features, near-duplicates found, and split."""
    with timed(times, "embed pictures"):
        embedded = embed(probed(looking(pretrained, offline)), data, seed=choices.seed, watch=watch)
    with timed(times, "split"):
        return prepare(data, embedded, choices.seed, watch=watch)


def _settings(choices: Choices, pretrained: Backbone, material: Material) -> dict[str, Any]:
    """What a run is, so that another one is not mistaken for it."""
    versions = {name: card.versions().get(name, "") for name in ("graft", "torch", "timm")}
    recipe = {f"recipe {name}": value for name, value in (asdict(choices.settings) if choices.settings else {}).items()}
    weights = pretrained.source.sha256 or pretrained.source.origin
    known = asdict(choices) | recipe | {"pictures": material.fingerprint(), "weights": weights}
    return {name: value for name, value in known.items() if name not in ("recipe", "task")} | versions


def _direct(
    choices: Choices,
    data: Dataset,
    weights: str | Path | None,
    offline: bool,
    times: dict[str, float],
    watch: Watch,
) -> Classifier:
    """The network as it is, scored on the pictures whose classes it knows: all of them, as it was trained on none."""
    with timed(times, "load network"):
        classifier = direct.direct(choices.backbone, weights, offline=offline)
    known = direct.relabelled(data, classifier)
    judged = known.take(known.part(TEST)) if (known.split == TEST).any() else known
    with timed(times, "evaluate"):
        score = classifier.evaluate(judged, watch=watch).as_dict()
    about = {"train": 0, "test": len(judged), "seed": choices.seed, "root": Path(data.root).name}
    metrics = {name: score[name] for name in ("accuracy", "interval", "macro_f1", "log_loss")}
    described = replace(classifier.card, metrics=metrics, data=about, choices=asdict(choices))
    report = {
        "classes": classifier.classes,
        "task": described.task,
        "strategy": described.strategy,
        "example": known.name(0),
        "evaluation": score,
        "data": about | asdict(Findings({}, dict(data.ignored), columns=data.columns)),
        "seconds": times,
    }
    return replace(classifier, card=described, report=report)


def _saved(classifier: Classifier, output: Path | None, force: bool, html: str = "") -> Classifier:
    if output:
        classifier.save(output, page=html, force=force)
    return classifier


@contextmanager
def timed(times: dict[str, float], what: str) -> Iterator[None]:
    """Notes the seconds of what goes on inside."""
    start = time.monotonic()
    yield
    times[what] = round(time.monotonic() - start, 3)
