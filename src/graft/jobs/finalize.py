"""Turn a training result into a classifier: calibration, unknown detection, test score and report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from os.path import isabs
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from graft.backbones.backbone import Backbone
from graft.backbones.graph import normalise_rows
from graft.data.split import assign_folds
from graft.metrics import unknown
from graft.metrics.calibration import Calibration, calibrate, fit_thresholds
from graft.metrics.evaluation import Score
from graft.metrics.unknown import KnownImages
from graft.model import card, memory
from graft.model.classifier import Classifier
from graft.model.label_errors import find_label_errors
from graft.model.memory import ImageRecords, Memory
from graft.model.network import ForwardOutput, concatenate_matches, last_layer_features
from graft.progress import ProgressWrapper
from graft.training.material import Material, format_labels
from graft.training.plan import Plan
from graft.training.probe import TrainedNetwork, TrainedProbe
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import UNKNOWN_RATE

FOLDS = 5  # of the calibration


def finalize(
    plan: Plan,
    backbone: Backbone,
    trained: TrainedNetwork,
    times: dict[str, float],
    watch: ProgressWrapper,
    troubles: Sequence[str] = (),
) -> Classifier:
    """Return the trained network as a classifier: calibrated, able to say unknown, scored, with all that in its report.

    The test images are used here, once. `troubles` are sentences of the run for the report.
    """
    with record_seconds(times, "evaluate"):
        classifier, calibration = calibrate_classifier(plan, backbone, trained)
        classifier = attach_unknown_detector(classifier, trained, watch)
        classifier, score = evaluate_on_test(classifier, trained, watch)
    origin = {"where": backbone.source.where, "origin": backbone.source.origin}
    facts = {"troubles": list(troubles), "calibration": asdict(calibration), "weights": origin}
    return attach_report(classifier, trained, score, facts | {"seconds": times} | trained.record)


@contextmanager
def record_seconds(times: dict[str, float], what: str) -> Iterator[None]:
    """Record the seconds that the block takes."""
    start = time.monotonic()
    yield
    times[what] = round(time.monotonic() - start, 3)


def calibrate_classifier(plan: Plan, pretrained: Backbone, trained: TrainedNetwork) -> tuple[Classifier, Calibration]:
    """Return the network as a classifier, calibrated on held-out logits, with thresholds for multilabel."""
    material, rows = trained.material, trained.rows
    fold_ids = assign_folds(trained.labels, material.groups[rows], material.embeddings.digests[rows], FOLDS, plan.seed)
    found = calibrate(trained.logits, trained.labels, fold_ids)
    description = card.build_card(trained.network, pretrained, material.data.classes, plan.strategy, found.temperature)
    description = replace(
        description,
        task=material.data.task,
        scales=found.scales,
        shifts=found.shifts,
        sets=found.sets,
        head=description.head | trained.head_info,
        choices=asdict(plan),
        recipe=trained.recipe,
        cut=trained.cut,
    )
    classifier = Classifier(trained.network, description)
    if description.task == MULTILABEL:
        limits = fit_thresholds(classifier.calibrate_logits(trained.logits), trained.labels)
        classifier = replace(classifier, card=replace(description, thresholds=limits))
    return classifier, found


def attach_unknown_detector(classifier: Classifier, trained: TrainedNetwork, watch: ProgressWrapper) -> Classifier:
    """Return the classifier with a detector of unknown images: those that are like no class."""
    known = fit_unknown_detector(trained, watch)
    description = {
        "layers": list(trained.comparison_layers),
        "score": "nearest" if len(known.features) else "energy",
        "images": len(known.features),
        "left_out": len(known.strays),
        "rate": UNKNOWN_RATE,
        "limit": limit if np.isfinite(limit := known.unknown_threshold(UNKNOWN_RATE)) else None,
    }
    trained_on = memory.shorten_digests(trained.material.embeddings.digests[trained.material.train])
    stored = Memory(trained_on, known=known, images=_build_image_records(trained.material))
    return replace(classifier, card=replace(classifier.card, unknown=description), memory=stored)


def _build_image_records(material: Material) -> ImageRecords:
    """Return what `graft update` needs; models are shared, so absolute paths keep only their last two parts."""
    data = material.data
    names = tuple("/".join(PurePath(name).parts[-2:]) if isabs(name) else name for name in data.names())
    groups = np.empty(0, np.int64) if data.groups is None else data.groups
    return ImageRecords(material.embeddings.digests, names, data.labels, data.split, groups, material.has_given_split)


def fit_unknown_detector(trained: TrainedNetwork, watch: ProgressWrapper) -> KnownImages:
    """Return the features of as many training images as may be stored, and the distances of held-out images to them.

    With too many classes to store one image of each, the score is the energy of the held-out logits instead.
    """
    material, labels = trained.material, trained.material.data.labels[trained.material.train]
    width = trained.network.features.reference_features(trained.comparison_layers).width
    if unknown.max_stored_images(width) < len(material.data.classes):
        heldout_scores = np.sort(unknown.energy_scores(trained.logits, labels.ndim == 2))
        return KnownImages(np.empty((0, width), np.float16), labels[:0], (), heldout_scores)
    stored_rows = material.train[unknown.select_rows(labels, unknown.max_stored_images(width))]
    heldout_candidates = material.train if trained.is_comparison_frozen else trained.rows
    heldout_rows = heldout_candidates[
        unknown.select_rows(material.data.labels[heldout_candidates], unknown.MOST_LEFT_OUT)
    ]
    wanted = np.union1d(stored_rows, heldout_rows)
    features = normalise_rows(np.concatenate(list(trained.iterate_comparison_features(wanted, watch))))
    stored = features[np.searchsorted(wanted, stored_rows)].astype(np.float16)
    left_out = features[np.searchsorted(wanted, heldout_rows)]
    heldout_scores = unknown.heldout_scores(
        stored, material.groups[stored_rows], left_out, material.groups[heldout_rows]
    )
    names = tuple(material.data.name(row) for row in stored_rows.tolist())
    return KnownImages(stored, material.data.labels[stored_rows], names, heldout_scores)


def evaluate_on_test(
    classifier: Classifier, trained: TrainedNetwork, watch: ProgressWrapper
) -> tuple[Classifier, Score | None]:
    """Score the classifier on the test images, used only here, once; it stores its predictions on them."""
    material = trained.material
    if not len(material.test):
        return classifier, None
    data = material.data.take(material.test)
    if isinstance(trained, TrainedProbe):
        outputs = _predict_from_features(classifier, trained)
    else:
        outputs = classifier.run_forward(data, watch=watch)
    score = classifier.score_output(outputs, data)
    test_record = memory.build_record(
        outputs.digests,
        [data.name(row) for row in outputs.rows.tolist()],
        data.labels[outputs.rows],
        classifier.calibrate_logits(outputs.logits),
        outputs.near.scores if outputs.near else None,
    )
    assert classifier.memory
    return replace(classifier, memory=replace(classifier.memory, tested=test_record)), score


def _predict_from_features(classifier: Classifier, probe: TrainedProbe) -> ForwardOutput:
    """Return the network's output on the test images, from their cached features."""
    test, multilabel = probe.material.test, classifier.card.task == MULTILABEL
    known = classifier.memory and classifier.memory.known
    logits, unknown_scores = list[Any](), list[Any]()
    for features in probe.iterate_features(test):
        logits.append(classifier.network.head(features))
        if known:
            compared = last_layer_features(classifier.network, features)
            unknown_scores.append(known.find_neighbours(compared, logits[-1], multilabel))
    digests = probe.material.embeddings.digests[test]
    return ForwardOutput(np.arange(len(test)), digests, np.concatenate(logits), concatenate_matches(unknown_scores), {})


def attach_report(
    classifier: Classifier, trained: TrainedNetwork, score: Score | None, facts: dict[str, Any]
) -> Classifier:
    """Return the classifier with scores and data facts on its card and in its report, which takes the `facts` too."""
    material = trained.material
    data = {
        "train": len(material.train),
        "test": len(material.test),
        "seed": material.seed,
        "root": Path(material.data.root).name,
        "fingerprint": material.fingerprint(),
    } | unknown.summarise_training(
        material.embeddings.image_stats,
        material.train,
        material.data.labels[material.train],
        len(material.data.classes),
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
        "data": data | asdict(replace(material.findings, suspects=_list_label_errors(classifier, trained))),
        "embedded": {"computed": material.embeddings.computed_count, "seconds": material.embeddings.seconds},
    } | facts
    return replace(classifier, card=replace(classifier.card, metrics=metrics, data=data), report=report)


def _list_label_errors(classifier: Classifier, trained: TrainedNetwork) -> tuple[str, ...]:
    """Return sentences on training images whose label is likely wrong; only a linear probe has predicted them all."""
    material = trained.material
    if not isinstance(trained, TrainedProbe):
        return ()
    data = material.data.take(material.train)
    label_texts = format_labels(data)
    found = find_label_errors(classifier.calibrate_logits(trained.logits), trained.labels).name_suggestions(data)
    return tuple(f"{data.name(row)} ({label_texts[row]}): rather {other}?" for row, other in found.items())
