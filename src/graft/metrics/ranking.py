"""Ranking metrics (average precision, ROC-AUC) by class, and the scores that fine-tuning is monitored by."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Labels, label_matrix
from graft.errors import UsageError
from graft.metrics.calibration import fit_temperature
from graft.metrics.intervals import MIN_DRAWS, Figures, Interval, bootstrap_intervals, nan_mean, none_if_nan
from graft_runtime.card import MULTILABEL

METRICS = ("mean_average_precision", "macro_auc")
MAX_CELLS = 1_000_000  # images x classes from which on hundreds of draws take too long: no interval then

Scores = dict[str, float]


def weighted_ranking(
    scores: NDArray[np.floating], y_true: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (average precision, ROC-AUC) [draws, classes], as scikit-learn's with sample weights [draws, n].

    nan for a class that no image has; ROC-AUC is nan also where every image has it.
    """
    precisions, areas = (np.full((len(weights), scores.shape[1]), np.nan) for _ in range(2))
    for at in np.flatnonzero(y_true.any(axis=0)):
        column = scores[:, at].copy()  # contiguous, which is many times faster to sort and index
        order = np.argsort(-column)  # equal scores count as one step, in whichever order they come
        ends = np.flatnonzero(np.r_[np.diff(column[order]) != 0, True])
        own = weights[:, order]
        seen = own.cumsum(axis=1)[:, ends]
        hits = (own * y_true[:, at][order]).cumsum(axis=1)[:, ends]
        with np.errstate(invalid="ignore"):  # a draw may hold no image of the class, or none of another
            precisions[:, at], areas[:, at] = _curve_areas(seen, hits)
    return precisions, areas


def _curve_areas(
    seen: NDArray[np.float64], hits: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the areas under precision-recall (steps) and ROC (trapezoids); [draws, steps] -> [draws] each."""
    misses, found = seen - hits, np.diff(hits, prepend=0, axis=1)
    precise = (found * hits / np.maximum(seen, 1e-30)).sum(axis=1) / hits[:, -1]
    heights = hits - found / 2
    area = (np.diff(misses, prepend=0, axis=1) * heights).sum(axis=1) / (hits[:, -1] * misses[:, -1])
    return precise, area


def ranking_by_class(
    scores: NDArray[np.floating], y_true: NDArray[np.bool_]
) -> tuple[list[float | None], list[float | None]]:
    """Return (average precision, ROC-AUC) of each class; None where undefined."""
    precisions, areas = weighted_ranking(scores, y_true, np.ones((1, len(scores))))
    return [none_if_nan(value) for value in precisions[0]], [none_if_nan(value) for value in areas[0]]


def average_ranking(precisions: list[float | None], areas: list[float | None]) -> dict[str, float | None]:
    """Return the means of both over the classes where they are defined."""
    columns = (np.array([column], float) for column in (precisions, areas))
    return {name: none_if_nan(nan_mean(column)[0]) for name, column in zip(METRICS, columns, strict=True)}


def ranking_intervals(
    scores: NDArray[np.floating], y_true: NDArray[np.bool_], figures: Mapping[str, float | None]
) -> dict[str, Interval]:
    """Return the intervals of these means; none beyond MAX_CELLS, where the draws would take minutes."""

    def measured(weights: NDArray[np.float64]) -> Figures:
        return dict(zip(METRICS, map(nan_mean, weighted_ranking(scores, y_true, weights)), strict=True))

    return bootstrap_intervals(measured, len(scores), figures, MIN_DRAWS) if scores.size <= MAX_CELLS else {}


def mean_average_precision(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the mean of the average precision over the labels that some image has; 0 if there is none."""
    return average_ranking(*ranking_by_class(scores, labels > 0))["mean_average_precision"] or 0.0


# --- Scores of fine-tuning --------------------------------------------------------------------------------------------


def compute_scores(logits: NDArray[np.float64], labels: Labels, metric: str) -> Scores:
    """Return the scores of logits [n, classes]: the calibrated log-loss, the accuracy, and `metric`.

    With several labels, accuracy is the share of right decisions over images and labels.
    """
    scores = {"loss": fit_temperature(logits, labels)[1], "accuracy": _accuracy(logits, labels)}
    return scores if metric in scores else scores | {metric: _compute_metric(logits, labels, metric)}


def score_to_maximise(scores: Scores, metric: str) -> float:
    """Return the score such that higher is better."""
    return -scores[metric] if metric == "loss" else scores[metric]


def check_metric(metric: str, task: str) -> None:
    """Raise UsageError for a metric that is not defined for this task."""
    if task == MULTILABEL and metric == "balanced-accuracy":
        raise UsageError(f"The metric {metric!r} is for one label an image. Use macro-f1, micro-f1, map or auc.")


def _accuracy(logits: NDArray[np.float64], labels: Labels) -> float:
    if labels.ndim == 2:
        return float(((logits > 0) == (labels > 0)).mean())
    return float((logits.argmax(axis=1) == labels).mean())


def _compute_metric(logits: NDArray[np.float64], labels: Labels, metric: str) -> float:
    from sklearn import metrics  # here, because scikit-learn takes over a second to import

    if metric in ("auc", "map"):
        return _macro_average(
            logits, labels, metrics.roc_auc_score if metric == "auc" else metrics.average_precision_score
        )
    y_pred = (logits > 0).astype(np.uint8) if labels.ndim == 2 else logits.argmax(axis=1)
    if metric == "balanced-accuracy":
        right = [float((y_pred[labels == label] == label).mean()) for label in np.unique(labels)]
        return float(np.mean(right))
    average = metric.removesuffix("-f1")
    return float(metrics.f1_score(labels, y_pred, average=average, zero_division=0))  # pyright: ignore[reportArgumentType]


def _macro_average(logits: NDArray[np.float64], labels: Labels, measure: Callable[..., float]) -> float:
    """Return the one-vs-rest mean over the classes that some images have and some do not."""
    y_true = label_matrix(labels, logits.shape[1]) > 0
    margins = logits if labels.ndim == 2 else logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    both = np.flatnonzero(y_true.any(axis=0) & ~y_true.all(axis=0))
    return float(np.mean([measure(y_true[:, at], margins[:, at]) for at in both])) if len(both) else 0.0
