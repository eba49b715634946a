"""From what a classifier says of labelled pictures to its score, and to what makes that worth believing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from graft.data import lookalikes
from graft.data.dataset import Dataset
from graft.errors import DataError
from graft.model.bootstrap import wilson
from graft.model.evaluation import Evaluation, judge
from graft.model.forward import Look
from graft.model.memory import Memory
from graft.model.multilabel import Score, judge_labels
from graft.model.shift import Shift, shift
from graft.model.trust import Rejection, Sets, Strangers
from graft_runtime.card import MULTICLASS, MULTILABEL, Card
from graft_runtime.decide import RATE, least_of, probabilities, size_of

COVERAGE = 0.9  # of the prediction sets in a score


def chances_of(card: Card, logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Calibrated probabilities [n, classes]."""
    return probabilities(logits, card.temperature, card.task, card.scales, card.shifts)


def matched(data: Dataset, card: Card) -> Dataset:
    """The same pictures with labels counted as the classifier's own classes, by name; others follow after these."""
    lacking = data.labels < 0 if data.task == MULTICLASS else np.zeros(len(data), bool)
    if lacking.all() or (card.task == MULTICLASS and lacking.any()):
        raise DataError("A score needs pictures, and a label for each.")
    known = lookalikes.matched(data.root or "The test part", data.classes, card.classes)
    order = np.array([known.index(name) for name in data.classes], np.int32)
    if card.task == MULTILABEL:
        labels = np.zeros((len(data), len(known)), np.uint8)
        labels[:, order] = data.targets()
    else:
        labels = order[_only(data)]
    return replace(data, classes=known, labels=labels)


def scored(
    card: Card,
    memory: Memory | None,
    look: Look,
    labels: NDArray[np.integer],
    classes: tuple[str, ...],
    faults: Mapping[str, str],
) -> Score:
    """The score of what was said of pictures with these labels, which count in `classes`: the card's, and others."""
    count = len(card.classes)
    odd = _strange(labels, count)
    if odd.all():
        raise DataError("Not one of the pictures that can be read shows a class that the classifier knows.")
    own = labels[~odd] if labels.ndim == 1 else labels[~odd, :count]
    chances = chances_of(card, look.logits)
    raw = probabilities(look.logits[~odd], 1.0, card.task)
    if card.task == MULTILABEL:
        score: Score = judge_labels(chances[~odd], own, card.classes, card.thresholds, faults, raw)
    else:
        score = judge(chances[~odd], own, card.classes, faults, raw)
    strange = _unknown(memory, look)
    trust = replace(
        score.trust,
        sets=_sets(card, chances[~odd], own),
        unknown=None if strange is None else _rejection(strange[~odd]),
        strangers=_strangers(score, labels, odd, classes, count, strange) if odd.any() else None,
        seen=int(memory.seen(look.digests).sum()) if memory else 0,
    )
    return replace(score, trust=trust)


def shifted(card: Card, memory: Memory | None, look: Look, data: Dataset) -> Shift:
    """The shift of labelled images: of those that show a class which the classifier knows."""
    labels, known = data.labels[look.rows], len(card.classes)
    own = ~_strange(labels, known)
    strange = _unknown(memory, look)
    answers = look.logits[own].argmax(axis=1) if labels.ndim == 1 else np.empty(0, np.intp)
    return shift(
        card, int(own.sum()), None if strange is None else strange[own], RATE, answers, data.take(look.rows[own])
    )


def _unknown(memory: Memory | None, look: Look) -> NDArray[np.bool_] | None:
    """Which images are called unknown, [n]; None where that cannot be told."""
    limit = memory.known.limit(RATE) if memory and memory.known else np.inf
    return look.near.scores > limit if look.near and np.isfinite(limit) else None


def _strange(labels: NDArray[np.integer], known: int) -> NDArray[np.bool_]:
    """Which pictures show nothing but what the classifier does not know, [n]."""
    if labels.ndim == 1:
        return labels >= known
    return np.logical_and(labels[:, known:].any(axis=1), ~labels[:, :known].any(axis=1))


def _sets(card: Card, chances: NDArray[np.float64], labels: NDArray[np.integer]) -> Sets | None:
    """How often the prediction sets hold the truth, all labels of it, and how large they are."""
    if not card.sets:
        return None
    least, best = least_of(card.sets, COVERAGE), chances.argmax(axis=1)
    inside = chances >= least
    inside[np.arange(len(chances)), best] = True
    wanted = labels[:, None] == np.arange(chances.shape[1]) if labels.ndim == 1 else labels > 0
    held = int((inside | ~wanted).all(axis=1).sum())
    size = float(np.mean([size_of(row, least) for row in chances]))
    return Sets(COVERAGE, held / len(chances), wilson(held, len(chances)), size)


def _rejection(strange: NDArray[np.bool_]) -> Rejection:
    count = int(strange.sum())
    return Rejection(RATE, count / len(strange), wilson(count, len(strange)))


def _strangers(
    score: Score,
    labels: NDArray[np.integer],
    odd: NDArray[np.bool_],
    classes: tuple[str, ...],
    known: int,
    strange: NDArray[np.bool_] | None,
) -> Strangers:
    """What changes when pictures that the classifier cannot be right on count."""
    counts = np.bincount(labels, minlength=len(classes)) if labels.ndim == 1 else labels.sum(axis=0)
    share = score.accuracy if isinstance(score, Evaluation) else score.subset_accuracy
    right = round(share * score.count)
    return Strangers(
        classes={name: int(own) for name, own in zip(classes[known:], counts[known:], strict=True) if own},
        accuracy=right / len(labels),
        interval=wilson(right, len(labels)),
        rejected=None if strange is None else float(strange[odd].mean()),
    )


def _only(data: Dataset) -> NDArray[np.integer]:
    """The one label of each picture, [n]."""
    if data.task == MULTICLASS:
        return data.labels
    if odd := int((data.labels.sum(axis=1) != 1).sum()):
        raise DataError(
            f"The classifier gives each picture one label, and {odd} of {len(data)} pictures have several or none."
        )
    return data.labels.argmax(axis=1)
