"""How good a classifier of several labels is on pictures that it never saw, and how sure that number is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from graft.model.evaluation import NORMAL, Evaluation
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import UNSURE

RESAMPLES = 200


@dataclass(frozen=True)
class OfLabel:
    """How well one label is found among `count` pictures that have it; None is what cannot be told.

    `average_precision` and `auc` judge the order of its probabilities, the others the answers from `threshold` on.
    """

    name: str
    precision: float
    recall: float
    f1: float
    count: int
    threshold: float
    average_precision: float | None
    auc: float | None


@dataclass(frozen=True)
class MultilabelEvaluation:
    """What a classifier of several labels scored; all but `log_loss` lie from 0 to 1.

    `mean_average_precision` is over the labels that some picture has, `interval` holds the true figure with 95 %
    confidence (bootstrap over pictures). `subset_accuracy` is the share of pictures with exactly the right labels,
    `hamming_loss` that of wrong decisions among all, one for each picture and label.
    """

    mean_average_precision: float
    interval: tuple[float, float]
    count: int
    micro_f1: float
    subset_accuracy: float
    hamming_loss: float
    log_loss: float
    classes: tuple[OfLabel, ...]
    faults: dict[str, str] = field(default_factory=dict)  # pictures that could not be judged, and why

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that were judged."""
        return _mean([each.f1 for each in self.judged()])

    def judged(self) -> list[OfLabel]:
        """The labels that had pictures to be judged by."""
        return [each for each in self.classes if each.count]

    def worst(self, most: int = 3) -> list[OfLabel]:
        """The labels with the lowest F1."""
        return sorted(self.judged(), key=lambda each: each.f1)[:most]

    def figures(self) -> dict[str, Any]:
        """The numbers that sum it up."""
        names = ("mean_average_precision", "interval", "micro_f1", "macro_f1", "subset_accuracy", "log_loss")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"task": MULTILABEL} | asdict(self) | {"macro_f1": self.macro_f1}


Score = Evaluation | MultilabelEvaluation


def judge_labels(
    chances: NDArray[np.float64],
    labels: NDArray[np.integer],
    names: Sequence[str],
    thresholds: Sequence[float] = (),
    faults: Mapping[str, str] | None = None,
) -> MultilabelEvaluation:
    """Score probabilities [n, classes] against the labels [n, classes] that pictures have; n is at least 1."""
    there, limits = labels > 0, tuple(thresholds) or (UNSURE,) * len(names)
    said = chances >= np.array(limits)
    own = np.maximum(np.where(there, chances, 1 - chances), 1e-15)
    precise = average_precisions(chances, labels)
    columns = zip(names, chances.T, there.T, limits, precise.tolist(), strict=True)
    return MultilabelEvaluation(
        mean_average_precision=_mean(precise),
        interval=_interval(chances, labels, _mean(precise)),
        count=len(labels),
        micro_f1=_f1(int((said & there).sum()), int(said.sum()), int(there.sum())),
        subset_accuracy=float((said == there).all(axis=1).mean()),
        hamming_loss=float((said != there).mean()),
        log_loss=float(-np.log(own).mean()),
        classes=tuple(_of_label(*column) for column in columns),
        faults=dict(faults or {}),
    )


def mean_average_precision(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean of the average precision over the labels that some picture has; 0 if there is none."""
    return _mean(average_precisions(scores, labels))


def average_precisions(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """The area under precision over recall for each class, [classes], in steps; nan for a label without a picture."""
    return _weighted(_orders(scores), labels, np.ones(len(labels), int))


def _interval(chances: NDArray[np.float64], labels: NDArray[np.integer], middle: float) -> tuple[float, float]:
    """Where the true mean average precision lies, by how far it strays when as many pictures are drawn again.

    Of the draws only the spread counts: a picture drawn twice stands beside itself, so their middle is too high.
    """
    orders, count, random = _orders(chances), len(labels), np.random.default_rng(0)
    draws = (np.bincount(random.integers(0, count, count), minlength=count) for _ in range(RESAMPLES))
    reach = NORMAL * float(np.std([_mean(_weighted(orders, labels, draw)) for draw in draws]))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _orders(scores: NDArray[np.floating]) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each class the pictures by falling score, and where in that order each run of equal scores ends."""
    orders = [np.argsort(-column, kind="stable") for column in scores.T]
    return [
        (order, np.flatnonzero(np.r_[np.diff(column[order]) != 0, True]))
        for order, column in zip(orders, scores.T, strict=True)
    ]


def _weighted(
    orders: list[tuple[NDArray[np.intp], NDArray[np.intp]]], labels: NDArray[np.integer], weights: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Average precision of each class where picture i counts `weights[i]` times; scikit-learn's numbers."""
    found = np.full(len(orders), np.nan)
    for at, (order, ends) in enumerate(orders):
        seen = weights[order].cumsum()[ends]
        hits = (weights * labels[:, at])[order].cumsum()[ends]
        if hits[-1]:
            found[at] = (np.diff(hits, prepend=0) * hits / np.maximum(seen, 1e-30)).sum() / hits[-1]
    return found


def _of_label(
    name: str, chances: NDArray[np.float64], there: NDArray[np.bool_], threshold: float, precise: float
) -> OfLabel:
    said, count = chances >= threshold, int(there.sum())
    hits = int((said & there).sum())
    return OfLabel(
        name=name,
        precision=hits / max(int(said.sum()), 1),
        recall=hits / max(count, 1),
        f1=_f1(hits, int(said.sum()), count),
        count=count,
        threshold=float(threshold),
        average_precision=precise if count else None,
        auc=_auc(chances, there) if 0 < count < len(there) else None,
    )


def _auc(scores: NDArray[np.float64], there: NDArray[np.bool_]) -> float:
    """How often a picture with the label scores above one without (Mann and Whitney 1947)."""
    count = int(there.sum())
    above = rankdata(scores)[there].sum() - count * (count + 1) / 2
    return float(above / (count * (len(there) - count)))


def _f1(hits: int, said: int, there: int) -> float:
    return 2 * hits / max(said + there, 1)


def _mean(values: NDArray[np.float64] | list[float]) -> float:
    """The mean of those that are numbers; 0 without any."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else 0.0
