"""Turn a training result into a classifier: calibration, unknown detection, test score and report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from os.path import isabs
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones.backbone import Backbone
from graft.backbones.features import choose_layers, normalise_rows
from graft.data.duplicates import iterate_blocks
from graft.data.split import assign_folds
from graft.errors import DataError
from graft.metrics import shift
from graft.metrics.calibration import Calibration, calibrate, fit_thresholds
from graft.metrics.evaluation import Score
from graft.model import card, memory, network, unknown
from graft.model.classifier import Classifier
from graft.model.label_errors import find_label_errors
from graft.model.memory import ImageRecords, Memory
from graft.model.network import ForwardOutput, concatenate_matches, last_layer_features
from graft.model.unknown import KnownImages
from graft.progress import ProgressWrapper
from graft.training.choices import Choices
from graft.training.material import Material, format_labels
from graft.training.probe import TrainingResult
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import UNKNOWN_RATE

FOLDS = 5  # of the calibration


def calibrate_classifier(
    choices: Choices, pretrained: Backbone, trained: TrainingResult
) -> tuple[Classifier, Calibration]:
    """Return the network as a classifier, calibrated on held-out logits, with thresholds for multilabel."""
    material, rows = trained.material, trained.rows
    fold_ids = assign_folds(
        trained.labels, material.groups[rows], material.embeddings.digests[rows], FOLDS, choices.seed
    )
    found = calibrate(trained.logits, trained.labels, fold_ids)
    description = card.build_card(
        trained.network, pretrained, material.data.classes, choices.strategy, found.temperature
    )
    description = replace(
        description,
        task=material.data.task,
        scales=found.scales,
        shifts=found.shifts,
        sets=found.sets,
        head=description.head | trained.head_info,
        choices=asdict(choices),
        recipe=trained.record.get("recipe", {}) if trained.feature_columns is None else {},
        cut=trained.record["phases"][-1]["cut"] if trained.feature_columns is None else "head",
    )
    classifier = Classifier(trained.network, description)
    if description.task == MULTILABEL:
        limits = fit_thresholds(classifier.calibrate_logits(trained.logits), trained.labels)
        classifier = replace(classifier, card=replace(description, thresholds=limits))
    return classifier, found


def attach_unknown_detector(classifier: Classifier, trained: TrainingResult, watch: ProgressWrapper) -> Classifier:
    """Return the classifier with a detector of unknown images: those that are like no class."""
    layer_names, is_frozen = _select_comparison_layers(trained)
    known = fit_unknown_detector(trained, layer_names, is_frozen, watch)
    description = {
        "layers": list(layer_names),
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


def fit_unknown_detector(
    trained: TrainingResult, layer_names: Sequence[str], is_frozen: bool, watch: ProgressWrapper
) -> KnownImages:
    """Return the features of as many training images as may be stored, and the distances of held-out images to them.

    With too many classes to store one image of each, the score is the energy of the held-out logits instead.
    """
    material, labels = trained.material, trained.material.data.labels[trained.material.train]
    width = trained.network.features.reference_features(layer_names).width
    if unknown.max_stored_images(width) < len(material.data.classes):
        heldout_scores = np.sort(unknown.energy_scores(trained.logits, labels.ndim == 2))
        return KnownImages(np.empty((0, width), np.float16), labels[:0], (), heldout_scores)
    stored_rows = material.train[unknown.select_rows(labels, unknown.max_stored_images(width))]
    heldout_candidates = material.train if is_frozen else trained.rows
    heldout_rows = heldout_candidates[
        unknown.select_rows(material.data.labels[heldout_candidates], unknown.MOST_LEFT_OUT)
    ]
    wanted = np.union1d(stored_rows, heldout_rows)
    features = normalise_rows(np.concatenate(list(_iter_features(trained, layer_names, wanted, watch))))
    stored = features[np.searchsorted(wanted, stored_rows)].astype(np.float16)
    left_out = features[np.searchsorted(wanted, heldout_rows)]
    heldout_scores = unknown.heldout_scores(
        stored, material.groups[stored_rows], left_out, material.groups[heldout_rows]
    )
    names = tuple(material.data.name(row) for row in stored_rows.tolist())
    return KnownImages(stored, material.data.labels[stored_rows], names, heldout_scores)


def _select_comparison_layers(trained: TrainingResult) -> tuple[tuple[str, ...], bool]:
    """Return the layers by which images are compared, () for the last one, and whether these are frozen.

    Training draws the last layer's features of its classes together, and those of unknown images with them
    (bench/README.md). So a fine-tuned network is compared by its frozen stages or, where all was trained, by those in
    the lower half of the chain: by the last of each resolution, as single stages differ much in how well they do.
    """
    if trained.feature_columns is not None:
        return (), True
    phase = trained.record["phases"][-1]
    stages = phase["trained"][:-1]  # the last one is the head
    if not stages:
        return (), True
    below = phase["frozen"] or stages[: max(len(stages) // 2, 1)]
    ends = choose_layers(trained.network.features.graph.stages)
    return tuple(name for name in ends if name in below) or tuple(below[-1:]), bool(phase["frozen"])


def _iter_features(
    trained: TrainingResult, layer_names: Sequence[str], rows: NDArray[np.intp], watch: ProgressWrapper
) -> Iterator[NDArray[np.float32]]:
    """Yield batches of these layers' features: from the cache where the head reads from it, else computed."""
    if trained.feature_columns is None:
        data, faults = trained.material.data.take(rows), dict[int, str]()
        for output in network.iterate_batches(trained.network, layer_names, data, watch, faults):
            yield output.reference
        for row, why in faults.items():
            raise DataError(f"{data.name(row)} could be read before, and now cannot: {why}.")
    else:
        for _, block in iterate_blocks(trained.material.embeddings.select(rows)):
            yield network.last_layer_features(trained.network, block[:, trained.feature_columns])


def evaluate_on_test(
    classifier: Classifier, trained: TrainingResult, watch: ProgressWrapper
) -> tuple[Classifier, Score | None]:
    """Score the classifier on the test images, used only here, once; it stores its predictions on them."""
    material = trained.material
    if not len(material.test):
        return classifier, None
    data = material.data.take(material.test)
    outputs = (
        _predict_from_features(classifier, trained, trained.feature_columns)
        if trained.feature_columns is not None
        else None
    )
    outputs = outputs or classifier.run_forward(data, watch=watch)
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


def _predict_from_features(classifier: Classifier, trained: TrainingResult, columns: NDArray[np.intp]) -> ForwardOutput:
    """Return the network's output on the test images, from their cached features."""
    embedded, test = trained.material.embeddings, trained.material.test
    network, known, unknown_scores = classifier.network, classifier.memory and classifier.memory.known, []
    logits: list[Any] = []
    for _, block in iterate_blocks(embedded.select(test)):
        own = block[:, columns]
        logits.append(network.head(own))
        if known:
            unknown_scores.append(
                known.find_neighbours(last_layer_features(network, own), logits[-1], classifier.card.task == MULTILABEL)
            )
    return ForwardOutput(
        np.arange(len(test)), embedded.digests[test], np.concatenate(logits), concatenate_matches(unknown_scores), {}
    )


def attach_report(
    classifier: Classifier, trained: TrainingResult, score: Score | None, times: dict[str, float], troubles: list[str]
) -> Classifier:
    """Return the classifier with scores, data facts and times on its card and in its report."""
    material = trained.material
    data = {
        "train": len(material.train),
        "test": len(material.test),
        "seed": material.seed,
        "root": Path(material.data.root).name,
        "fingerprint": material.fingerprint(),
    } | shift.summarise_training(
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
        "troubles": troubles,
        "seconds": times,
    } | trained.record
    return replace(classifier, card=replace(classifier.card, metrics=metrics, data=data), report=report)


def _list_label_errors(classifier: Classifier, trained: TrainingResult) -> tuple[str, ...]:
    """Return sentences on training images whose label is likely wrong; only a linear probe has predicted them all."""
    material = trained.material
    if trained.feature_columns is None:
        return ()
    data = material.data.take(material.train)
    label_texts = format_labels(data)
    found = find_label_errors(classifier.calibrate_logits(trained.logits), trained.labels).name_suggestions(data)
    return tuple(f"{data.name(row)} ({label_texts[row]}): rather {other}?" for row, other in found.items())
