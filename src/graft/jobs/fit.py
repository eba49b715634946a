"""Labelled pictures to a saved classifier: the main job, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graft import spec
from graft.data.dataset import Dataset
from graft.data.duplicates import blocks
from graft.data.read.folder import read_folder
from graft.errors import UsageError
from graft.model import card, storage
from graft.model.calibrate import temperature
from graft.model.classifier import Classifier
from graft.model.evaluation import Evaluation, judge
from graft.networks import catalog
from graft.networks.cut import probed
from graft.networks.network import Backbone, Features, Network, load_backbone
from graft.progress import Watch, unwatched
from graft.training.embed import embed
from graft.training.heads.choose import Chosen, choose
from graft.training.material import Material, prepare
from graft.training.strategies import STRATEGIES


def fit(
    source: str | Path | Dataset,
    output: str | Path | None = None,
    *,
    strategy: str = "probe",
    backbone: str = catalog.DEFAULT,
    weights: str | Path | None = None,
    offline: bool = False,
    seed: int = 0,
    force: bool = False,
    watch: Watch = unwatched,
) -> Classifier:
    """Train a classifier on labelled pictures, score it on pictures kept aside, and save it.

    `source` is a folder with one folder for each class (or train/val/test folders of these), or a Dataset. A fifth of
    the pictures is kept for the score unless the source has a test part. With no `output` nothing is saved. The test
    pictures influence nothing but the score; near-duplicates stay on one side.

    Raises GraftError: UsageError, DataError, WeightsError or OutputError, each saying what to do.

    >>> import graft
    >>> graft.fit("photos/", "model/").predict("photo.jpg")[0].label  # doctest: +SKIP
    'tulip'
    """
    times: dict[str, float] = {}
    _check_seed(seed)
    with storage.claimed(Path(output), force=force) if output else nullcontext():
        plan = spec.parse(strategy, STRATEGIES)
        with _timed(times, "read folder"):
            data = source if isinstance(source, Dataset) else read_folder(source)
        with _timed(times, "load network"):
            pretrained = load_backbone(backbone, Path(weights) if weights else None, offline)
            frozen = probed(pretrained)
        with _timed(times, "embed pictures"):
            embedded = embed(frozen, data, seed=seed, watch=watch)
        with _timed(times, "split"):
            material = prepare(data, embedded, seed)
        with _timed(times, "more views"):
            if plan.views > 1:
                more = embed(frozen, material.data.take(material.train), views=plan.views, seed=seed, watch=watch)
                material = replace(material, embedded=replace(material.embedded, store=more.store))
        with _timed(times, "solve head"):
            chosen = choose(plan.head, plan.layers, material.problems(frozen.widths, plan.views))
        with _timed(times, "evaluate"):
            classifier = _calibrated(pretrained, frozen, chosen, material, strategy)
            evaluation = _evaluated(classifier, chosen, material)
        classifier = _recorded(classifier, chosen, evaluation, material, times)
        if output:
            classifier.save(output, force=force)
    return classifier


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise UsageError(f"The seed must be from 0 to 2^64 - 1. Got {seed}.")


def _calibrated(
    pretrained: Backbone, frozen: Features, chosen: Chosen, material: Material, strategy: str
) -> Classifier:
    """The network with its head, and the temperature that the out-of-fold logits call for."""
    features = Features(frozen.backbone, frozen.preprocess, frozen.layers if chosen.layers == "all" else ())
    network = Network(features, chosen.solution.head).eval()
    views = len(chosen.solution.logits) // len(material.train)
    as_judged = chosen.solution.logits[::views]  # view 0 is what a prediction sees
    heat, _ = temperature(as_judged, material.data.labels[material.train])
    described = card.describe(network, pretrained, material.data.classes, strategy, heat)
    solved = {"solver": chosen.solution.name, "strength": chosen.solution.strength}
    return Classifier(network, replace(described, head=described.head | solved))


@torch.inference_mode()
def _evaluated(classifier: Classifier, chosen: Chosen, material: Material) -> Evaluation | None:
    """The score on the test pictures, from the features that are in the store already; None without any."""
    if not len(material.test):
        return None
    logits = [
        classifier.network.head(torch.from_numpy(block[:, chosen.columns])).numpy()
        for _, block in blocks(material.embedded.chosen(material.test))
    ]
    chances = classifier.calibrated(np.concatenate(logits))
    return judge(chances, material.data.labels[material.test], classifier.classes)


def _recorded(
    classifier: Classifier, chosen: Chosen, evaluation: Evaluation | None, material: Material, times: dict[str, float]
) -> Classifier:
    """The same classifier with its scores, its data and where the time went on its card and in its report."""
    solution, findings = chosen.solution, material.findings
    data = {
        "train": len(material.train),
        "test": len(material.test),
        "seed": material.seed,
        "root": Path(material.data.root).name,
        "fingerprint": material.fingerprint(),
    }
    metrics: dict[str, Any] = {"out_of_fold_accuracy": chosen.accuracy, "out_of_fold_loss": solution.loss}
    if evaluation:
        metrics |= {name: getattr(evaluation, name) for name in ("accuracy", "interval", "macro_f1", "log_loss")}
    report = {
        "classes": classifier.classes,
        "example": material.data.name(int((*material.test, *material.train)[0])),
        "evaluation": evaluation.as_dict() if evaluation else None,
        "head": {"name": solution.name, "strength": solution.strength, "layers": chosen.layers, "tried": chosen.tried},
        "out_of_fold_accuracy": chosen.accuracy,
        "data": data | asdict(findings),
        "embedded": {"computed": material.embedded.computed, "seconds": material.embedded.seconds},
        "seconds": times,
    }
    return replace(classifier, card=replace(classifier.card, metrics=metrics, data=data), report=report)


@contextmanager
def _timed(times: dict[str, float], what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    times[what] = round(time.monotonic() - start, 3)
