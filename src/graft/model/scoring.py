"""Scores of a classifier on labelled images: accuracy, calibration, prediction sets, unknown images, shift."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graft.data import classes
from graft.data.dataset import Dataset
from graft.errors import DataError
from graft.metrics.calibration import PredictionSetScore, Rejection, UnknownClassScore
from graft.metrics.evaluation import Evaluation, Score, evaluate_multiclass, evaluate_multilabel
from graft.metrics.intervals import wilson_interval
from graft.metrics.unknown import Shift, measure_shift
from graft.model.memory import Memory
from graft.model.network import ForwardOutput
from graft_runtime.card import MULTICLASS, MULTILABEL, Card
from graft_runtime.decide import UNKNOWN_RATE, compute_probabilities, prediction_set_size, prediction_set_threshold

COVERAGE = 0.9  # of the prediction sets in a score


def calibrate_logits(card: Card, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Calibrated probabilities [n, classes]."""
    return compute_probabilities(logits, card.temperature, card.task, card.scales, card.shifts)


def align_classes(data: Dataset, card: Card) -> Dataset:
    """Renumber the labels by the classifier's classes, by name; other classes follow after these.

    Raises DataError where labels are missing.
    """
    lacking = data.labels < 0 if data.task == MULTICLASS else np.zeros(len(data), bool)
    if lacking.all() or (card.task == MULTICLASS and lacking.any()):
        raise DataError("A score needs images, and a label for each.")
    known = classes.match_classes(data.root or "The test part", data.classes, card.classes)
    order = np.array([known.index(name) for name in data.classes], np.int32)
    if card.task == MULTILABEL:
        labels = np.zeros((len(data), len(known)), np.uint8)
        labels[:, order] = data.targets()
    else:
        labels = order[_single_labels(data)]
    return replace(data, classes=known, labels=labels)


def score_output(
    card: Card,
    memory: Memory | None,
    output: ForwardOutput,
    labels: NDArray[np.integer],
    classes: tuple[str, ...],
    faults: Mapping[str, str],
) -> Score:
    """Score the output for images with these labels, indices into `classes`: the card's first, then unknown ones."""
    count = len(card.classes)
    odd = _shows_unknown(labels, count)
    if odd.all():
        raise DataError("Not one of the images that can be read shows a class that the classifier knows.")
    own = labels[~odd] if labels.ndim == 1 else labels[~odd, :count]
    probs = calibrate_logits(card, output.logits)
    raw = compute_probabilities(output.logits[~odd], 1.0, card.task)
    if card.task == MULTILABEL:
        score: Score = evaluate_multilabel(probs[~odd], own, card.classes, card.thresholds, faults, raw)
    else:
        score = evaluate_multiclass(probs[~odd], own, card.classes, faults, raw)
    strange = _called_unknown(memory, output)
    trust = replace(
        score.trust,
        sets=_score_prediction_sets(card, probs[~odd], own),
        unknown=None if strange is None else _score_rejection(strange[~odd]),
        strangers=_score_unknown_classes(score, labels, odd, classes, count, strange) if odd.any() else None,
        seen=int(memory.find_trained(output.digests).sum()) if memory else 0,
    )
    return replace(score, trust=trust)


def measure_labelled_shift(card: Card, memory: Memory | None, output: ForwardOutput, data: Dataset) -> Shift:
    """Measure the shift of the labelled images that show a class which the classifier knows."""
    labels, known = data.labels[output.rows], len(card.classes)
    own = ~_shows_unknown(labels, known)
    strange = _called_unknown(memory, output)
    answers = output.logits[own].argmax(axis=1) if labels.ndim == 1 else np.empty(0, np.intp)
    return measure_shift(
        card,
        int(own.sum()),
        None if strange is None else strange[own],
        UNKNOWN_RATE,
        answers,
        data.take(output.rows[own]),
    )


def _called_unknown(memory: Memory | None, output: ForwardOutput) -> NDArray[np.bool_] | None:
    """Which images are called unknown, [n]; None where that cannot be told."""
    limit = memory.known.unknown_threshold(UNKNOWN_RATE) if memory and memory.known else np.inf
    return output.near.scores > limit if output.near and np.isfinite(limit) else None


def _shows_unknown(labels: NDArray[np.integer], known: int) -> NDArray[np.bool_]:
    """Return which images show classes that the classifier does not know and no other, [n]."""
    if labels.ndim == 1:
        return labels >= known
    return np.logical_and(labels[:, known:].any(axis=1), ~labels[:, :known].any(axis=1))


def _score_prediction_sets(
    card: Card, probs: NDArray[np.float64], labels: NDArray[np.integer]
) -> PredictionSetScore | None:
    """Measure coverage, of all true labels, and mean size of the prediction sets."""
    if not card.sets:
        return None
    least, best = prediction_set_threshold(card.sets, COVERAGE), probs.argmax(axis=1)
    inside = probs >= least
    inside[np.arange(len(probs)), best] = True
    wanted = labels[:, None] == np.arange(probs.shape[1]) if labels.ndim == 1 else labels > 0
    held = int((inside | ~wanted).all(axis=1).sum())
    size = float(np.mean([prediction_set_size(row, least) for row in probs]))
    return PredictionSetScore(COVERAGE, held / len(probs), wilson_interval(held, len(probs)), size)


def _score_rejection(strange: NDArray[np.bool_]) -> Rejection:
    count = int(strange.sum())
    return Rejection(UNKNOWN_RATE, count / len(strange), wilson_interval(count, len(strange)))


def _score_unknown_classes(
    score: Score,
    labels: NDArray[np.integer],
    odd: NDArray[np.bool_],
    classes: tuple[str, ...],
    known: int,
    strange: NDArray[np.bool_] | None,
) -> UnknownClassScore:
    """Score all images, those of unknown classes counted as errors."""
    counts = np.bincount(labels, minlength=len(classes)) if labels.ndim == 1 else labels.sum(axis=0)
    share = score.accuracy if isinstance(score, Evaluation) else score.subset_accuracy
    right = round(share * score.count)
    return UnknownClassScore(
        classes={name: int(own) for name, own in zip(classes[known:], counts[known:], strict=True) if own},
        accuracy=right / len(labels),
        interval=wilson_interval(right, len(labels)),
        rejected=None if strange is None else float(strange[odd].mean()),
    )


def _single_labels(data: Dataset) -> NDArray[np.integer]:
    """Return the one label of each image, [n]. Raises DataError where an image has several or none."""
    if data.task == MULTICLASS:
        return data.labels
    if odd := int((data.labels.sum(axis=1) != 1).sum()):
        raise DataError(
            f"The classifier gives each image one label, and {odd} of {len(data)} images have several or none."
        )
    return data.labels.argmax(axis=1)
