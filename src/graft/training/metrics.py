"""One number for held-out pictures: by it the best epoch and the best blend are found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Labels, targets
from graft.errors import UsageError
from graft.model.calibrate import temperature
from graft_runtime.card import MULTILABEL

Scores = dict[str, float]


def judged(said: NDArray[np.float64], labels: Labels, metric: str) -> Scores:
    """Scores of logits [n, classes] against labels: the calibrated log-loss, the accuracy, and `metric`.

    Of several labels, accuracy is the share of all yes-or-no answers that are right.
    """
    scores = {"loss": temperature(said, labels)[1], "accuracy": _accuracy(said, labels)}
    return scores if metric in scores else scores | {metric: _measured(said, labels, metric)}


def higher(scores: Scores, metric: str) -> float:
    """The score such that higher is better."""
    return -scores[metric] if metric == "loss" else scores[metric]


def check(metric: str, task: str) -> None:
    """Raises UsageError for a metric that says nothing about this task."""
    if task == MULTILABEL and metric == "balanced-accuracy":
        raise UsageError(f"The metric {metric!r} is for one label a picture. Use macro-f1, micro-f1, map or auc.")


def _accuracy(said: NDArray[np.float64], labels: Labels) -> float:
    if labels.ndim == 2:
        return float(((said > 0) == (labels > 0)).mean())
    return float((said.argmax(axis=1) == labels).mean())


def _measured(said: NDArray[np.float64], labels: Labels, metric: str) -> float:
    from sklearn import metrics  # here, because scikit-learn takes over a second to import

    if metric in ("auc", "map"):
        return _ranked(said, labels, metrics.roc_auc_score if metric == "auc" else metrics.average_precision_score)
    answers = (said > 0).astype(np.uint8) if labels.ndim == 2 else said.argmax(axis=1)
    if metric == "balanced-accuracy":
        right = [float((answers[labels == label] == label).mean()) for label in np.unique(labels)]
        return float(np.mean(right))
    average = metric.removesuffix("-f1")
    return float(metrics.f1_score(labels, answers, average=average, zero_division=0))  # pyright: ignore[reportArgumentType]


def _ranked(said: NDArray[np.float64], labels: Labels, measure: Callable[..., float]) -> float:
    """The mean over the classes that can be told from the rest, each against the rest."""
    wanted = targets(labels, said.shape[1]) > 0
    margins = said if labels.ndim == 2 else said - np.logaddexp.reduce(said, axis=1, keepdims=True)
    both = np.flatnonzero(wanted.any(axis=0) & ~wanted.all(axis=0))
    return float(np.mean([measure(wanted[:, at], margins[:, at]) for at in both])) if len(both) else 0.0
