"""How good a classifier of several labels is on pictures that it never saw, and how sure that number is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.model import ranking
from graft.model.bootstrap import Figures, Interval, Measure, intervals, mean, number, once, ratio, wilson
from graft.model.evaluation import SURE, Evaluation
from graft.model.trust import BINS, Trust, binned, careful, reliability
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import UNSURE


@dataclass(frozen=True)
class OfLabel:
    """How well one label is found among `count` pictures that have it; None is what cannot be told.

    `average_precision` and `auc` judge the order of its probabilities, the others the answers from `threshold` on.
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
    """What a classifier of several labels scored; None is what cannot be told, all but `log_loss` lie from 0 to 1.

    `mean_average_precision` is over the labels that some picture has; `intervals` hold the true figures with 95 %
    confidence (bootstrap over pictures), `interval` that one. `subset_accuracy` is the share of pictures with exactly
    the right labels, `hamming_loss` that of wrong decisions among all, one for each picture and label; `brier` and
    `calibration_error` judge the probability of every label of every picture.
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
    classes: tuple[OfLabel, ...]
    faults: dict[str, str] = field(default_factory=dict)  # pictures that could not be judged, and why
    trust: Trust = field(default_factory=Trust)

    def __repr__(self) -> str:
        figure = "no" if self.mean_average_precision is None else f"{self.mean_average_precision:.1%}"
        return (
            f"<MultilabelEvaluation: {figure} mean average precision on {self.count:,} images, "
            f"{len(self.classes):,} labels>"
        )

    def judged(self) -> list[OfLabel]:
        """The labels that had pictures to be judged by."""
        return [each for each in self.classes if each.count]

    def worst(self, most: int = 3) -> list[OfLabel]:
        """The labels with the lowest F1."""
        return sorted(self.judged(), key=lambda each: each.f1 or 0.0)[:most]

    def careful(self) -> tuple[str, ...]:
        """What to know before believing the score, in sentences."""
        return careful(self.count, {each.name: each.count for each in self.classes}, self.trust)

    def figures(self) -> dict[str, Any]:
        """The numbers that sum it up."""
        names = ("mean_average_precision", "interval", "micro_f1", "macro_f1", "subset_accuracy", "log_loss")
        return {name: getattr(self, name) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"task": MULTILABEL} | asdict(self) | {"careful": self.careful()}


Score = Evaluation | MultilabelEvaluation


def judge_labels(
    chances: NDArray[np.float64],
    labels: NDArray[np.integer],
    names: Sequence[str],
    thresholds: Sequence[float] = (),
    faults: Mapping[str, str] | None = None,
    raw: NDArray[np.float64] | None = None,
) -> MultilabelEvaluation:
    """Score probabilities [n, classes] against the labels [n, classes] that pictures have; n is at least 1.

    `raw` are the probabilities before calibration.
    """
    there, limits = labels > 0, tuple(thresholds) or (UNSURE,) * len(names)
    said = chances >= np.array(limits)
    told, (precise, areas) = _measure(chances, said, there), ranking.of_each(chances, there)
    figures, order = once(told, len(labels)), ranking.means(precise, areas)
    spans = intervals(told, len(labels), figures) | ranking.spans(chances, there, order)
    spans["subset_accuracy"] = wilson(int((said == there).all(axis=1).sum()), len(labels))
    before = reliability((chances if raw is None else raw).ravel(), there.ravel())
    return MultilabelEvaluation(
        interval=spans.get("mean_average_precision"),
        count=len(labels),
        **(figures | order),  # pyright: ignore[reportArgumentType]
        intervals=spans,
        classes=_labels(names, said, there, limits, (precise, areas)),
        faults=dict(faults or {}),
        trust=Trust(before, reliability(chances.ravel(), there.ravel())),
    )


def _measure(chances: NDArray[np.float64], said: NDArray[np.bool_], there: NDArray[np.bool_]) -> Measure:
    """Every figure but those of the order, as a function of how often each picture counts."""
    count, own = len(chances), np.maximum(np.where(there, chances, 1 - chances), SURE)
    tables = [each.astype(np.float64) for each in (there, said, there & said)]
    each = {
        "subset_accuracy": (said == there).all(axis=1),
        "hamming_loss": (said != there).mean(axis=1),
        "log_loss": -np.log(own).mean(axis=1),
        "brier": ((chances - there) ** 2).mean(axis=1),
    }
    bins = binned(chances)
    gaps = np.stack([np.where(bins == at, chances - there, 0).sum(axis=1) for at in range(BINS)])

    def measured(weights: NDArray[np.float64]) -> Figures:
        known, answered, hits = (weights @ table for table in tables)
        f1 = np.where(known > 0, 2 * hits / np.maximum(known + answered, 1), np.nan)
        whole = ratio(2 * hits.sum(axis=1), (known + answered).sum(axis=1))
        error = np.abs(gaps @ weights.T).sum(axis=0) / chances.size
        means = {name: weights @ values / count for name, values in each.items()}
        return means | {"micro_f1": whole, "macro_f1": mean(f1), "calibration_error": error}

    return measured


def _labels(
    names: Sequence[str],
    said: NDArray[np.bool_],
    there: NDArray[np.bool_],
    thresholds: Sequence[float],
    order: tuple[list[float | None], list[float | None]],
) -> tuple[OfLabel, ...]:
    known, answered, hits = (each.sum(axis=0) for each in (there, said, there & said))
    columns = ratio(hits, answered * (known > 0)), ratio(hits, known), ratio(2 * hits, (known + answered) * (known > 0))
    shares = [[number(value) for value in column] for column in columns]
    return tuple(
        OfLabel(*row) for row in zip(names, *shares, known.tolist(), map(float, thresholds), *order, strict=True)
    )
