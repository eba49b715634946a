"""What a training left behind becomes a classifier: calibrated, aware of what it knows, and scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from os.path import isabs
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones.backbone import Backbone
from graft.backbones.stages import layers
from graft.data.duplicates import blocks
from graft.data.split import folds
from graft.errors import DataError
from graft.model import card, forward, memory, shift, unknown
from graft.model.calibrate import Calibration, calibrate, thresholds
from graft.model.classifier import Classifier
from graft.model.forward import Look
from graft.model.memory import Memory, Pictures
from graft.model.multilabel import Score
from graft.model.unknown import Known
from graft.progress import Watch
from graft.training.choices import Choices
from graft.training.material import Material, described
from graft.training.probe import Trained
from graft.training.suspects import suspects
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import RATE

FOLDS = 5  # of the calibration


def calibrated(choices: Choices, pretrained: Backbone, trained: Trained) -> tuple[Classifier, Calibration]:
    """The network as a classifier, with the calibration and thresholds that the left-out answers call for."""
    material, rows = trained.material, trained.rows
    apart = folds(trained.labels, material.groups[rows], material.embedded.digests[rows], FOLDS, choices.seed)
    found = calibrate(trained.logits, trained.labels, apart)
    described = card.describe(trained.network, pretrained, material.data.classes, choices.strategy, found.temperature)
    described = replace(
        described,
        task=material.data.task,
        scales=found.scales,
        shifts=found.shifts,
        sets=found.sets,
        head=described.head | trained.solved,
        choices=asdict(choices),
        recipe=trained.record.get("recipe", {}) if trained.columns is None else {},
        cut=trained.record["phases"][-1]["cut"] if trained.columns is None else "head",
    )
    classifier = Classifier(trained.network, described)
    if described.task == MULTILABEL:
        limits = thresholds(classifier.calibrated(trained.logits), trained.labels)
        classifier = replace(classifier, card=replace(described, thresholds=limits))
    return classifier, found


def aware(classifier: Classifier, trained: Trained, watch: Watch) -> Classifier:
    """The same classifier, with what it takes to tell pictures that are like no class."""
    compared, unlearned = _compared(trained)
    known = knowledge(trained, compared, unlearned, watch)
    described = {
        "layers": list(compared),
        "score": "nearest" if len(known.features) else "energy",
        "pictures": len(known.features),
        "left_out": len(known.strays),
        "rate": RATE,
        "limit": limit if np.isfinite(limit := known.limit(RATE)) else None,
    }
    trained_on = memory.shortened(trained.material.embedded.digests[trained.material.train])
    remembered = Memory(trained_on, known=known, pictures=_pictures(trained.material))
    return replace(classifier, card=replace(classifier.card, unknown=described), memory=remembered)


def _pictures(material: Material) -> Pictures:
    """What `graft update` needs to know of them. Models are shared, so no name tells where a person's files lie."""
    data = material.data
    names = tuple("/".join(PurePath(name).parts[-2:]) if isabs(name) else name for name in data.names())
    groups = np.empty(0, np.int64) if data.groups is None else data.groups
    return Pictures(material.embedded.digests, names, data.labels, data.split, groups, material.given)


def knowledge(trained: Trained, compared: Sequence[str], unlearned: bool, watch: Watch) -> Known:
    """The training pictures by what the network says of them, as many as find room, and how far left-out ones lie.

    With so many classes that not one picture of each finds room, it is the energy of the left-out logits.
    """
    material, labels = trained.material, trained.material.data.labels[trained.material.train]
    width = trained.network.features.compared(compared).width
    if unknown.room(width) < len(material.data.classes):
        strays = np.sort(unknown.energy(trained.logits, labels.ndim == 2))
        return Known(np.empty((0, width), np.float16), labels[:0], (), strays)
    kept = material.train[unknown.chosen(labels, unknown.room(width))]
    left = material.train if unlearned else trained.rows
    asked = left[unknown.chosen(material.data.labels[left], unknown.ASKED)]
    wanted = np.union1d(kept, asked)
    features = unknown.unit(np.concatenate(list(_features(trained, compared, wanted, watch))))
    stored = features[np.searchsorted(wanted, kept)].astype(np.float16)
    left_out = features[np.searchsorted(wanted, asked)]
    strays = unknown.strays(stored, material.groups[kept], left_out, material.groups[asked])
    names = tuple(material.data.name(row) for row in kept.tolist())
    return Known(stored, material.data.labels[kept], names, strays)


def _compared(trained: Trained) -> tuple[tuple[str, ...], bool]:
    """The layers by which images are compared, none for the last one; and whether these never learned from any image.

    Training drives what the last layer says of its classes together, and of all else with them (bench/README.md). So a
    tuned network is compared by its frozen stages or, where all was trained, by those in the lower half of the chain:
    by the last of each resolution, as single stages differ much in what they tell.
    """
    if trained.columns is not None:
        return (), True
    phase = trained.record["phases"][-1]
    stages = phase["trained"][:-1]  # the last one is the head
    if not stages:
        return (), True
    below = phase["frozen"] or stages[: max(len(stages) // 2, 1)]
    ends = layers(trained.network.features.graph.stages)
    return tuple(name for name in ends if name in below) or tuple(below[-1:]), bool(phase["frozen"])


def _features(
    trained: Trained, compared: Sequence[str], rows: NDArray[np.intp], watch: Watch
) -> Iterator[NDArray[np.float32]]:
    """What these layers say of these pictures: from the store where the head reads from it, else computed."""
    if trained.columns is None:
        data, faults = trained.material.data.take(rows), dict[int, str]()
        for glance in forward.glances(trained.network, compared, data, watch, faults):
            yield glance.reference
        for row, why in faults.items():
            raise DataError(f"{data.name(row)} could be read before, and now cannot: {why}.")
    else:
        for _, block in blocks(trained.material.embedded.chosen(rows)):
            yield forward.last(trained.network, block[:, trained.columns])


def examined(classifier: Classifier, trained: Trained, watch: Watch) -> tuple[Classifier, Score | None]:
    """The score on the test pictures, which are touched here, once; the classifier remembers how it answered."""
    material = trained.material
    if not len(material.test):
        return classifier, None
    data = material.data.take(material.test)
    seen = _from_store(classifier, trained, trained.columns) if trained.columns is not None else None
    seen = seen or classifier.look(data, watch=watch)
    score = classifier.scored(seen, data)
    answered = memory.examined(
        seen.digests,
        [data.name(row) for row in seen.rows.tolist()],
        data.labels[seen.rows],
        classifier.calibrated(seen.logits),
        seen.near.scores if seen.near else None,
    )
    assert classifier.memory
    return replace(classifier, memory=replace(classifier.memory, tested=answered)), score


def _from_store(classifier: Classifier, trained: Trained, columns: NDArray[np.intp]) -> Look:
    """What the network says of the test pictures, from the features that are in the store already."""
    embedded, test = trained.material.embedded, trained.material.test
    network, known, near = classifier.network, classifier.memory and classifier.memory.known, []
    logits: list[Any] = []
    for _, block in blocks(embedded.chosen(test)):
        own = block[:, columns]
        logits.append(network.head(own))
        if known:
            near.append(known.near(forward.last(network, own), logits[-1], classifier.card.task == MULTILABEL))
    return Look(np.arange(len(test)), embedded.digests[test], np.concatenate(logits), forward.joined(near), {})


def recorded(
    classifier: Classifier, trained: Trained, score: Score | None, times: dict[str, float], troubles: list[str]
) -> Classifier:
    """The same classifier with its scores, its data and where the time went on its card and in its report."""
    material = trained.material
    data = {
        "train": len(material.train),
        "test": len(material.test),
        "seed": material.seed,
        "root": Path(material.data.root).name,
        "fingerprint": material.fingerprint(),
    } | shift.kept(
        material.embedded.looks, material.train, material.data.labels[material.train], len(material.data.classes)
    )
    plain = score.as_dict() if score else {}
    named = ("accuracy", "mean_average_precision", "interval", "macro_f1", "micro_f1", "log_loss")
    metrics = {
        name: trained.record[name] for name in ("out_of_fold_accuracy", "out_of_fold_loss") if name in trained.record
    }
    metrics |= {name: plain[name] for name in named if name in plain}
    report = {
        "classes": classifier.classes,
        "task": classifier.card.task,
        "strategy": classifier.card.strategy,
        "example": material.data.name(int((*material.test, *material.train)[0])),
        "evaluation": plain or None,
        "data": data | asdict(replace(material.findings, suspects=_doubted(classifier, trained))),
        "embedded": {"computed": material.embedded.computed, "seconds": material.embedded.seconds},
        "troubles": troubles,
        "seconds": times,
    } | trained.record
    return replace(classifier, card=replace(classifier.card, metrics=metrics, data=data), report=report)


def _doubted(classifier: Classifier, trained: Trained) -> tuple[str, ...]:
    """Training pictures whose label is likely wrong, in words; only a solved head has an answer for each of them."""
    material = trained.material
    if trained.columns is None:
        return ()
    data = material.data.take(material.train)
    said = described(data)
    found = suspects(classifier.calibrated(trained.logits), trained.labels).named(data)
    return tuple(f"{data.name(row)} ({said[row]}): rather {other}?" for row, other in found.items())
