"""How good a classifier is on pictures that it never saw, and how sure that number is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.model import ranking
from graft.model.bootstrap import Figures, Interval, Measure, intervals, mean, number, once, ratio, wilson
from graft.model.trust import BINS, Bin, Trust, binned, careful, reliability
from graft_runtime.card import MULTICLASS

K = 5  # of the top-k accuracy
MANY = 100  # classes beyond which the matrix of confusions is told by its cells alone
SURE = 1e-15  # the least probability that a loss is taken of


@dataclass(frozen=True)
class OfClass:
    """How well one class is told, by `count` pictures of it; all from 0 to 1, and None is what cannot be told.

    Precision is None for a class that was never answered. `average_precision` and `auc` judge the order of its
    probabilities, this class against the rest.
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
    """What a classifier scored. `interval` holds the true accuracy with 95 % confidence (Wilson 1927).

    `intervals` hold the other figures (bootstrap over pictures); a figure that cannot be told is None. `log_loss`,
    `brier` (0 to 2) and `calibration_error` (0 to 1) judge the probabilities; `top_k` is the share of pictures whose
    class is among the five likeliest, None with five classes or fewer. `confusion` counts [true class][answer], and is
    empty with more than a hundred classes; `confused` are its cells (true class, answer, pictures) beside the diagonal,
    worst first.
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
    classes: tuple[OfClass, ...]
    confusion: tuple[tuple[int, ...], ...]
    confused: tuple[tuple[int, int, int], ...]
    faults: dict[str, str] = field(default_factory=dict)  # pictures that could not be judged, and why
    trust: Trust = field(default_factory=Trust)

    def __repr__(self) -> str:
        low, high = self.interval
        span = f"95% confidence: {low:.1%} to {high:.1%}"
        return (
            f"<Evaluation: {self.accuracy:.1%} right on {self.count:,} images ({span}), {len(self.classes):,} classes>"
        )

    def judged(self) -> list[OfClass]:
        """The classes that had pictures to be judged by."""
        return [each for each in self.classes if each.count]

    def worst(self, most: int = 3) -> list[OfClass]:
        """The classes with the lowest F1."""
        return sorted(self.judged(), key=lambda each: each.f1 or 0.0)[:most]

    def careful(self) -> tuple[str, ...]:
        """What to know before believing the score, in sentences."""
        return careful(self.count, {each.name: each.count for each in self.classes}, self.trust)

    def figures(self) -> dict[str, Any]:
        """The numbers that sum it up."""
        return {name: getattr(self, name) for name in ("accuracy", "interval", "macro_f1", "log_loss")}

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"task": MULTICLASS} | asdict(self) | {"micro_f1": self.accuracy, "careful": self.careful()}


def judge(
    chances: NDArray[np.float64],
    labels: NDArray[np.integer],
    names: tuple[str, ...],
    faults: Mapping[str, str] | None = None,
    raw: NDArray[np.float64] | None = None,
) -> Evaluation:
    """Score probabilities [n, classes] against labels [n]; n is at least 1. `raw` are those before calibration."""
    count, said = len(labels), chances.argmax(axis=1)
    right = said == labels
    told = _measure(chances, labels)
    figures = once(told, count)
    spans = intervals(told, count, figures)
    there = labels[:, None] == np.arange(len(names))
    precise, areas = ranking.of_each(chances, there)
    order = ranking.means(precise, areas)
    spans |= ranking.spans(chances, there, order)
    hit = int(_top(chances, labels).sum())
    interval = wilson(int(right.sum()), count)
    spans |= {"accuracy": interval} | ({"top_k": wilson(hit, count)} if len(names) > K else {})
    return Evaluation(
        accuracy=int(right.sum()) / count,
        interval=interval,
        count=count,
        top_k=hit / count if len(names) > K else None,
        **(figures | order),  # pyright: ignore[reportArgumentType]
        intervals=spans,
        classes=_classes(names, labels, said, precise, areas),
        confusion=_confusion(labels, said, len(names)),
        confused=_confused(labels, said, len(names)),
        faults=dict(faults or {}),
        trust=Trust(_reliable(chances if raw is None else raw, labels), _reliable(chances, labels)),
    )


def _measure(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> Measure:
    """Every figure but those of the order, as a function of how often each picture counts."""
    from scipy.sparse import csr_array  # here, as in other places scipy: it takes half a second to import

    count, classes = chances.shape
    said, rows, sure = chances.argmax(axis=1), np.arange(count), chances.max(axis=1)
    right = said == labels
    loss = -np.log(np.maximum(chances[rows, labels], SURE))
    brier = np.einsum("ij,ij->i", chances, chances) - 2 * chances[rows, labels] + 1
    of = {"there": (labels, np.ones(count)), "said": (said, np.ones(count)), "hits": (labels, right.astype(float))}
    tables = {name: csr_array((values, (rows, at)), (count, classes)).T for name, (at, values) in of.items()}
    gaps = csr_array((sure - right, (rows, binned(sure))), (count, BINS)).T

    def measured(weights: NDArray[np.float64]) -> Figures:
        there, answered, hits = ((tables[name] @ weights.T).T for name in ("there", "said", "hits"))
        recall, judged = ratio(hits, there), there > 0
        precision = np.where(judged, hits / np.maximum(answered, 1), np.nan)
        return {
            "balanced_accuracy": mean(recall),
            "macro_precision": mean(precision),
            "macro_f1": mean(np.where(judged, 2 * hits / np.maximum(there + answered, 1), np.nan)),
            "mcc": _mcc(there, answered, hits),
            "log_loss": weights @ loss / count,
            "brier": weights @ brier / count,
            "calibration_error": np.abs(gaps @ weights.T).sum(axis=0) / count,
        }

    return measured


def _mcc(there: NDArray[np.float64], said: NDArray[np.float64], hits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The correlation of truth and answer (Matthews 1975; Gorodkin 2004); nan where one of them is constant."""
    count = there.sum(axis=1)
    spread = (count**2 - (there**2).sum(axis=1)) * (count**2 - (said**2).sum(axis=1))
    return ratio(hits.sum(axis=1) * count - (there * said).sum(axis=1), np.sqrt(spread))


def _top(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether fewer than K classes are likelier than the right one; of equal ones, the first count as likelier."""
    own = chances[np.arange(len(labels)), labels][:, None]
    earlier = (chances == own) & (np.arange(chances.shape[1]) < labels[:, None])
    return ((chances > own) | earlier).sum(axis=1) < K


def _classes(
    names: tuple[str, ...],
    labels: NDArray[np.integer],
    said: NDArray[np.integer],
    precise: list[float | None],
    areas: list[float | None],
) -> tuple[OfClass, ...]:
    there, answered = (np.bincount(each, minlength=len(names)) for each in (labels, said))
    hits = np.bincount(labels[labels == said], minlength=len(names))
    columns = ratio(hits, answered * (there > 0)), ratio(hits, there), ratio(2 * hits, (there + answered) * (there > 0))
    shares = [[number(value) for value in column] for column in columns]
    return tuple(OfClass(*row) for row in zip(names, *shares, there.tolist(), precise, areas, strict=True))


def _confusion(labels: NDArray[np.integer], said: NDArray[np.integer], classes: int) -> tuple[tuple[int, ...], ...]:
    if classes > MANY:
        return ()
    cells = np.bincount(labels * classes + said, minlength=classes**2).reshape(classes, classes)
    return tuple(tuple(row) for row in cells.tolist())


def _confused(labels: NDArray[np.integer], said: NDArray[np.integer], classes: int) -> tuple[tuple[int, int, int], ...]:
    wrong = labels != said
    cells, counts = np.unique(labels[wrong].astype(np.int64) * classes + said[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return tuple(
        (cell // classes, cell % classes, n)
        for cell, n in zip(*(each[order].tolist() for each in (cells, counts)), strict=True)
    )


def _reliable(chances: NDArray[np.float64], labels: NDArray[np.integer]) -> tuple[Bin, ...]:
    return reliability(chances.max(axis=1), chances.argmax(axis=1) == labels)
