"""Scores of a classifier on labelled images, and the paired comparison of two classifiers on the same test images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data import classes
from graft.data.dataset import Dataset
from graft.errors import DataError, UsageError
from graft.metrics.calibration import PredictionSetScore, Rejection, UnknownClassScore
from graft.metrics.evaluation import Evaluation, Score, evaluate_multiclass, evaluate_multilabel
from graft.metrics.intervals import Interval, draw_weights, percentile_interval, wilson_interval
from graft.metrics.ranking import weighted_ranking
from graft.metrics.unknown import Shift, measure_shift
from graft.model.memory import EvaluationRecord, Memory
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


# --- comparison of two classifiers ------------------------------------------------------------------------------------

SIGNIFICANCE = 0.05  # level of the tests: probability of a false verdict between equal classifiers
BETTER, WORSE, EVEN = "better", "worse", "not distinguishable"


@dataclass(frozen=True)
class Comparison:
    """The first classifier against the second on `shared` test images, found by their content.

    `verdict` is 'better', 'worse' or 'not distinguishable' of the first; `difference` is its `metric` less that of the
    second, with the interval that holds the true difference with 95 % confidence (paired bootstrap). `p` is that of
    McNemar's exact test (None for several labels, where the interval decides). `only_first` and `only_second` count the
    images that just one of them predicts right; `trained_on` counts the other's test images that the first, or the
    second, was trained on; `other` the images for which the two have different labels, left out.
    """

    verdict: str
    metric: str
    first: float
    second: float
    difference: float
    interval: Interval
    p: float | None
    log_loss: float | None
    log_loss_interval: Interval | None
    shared: int
    only_first: int
    only_second: int
    tested: tuple[int, int]
    trained_on: tuple[int, int]
    other: int = 0

    def __repr__(self) -> str:
        scores = f"{self.metric.replace('_', ' ')} {self.first:.1%} against {self.second:.1%}"
        return f"<Comparison: {self.verdict}, {scores} on {self.shared:,} shared images>"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ClassChange:
    """Recall of one class by the first and the second classifier, on `count` shared test images of it.

    `gained` images are found by the first only, `lost` by the second only. `verdict` is that of the first; as many
    classes are tested, Holm's method (1979) keeps the chance of any false 'worse' or 'better' at SIGNIFICANCE.
    """

    name: str
    count: int
    first: float
    second: float
    gained: int
    lost: int
    p: float
    verdict: str


@dataclass(frozen=True)
class ComparedClassifier:
    """A classifier in a comparison: its classes, thresholds and stored test predictions."""

    name: str
    task: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    memory: Memory | None

    @property
    def test_record(self) -> EvaluationRecord:
        """The predictions for its test images. Raises DataError where it has none."""
        if self.memory is None or self.memory.tested is None:
            raise DataError(
                f"{self.name} remembers no test image: it was not scored by `graft fit`, or by an earlier version. "
                "Train it again, with images to spare for a test."
            )
        return self.memory.tested


def compare(first: ComparedClassifier, second: ComparedClassifier) -> Comparison:
    """Compare two classifiers on their shared test images.

    Raises UsageError for classifiers of different tasks, and DataError where they share no test image.
    """
    if first.task != second.task:
        raise UsageError(f"{first.name} and {second.name} answer two kinds of question: {first.task}, {second.task}.")
    one, two = first.test_record, second.test_record
    rows = _match_digests(one.digests, two.digests)
    if not len(rows):
        raise DataError(
            f"{first.name} and {second.name} share none of their {len(one):,} and {len(two):,} test images, so they "
            "cannot be compared. Train both on the same images with the same seed, or give both the same test part."
        )
    agreed = _have_same_labels(first, second, rows)
    if not agreed.any():
        raise DataError(f"{first.name} and {second.name} were given other labels for each of the images they share.")
    kept = rows[agreed]
    facts = {
        "shared": len(kept),
        "tested": (len(one), len(two)),
        "trained_on": (_count_trained_on(first, two), _count_trained_on(second, one)),
        "other": int((~agreed).sum()),
    }
    return (_compare_multiclass if first.task == MULTICLASS else _compare_multilabel)(first, second, kept, facts)


def compare_classes(first: ComparedClassifier, second: ComparedClassifier) -> list[ClassChange]:
    """Compare the recall of each class that both know and a shared image has, in the order of the first's classes."""
    rows = _match_digests(first.test_record.digests, second.test_record.digests)
    rows = rows[_have_same_labels(first, second, rows)]
    one, two = (_class_hits(side, rows[:, at]) for at, side in enumerate((first, second)))
    found = []
    for name in first.classes:
        if name in one and name in two and len(one[name]):
            gained, lost = int((one[name] & ~two[name]).sum()), int((two[name] & ~one[name]).sum())
            recalls = float(one[name].mean()), float(two[name].mean())
            found.append(ClassChange(name, len(one[name]), *recalls, gained, lost, mcnemar(gained, lost), EVEN))
    return _decide_verdicts(found)


def _decide_verdicts(found: list[ClassChange]) -> list[ClassChange]:
    """Return the changes with verdicts by Holm's method: smallest p first, until one is not significant."""
    verdicts = list(found)
    order = sorted(range(len(found)), key=lambda at: found[at].p)
    for place, at in enumerate(order):
        if found[at].p * (len(found) - place) >= SIGNIFICANCE:
            break
        verdicts[at] = replace(found[at], verdict=BETTER if found[at].gained > found[at].lost else WORSE)
    return verdicts


def _class_hits(side: ComparedClassifier, rows: NDArray[np.intp]) -> dict[str, NDArray[np.bool_]]:
    """Return, for each class, which of the images that have it were predicted as such."""
    labels = side.test_record.labels[rows]
    if side.task == MULTICLASS:
        y_pred = _predicted_labels(side.test_record, rows)
        return {name: y_pred[labels == at] == at for at, name in enumerate(side.classes)}
    probs = _probability_table(side.test_record, rows, len(side.classes))
    limits = side.thresholds or [0.5] * len(side.classes)
    return {name: probs[labels[:, at] > 0, at] >= limits[at] for at, name in enumerate(side.classes)}


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the two-sided p of McNemar's exact test (1947): that two equal classifiers differ at least so much."""
    from scipy.special import bdtr  # here, because it takes half a second to import

    fewer = min(only_first, only_second)  # twice the tail of the binomial distribution of a fair coin
    return min(1.0, 2 * float(bdtr(fewer, only_first + only_second, 0.5)))


def _compare_multiclass(
    first: ComparedClassifier, second: ComparedClassifier, rows: NDArray[np.intp], facts: dict[str, Any]
) -> Comparison:
    sides = ((first.test_record, rows[:, 0]), (second.test_record, rows[:, 1]))
    right = [_predicted_labels(tested, own) == tested.labels[own] for tested, own in sides]
    losses = [-np.log(np.maximum(tested.own[own].astype(np.float64), 1e-15)) for tested, own in sides]
    alone = [int((right[at] & ~right[1 - at]).sum()) for at in (0, 1)]
    gain, loss = right[0].astype(float) - right[1], losses[0] - losses[1]
    p = mcnemar(*alone)
    difference = float(gain.mean())
    return Comparison(
        verdict=EVEN if p >= SIGNIFICANCE else BETTER if difference > 0 else WORSE,
        metric="accuracy",
        first=float(right[0].mean()),
        second=float(right[1].mean()),
        difference=difference,
        interval=paired_interval(gain),
        p=p,
        log_loss=float(loss.mean()),
        log_loss_interval=paired_interval(loss),
        only_first=alone[0],
        only_second=alone[1],
        **facts,
    )


def _compare_multilabel(
    first: ComparedClassifier, second: ComparedClassifier, rows: NDArray[np.intp], facts: dict[str, Any]
) -> Comparison:
    """Compare the mean average precision over the labels that both know and that some shared image has."""
    common = [name for name in first.classes if name in second.classes]
    tables, predictions = [], []
    for side, own in ((first, rows[:, 0]), (second, rows[:, 1])):
        columns = [side.classes.index(name) for name in common]
        probs = _probability_table(side.test_record, own, len(side.classes))[:, columns]
        tables.append(probs)
        predictions.append(probs >= np.asarray(side.thresholds or [0.5] * len(side.classes))[columns])
    columns = [first.classes.index(name) for name in common]
    y_true = first.test_record.labels[rows[:, 0]][:, columns] > 0
    right = [(each == y_true).all(axis=1) for each in predictions]
    whole = np.ones((1, len(rows)))
    one, two = (float(np.nanmean(weighted_ranking(table, y_true, whole)[0])) for table in tables)
    drawn = [
        np.nanmean(weighted_ranking(tables[0], y_true, block)[0], axis=1)
        - np.nanmean(weighted_ranking(tables[1], y_true, block)[0], axis=1)
        for block in draw_weights(len(rows), 200)
    ]
    low, high = percentile_interval(np.concatenate(drawn), one - two, -1.0, 1.0)
    return Comparison(
        verdict=BETTER if low > 0 else WORSE if high < 0 else EVEN,
        metric="mean_average_precision",
        first=one,
        second=two,
        difference=one - two,
        interval=(low, high),
        p=None,
        log_loss=None,
        log_loss_interval=None,
        only_first=int((right[0] & ~right[1]).sum()),
        only_second=int((right[1] & ~right[0]).sum()),
        **facts,
    )


def paired_interval(differences: NDArray[np.float64]) -> Interval:
    """Return the 95 % confidence interval of the mean of paired differences [n]."""
    drawn = [block @ differences / len(differences) for block in draw_weights(len(differences))]
    return percentile_interval(np.concatenate(drawn), float(differences.mean()), -np.inf, np.inf)


def _predicted_labels(tested: EvaluationRecord, rows: NDArray[np.intp]) -> NDArray[np.integer]:
    """Return the predictions, as indices of the classifier's own classes."""
    return tested.columns[rows, tested.chances[rows].argmax(axis=1)]


def _probability_table(tested: EvaluationRecord, rows: NDArray[np.intp], classes: int) -> NDArray[np.float64]:
    """Return probabilities [n, classes]; those that are not stored are 0."""
    table = np.zeros((len(rows), classes))
    np.put_along_axis(table, tested.columns[rows].astype(np.intp), tested.chances[rows].astype(np.float64), axis=1)
    return table


def _match_digests(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Return the rows [shared, 2] of the contents that both have, each once."""
    places = [{digest.tobytes(): at for at, digest in enumerate(digests)} for digests in (one, two)]
    both = [(at, places[1][digest]) for digest, at in places[0].items() if digest in places[1]]
    return np.array(both, np.intp).reshape(-1, 2)


def _have_same_labels(
    first: ComparedClassifier, second: ComparedClassifier, rows: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Return for which images both have the same labels, by name."""
    one, two = first.test_record.labels[rows[:, 0]], second.test_record.labels[rows[:, 1]]
    return np.array([_label_names(first, a) == _label_names(second, b) for a, b in zip(one, two, strict=True)])


def _label_names(side: ComparedClassifier, label: Any) -> frozenset[str]:
    return frozenset(side.classes[at] for at in (np.flatnonzero(label) if np.ndim(label) else [label]))


def _count_trained_on(side: ComparedClassifier, tested: EvaluationRecord) -> int:
    """Return how many of the other's test images this one was trained on."""
    assert side.memory
    return int(side.memory.find_trained(tested.digests).sum())
