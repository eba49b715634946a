"""Evaluation of a classifier on test images: metrics with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import extras
from graft.metrics import ranking
from graft.metrics.calibration import BINS, ReliabilityBin, Trust, bin_indices, build_caveats, reliability_bins
from graft.metrics.intervals import (
    Figures,
    Interval,
    Measure,
    bootstrap_intervals,
    nan_mean,
    nan_ratio,
    none_if_nan,
    point_estimates,
    wilson_interval,
)
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.decide import DEFAULT_THRESHOLD

TOP_K = 5  # of the top-k accuracy
MAX_CONFUSION_CLASSES = 100  # classes beyond which the confusion matrix is given by its cells off the diagonal only
MAX_SHOWN_CLASSES = 20  # classes up to which a notebook shows the confusion matrix, else the most frequent confusions
MAX_SHOWN_CONFUSIONS = 8
MAX_SHOWN_WORST = 5
MIN_PROBABILITY = 1e-15  # probabilities are clipped to it in the log-loss


# --- One label for each image -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassScore:
    """Metrics of one class, with `count` test images of it; all from 0 to 1, None where undefined.

    Precision is None for a class that was never predicted. `average_precision` and `auc` measure the ranking by its
    probabilities, one-vs-rest.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    count: int
    average_precision: float | None
    auc: float | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a classifier on test images. `interval` is the 95 % confidence interval of the accuracy (Wilson 1927).

    `intervals` are those of the other metrics (bootstrap over images); an undefined metric is None. `log_loss`, `brier`
    (0 to 2) and `calibration_error` (0 to 1) measure the probabilities; `top_k` is the share of images whose class is
    among the five likeliest, None with five classes or fewer. `confusion` counts [true class][predicted class], and is
    empty with more than a hundred classes; `confused` are its cells (true class, predicted class, images) off the
    diagonal, worst first.
    """

    accuracy: float
    interval: Interval
    count: int
    balanced_accuracy: float | None
    macro_precision: float | None
    macro_f1: float | None
    mcc: float | None
    top_k: float | None
    macro_auc: float | None
    mean_average_precision: float | None
    log_loss: float
    brier: float
    calibration_error: float
    intervals: dict[str, Interval]
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    confused: tuple[tuple[int, int, int], ...]
    faults: dict[str, str] = field(default_factory=dict)  # images that could not be evaluated, and why
    trust: Trust = field(default_factory=Trust)

    def __repr__(self) -> str:
        low, high = self.interval
        span = f"95% confidence: {low:.1%} to {high:.1%}"
        return (
            f"<Evaluation: {self.accuracy:.1%} right on {self.count:,} images ({span}), {len(self.classes):,} classes>"
        )

    def _repr_html_(self) -> str:
        from graft_runtime import display  # here, as only a notebook needs it

        low, high = self.interval
        return display.block(
            f"{self.accuracy:.1%} right on {self.count:,} images",
            display.draw_interval(self.accuracy, low, high),
            display.note(f"95 % confidence: {low:.1%} to {high:.1%}"),
            *map(display.note, self.caveats()),
            self._confusion_html(),
            worst_table(self.worst_classes(MAX_SHOWN_WORST)),
            display.note(count_faults(self.faults)),
        )

    def _confusion_html(self) -> str:
        """Return the confusion matrix, or with many classes the most frequent confusions, as HTML."""
        from graft_runtime import display

        names = [each.name for each in self.classes]
        if self.confusion and len(names) <= MAX_SHOWN_CLASSES:
            return display.confusion_matrix(names, self.confusion)
        rows = [
            (display.escape_text(names[true]), display.escape_text(names[predicted]), f"{count:,}")
            for true, predicted, count in self.confused[:MAX_SHOWN_CONFUSIONS]
        ]
        return display.table(("class", "taken for", "images"), rows) if rows else ""

    def to_dataframe(self) -> Any:
        """Return a pandas.DataFrame with a row for each class and the columns of ClassScore.

        Raises UsageError where pandas is not installed.
        """
        return build_class_frame(self.classes)

    def scored_classes(self) -> list[ClassScore]:
        """Return the classes that have test images."""
        return [each for each in self.classes if each.count]

    def worst_classes(self, most: int = 3) -> list[ClassScore]:
        """Return the classes with the lowest F1."""
        return sorted(self.scored_classes(), key=lambda each: each.f1 or 0.0)[:most]

    def caveats(self) -> tuple[str, ...]:
        """Return caveats about the score, as sentences."""
        return build_caveats(self.count, {each.name: each.count for each in self.classes}, self.trust)

    def summary_metrics(self) -> dict[str, Any]:
        """Return the main metrics by name."""
        return {name: getattr(self, name) for name in ("accuracy", "interval", "macro_f1", "log_loss")}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON."""
        return {"task": MULTICLASS} | asdict(self) | {"micro_f1": self.accuracy, "careful": self.caveats()}


def evaluate_multiclass(
    probs: NDArray[np.float64],
    labels: NDArray[np.integer],
    names: tuple[str, ...],
    faults: Mapping[str, str] | None = None,
    raw: NDArray[np.float64] | None = None,
) -> Evaluation:
    """Evaluate probabilities [n, classes] against labels [n]; n is at least 1. `raw` are those before calibration."""
    count, y_pred = len(labels), probs.argmax(axis=1)
    right = y_pred == labels
    measure = _measure_multiclass(probs, labels)
    figures = point_estimates(measure, count)
    spans = bootstrap_intervals(measure, count, figures)
    y_true = labels[:, None] == np.arange(len(names))
    precisions, areas = ranking.ranking_by_class(probs, y_true)
    order = ranking.average_ranking(precisions, areas)
    spans |= ranking.ranking_intervals(probs, y_true, order)
    hit = int(_is_in_top_k(probs, labels).sum())
    interval = wilson_interval(int(right.sum()), count)
    spans |= {"accuracy": interval} | ({"top_k": wilson_interval(hit, count)} if len(names) > TOP_K else {})
    return Evaluation(
        accuracy=int(right.sum()) / count,
        interval=interval,
        count=count,
        top_k=hit / count if len(names) > TOP_K else None,
        **(figures | order),  # pyright: ignore[reportArgumentType]
        intervals=spans,
        classes=_score_classes(names, labels, y_pred, precisions, areas),
        confusion=_count_confusion(labels, y_pred, len(names)),
        confused=_list_confusions(labels, y_pred, len(names)),
        faults=dict(faults or {}),
        trust=Trust(_bin_reliability(probs if raw is None else raw, labels), _bin_reliability(probs, labels)),
    )


def _measure_multiclass(probs: NDArray[np.float64], labels: NDArray[np.integer]) -> Measure:
    """Return all metrics but the ranking ones, as a function of the weights of images."""
    from scipy.sparse import csr_array  # here, as in other places scipy: it takes half a second to import

    count, classes = probs.shape
    y_pred, rows, sure = probs.argmax(axis=1), np.arange(count), probs.max(axis=1)
    right = y_pred == labels
    loss = -np.log(np.maximum(probs[rows, labels], MIN_PROBABILITY))
    brier = np.einsum("ij,ij->i", probs, probs) - 2 * probs[rows, labels] + 1
    ones = np.ones(count)
    of = {"true": (labels, ones), "predicted": (y_pred, ones), "hits": (labels, right.astype(float))}
    tables = {name: csr_array((values, (rows, at)), (count, classes)).T for name, (at, values) in of.items()}
    gaps = csr_array((sure - right, (rows, bin_indices(sure))), (count, BINS)).T

    def measured(weights: NDArray[np.float64]) -> Figures:
        true, predicted, hits = ((tables[name] @ weights.T).T for name in ("true", "predicted", "hits"))
        recall, has_images = nan_ratio(hits, true), true > 0
        precision = np.where(has_images, hits / np.maximum(predicted, 1), np.nan)
        return {
            "balanced_accuracy": nan_mean(recall),
            "macro_precision": nan_mean(precision),
            "macro_f1": nan_mean(np.where(has_images, 2 * hits / np.maximum(true + predicted, 1), np.nan)),
            "mcc": _mcc(true, predicted, hits),
            "log_loss": weights @ loss / count,
            "brier": weights @ brier / count,
            "calibration_error": np.abs(gaps @ weights.T).sum(axis=0) / count,
        }

    return measured


def _mcc(
    true_counts: NDArray[np.float64], predicted_counts: NDArray[np.float64], hits: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the correlation of true and predicted class (Matthews 1975; Gorodkin 2004); nan where one is constant."""
    count = true_counts.sum(axis=1)
    spread = (count**2 - (true_counts**2).sum(axis=1)) * (count**2 - (predicted_counts**2).sum(axis=1))
    return nan_ratio(hits.sum(axis=1) * count - (true_counts * predicted_counts).sum(axis=1), np.sqrt(spread))


def _is_in_top_k(probs: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return whether fewer than TOP_K classes are likelier than the true one; ties go to the earlier class."""
    own = probs[np.arange(len(labels)), labels][:, None]
    earlier = (probs == own) & (np.arange(probs.shape[1]) < labels[:, None])
    return ((probs > own) | earlier).sum(axis=1) < TOP_K


def _score_classes(
    names: tuple[str, ...],
    labels: NDArray[np.integer],
    y_pred: NDArray[np.integer],
    precisions: list[float | None],
    areas: list[float | None],
) -> tuple[ClassScore, ...]:
    true, predicted = (np.bincount(each, minlength=len(names)) for each in (labels, y_pred))
    hits = np.bincount(labels[labels == y_pred], minlength=len(names))
    columns = (
        nan_ratio(hits, predicted * (true > 0)),
        nan_ratio(hits, true),
        nan_ratio(2 * hits, (true + predicted) * (true > 0)),
    )
    shares = [[none_if_nan(value) for value in column] for column in columns]
    return tuple(ClassScore(*row) for row in zip(names, *shares, true.tolist(), precisions, areas, strict=True))


def _count_confusion(
    labels: NDArray[np.integer], y_pred: NDArray[np.integer], classes: int
) -> tuple[tuple[int, ...], ...]:
    if classes > MAX_CONFUSION_CLASSES:
        return ()
    cells = np.bincount(labels * classes + y_pred, minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(row) for row in cells.tolist())


def _list_confusions(
    labels: NDArray[np.integer], y_pred: NDArray[np.integer], classes: int
) -> tuple[tuple[int, int, int], ...]:
    wrong = labels != y_pred
    cells, counts = np.unique(labels[wrong].astype(np.int64) * classes + y_pred[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(
        (cell // classes, cell % classes, n)
        for cell, n in zip(*(each[order].tolist() for each in (cells, counts)), strict=True)
    )


def _bin_reliability(probs: NDArray[np.float64], labels: NDArray[np.integer]) -> tuple[ReliabilityBin, ...]:
    return reliability_bins(probs.max(axis=1), probs.argmax(axis=1) == labels)


# --- Several labels for each image ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelScore:
    """Metrics of one label, with `count` test images that have it; None where undefined.

    `average_precision` and `auc` measure the ranking by its probabilities, the others the predictions from `threshold`
    on.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    count: int
    threshold: float
    average_precision: float | None
    auc: float | None


@dataclass(frozen=True)
class MultilabelEvaluation:
    """Metrics of a multilabel classifier; None where undefined. All but `log_loss` are from 0 to 1.

    `mean_average_precision` is over the labels that some image has, `interval` its 95 % confidence interval;
    `intervals` are those of all metrics (bootstrap over images). `subset_accuracy` is the share of images with exactly
    the right labels, `hamming_loss` the share of wrong decisions over images and labels; `brier` and
    `calibration_error` measure the probability of every label of every image.
    """

    mean_average_precision: float | None
    interval: Interval | None
    count: int
    micro_f1: float | None
    macro_f1: float | None
    macro_auc: float | None
    subset_accuracy: float
    hamming_loss: float
    log_loss: float
    brier: float
    calibration_error: float
    intervals: dict[str, Interval]
    classes: tuple[LabelScore, ...]
    faults: dict[str, str] = field(default_factory=dict)  # images that could not be evaluated, and why
    trust: Trust = field(default_factory=Trust)

    def __repr__(self) -> str:
        figure = "no" if self.mean_average_precision is None else f"{self.mean_average_precision:.1%}"
        return (
            f"<MultilabelEvaluation: {figure} mean average precision on {self.count:,} images, "
            f"{len(self.classes):,} labels>"
        )

    def _repr_html_(self) -> str:
        from graft_runtime import display  # here, as only a notebook needs it

        figure, interval = self.mean_average_precision, ""
        if figure is not None and self.interval:
            low, high = self.interval
            interval = display.draw_interval(figure, low, high)
            interval += display.note(f"95 % confidence: {low:.1%} to {high:.1%}")
        return display.block(
            f"{display.format_percent(figure)} mean average precision on {self.count:,} images",
            interval,
            display.note(f"Exactly the right labels: {self.subset_accuracy:.1%} of the images"),
            *map(display.note, self.caveats()),
            worst_table(self.worst_classes(MAX_SHOWN_WORST)),
            display.note(count_faults(self.faults)),
        )

    def to_dataframe(self) -> Any:
        """Return a pandas.DataFrame with a row for each label and the columns of LabelScore.

        Raises UsageError where pandas is not installed.
        """
        return build_class_frame(self.classes)

    def scored_classes(self) -> list[LabelScore]:
        """Return the labels that have test images."""
        return [each for each in self.classes if each.count]

    def worst_classes(self, most: int = 3) -> list[LabelScore]:
        """Return the labels with the lowest F1."""
        return sorted(self.scored_classes(), key=lambda each: each.f1 or 0.0)[:most]

    def caveats(self) -> tuple[str, ...]:
        """Return caveats about the score, as sentences."""
        return build_caveats(self.count, {each.name: each.count for each in self.classes}, self.trust)

    def summary_metrics(self) -> dict[str, Any]:
        """Return the main metrics by name."""
        names = ("mean_average_precision", "interval", "micro_f1", "macro_f1", "subset_accuracy", "log_loss")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Return everything as a dictionary for JSON."""
        return {"task": MULTILABEL} | asdict(self) | {"careful": self.caveats()}


Score = Evaluation | MultilabelEvaluation


def evaluate_multilabel(
    probs: NDArray[np.float64],
    labels: NDArray[np.integer],
    names: Sequence[str],
    thresholds: Sequence[float] = (),
    faults: Mapping[str, str] | None = None,
    raw: NDArray[np.float64] | None = None,
) -> MultilabelEvaluation:
    """Evaluate probabilities [n, classes] against labels [n, classes]; n is at least 1.

    `raw` are the probabilities before calibration.
    """
    y_true, limits = labels > 0, tuple(thresholds) or (DEFAULT_THRESHOLD,) * len(names)
    y_pred = probs >= np.array(limits)
    measure, (precisions, areas) = _measure_multilabel(probs, y_pred, y_true), ranking.ranking_by_class(probs, y_true)
    figures, order = point_estimates(measure, len(labels)), ranking.average_ranking(precisions, areas)
    spans = bootstrap_intervals(measure, len(labels), figures) | ranking.ranking_intervals(probs, y_true, order)
    spans["subset_accuracy"] = wilson_interval(int((y_pred == y_true).all(axis=1).sum()), len(labels))
    before = reliability_bins((probs if raw is None else raw).ravel(), y_true.ravel())
    return MultilabelEvaluation(
        interval=spans.get("mean_average_precision"),
        count=len(labels),
        **(figures | order),  # pyright: ignore[reportArgumentType]
        intervals=spans,
        classes=_score_labels(names, y_pred, y_true, limits, (precisions, areas)),
        faults=dict(faults or {}),
        trust=Trust(before, reliability_bins(probs.ravel(), y_true.ravel())),
    )


def _measure_multilabel(probs: NDArray[np.float64], y_pred: NDArray[np.bool_], y_true: NDArray[np.bool_]) -> Measure:
    """Return all metrics but the ranking ones, as a function of the weights of images."""
    count, own = len(probs), np.maximum(np.where(y_true, probs, 1 - probs), MIN_PROBABILITY)
    tables = [each.astype(np.float64) for each in (y_true, y_pred, y_true & y_pred)]
    each = {
        "subset_accuracy": (y_pred == y_true).all(axis=1),
        "hamming_loss": (y_pred != y_true).mean(axis=1),
        "log_loss": -np.log(own).mean(axis=1),
        "brier": ((probs - y_true) ** 2).mean(axis=1),
    }
    bins = bin_indices(probs)
    gaps = np.stack([np.where(bins == at, probs - y_true, 0).sum(axis=1) for at in range(BINS)])

    def measured(weights: NDArray[np.float64]) -> Figures:
        true, predicted, hits = (weights @ table for table in tables)
        f1 = np.where(true > 0, 2 * hits / np.maximum(true + predicted, 1), np.nan)
        micro_f1 = nan_ratio(2 * hits.sum(axis=1), (true + predicted).sum(axis=1))
        error = np.abs(gaps @ weights.T).sum(axis=0) / probs.size
        means = {name: weights @ values / count for name, values in each.items()}
        return means | {"micro_f1": micro_f1, "macro_f1": nan_mean(f1), "calibration_error": error}

    return measured


def _score_labels(
    names: Sequence[str],
    y_pred: NDArray[np.bool_],
    y_true: NDArray[np.bool_],
    thresholds: Sequence[float],
    order: tuple[list[float | None], list[float | None]],
) -> tuple[LabelScore, ...]:
    true, predicted, hits = (each.sum(axis=0) for each in (y_true, y_pred, y_true & y_pred))
    columns = (
        nan_ratio(hits, predicted * (true > 0)),
        nan_ratio(hits, true),
        nan_ratio(2 * hits, (true + predicted) * (true > 0)),
    )
    shares = [[none_if_nan(value) for value in column] for column in columns]
    return tuple(
        LabelScore(*row) for row in zip(names, *shares, true.tolist(), map(float, thresholds), *order, strict=True)
    )


# --- Tables of classes ------------------------------------------------------------------------------------------------


def worst_table(classes: Sequence[ClassScore | LabelScore]) -> str:
    """Return an HTML table of classes, the worst first."""
    from graft_runtime import display

    rows = [
        (
            display.escape_text(each.name),
            *map(display.format_percent, (each.f1, each.precision, each.recall)),
            f"{each.count:,}",
        )
        for each in classes
    ]
    return display.table(("class, worst first", "F1", "precision", "recall", "test images"), rows)


def count_faults(faults: Mapping[str, str]) -> str:
    """Return a sentence on the images that could not be evaluated; empty without any."""
    count = len(faults)
    return f"{count:,} image{'s' * (count > 1)} could not be evaluated." if count else ""


def build_class_frame(classes: Sequence[ClassScore | LabelScore]) -> Any:
    """Return a pandas.DataFrame with a row for each class. Raises UsageError where pandas is not installed."""
    pandas = extras.import_optional("pandas", "Evaluation.to_dataframe")
    return pandas.DataFrame([asdict(each) for each in classes])
