"""Logits to answers: calibrated probabilities, labels, prediction sets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import COVERAGES, MULTICLASS, MULTILABEL

UNSURE = 0.5  # the threshold of a label that has none of its own
RATE = 0.05  # of pictures of known classes that may be called unknown
NO_NUMBER = "the network gave no number"  # the fault of an image whose logits or probabilities are not finite


@dataclass(frozen=True)
class Answer:
    """What a classifier says about one picture: its likeliest class and how likely each class is.

    `labels` are what it says the picture shows, likeliest first: the one label, or of several labels those that reach
    their thresholds, which may be none. `among` is the prediction set, likeliest first, None where none was asked for.
    A picture that is `unknown` is unlike all that was trained on: it has no labels.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    labels: tuple[str, ...]
    among: tuple[str, ...] | None = None
    unknown: bool = False

    def __repr__(self) -> str:
        odd = ", unknown" if self.unknown else ""
        return f"<Answer {self.probability:.1%} {self.label} of {len(self.probabilities):,} classes{odd}>"


def probabilities(
    logits: NDArray[np.floating],
    temperature: float,
    task: str = MULTICLASS,
    scales: Sequence[float] = (),
    shifts: Sequence[float] = (),
) -> NDArray[np.float64]:
    """Calibrated class probabilities [n, classes] from logits [n, classes] (Guo et al. 2017).

    They are divided by the temperature and then, where a class has a scale and a shift of its own, multiplied and
    moved by these. They sum to 1 where a picture has one label; each stands for itself where it may have several.
    Of an image one of whose logits is not finite all are nan: `answers` has none for it.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    if len(scales):
        scaled = scaled * np.asarray(scales) + np.asarray(shifts)
    good = finite(scaled)[:, None]
    scaled = np.where(good, scaled, 0)
    if task == MULTILABEL:
        return np.where(good, np.exp(-np.logaddexp(0, -scaled)), np.nan)
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.where(good, powers / powers.sum(axis=1, keepdims=True), np.nan)


def finite(*parts: NDArray[Any]) -> NDArray[np.bool_]:
    """Of which images [n] every number in all these arrays [n, ...] is one: neither nan nor infinite."""
    rows = (np.isfinite(part.reshape(len(part), math.prod(part.shape[1:]))).all(axis=1) for part in parts)
    return np.logical_and.reduce(list(rows))


def rank(count: int, share: float) -> int:
    """Which of so many left-out scores, by order, a fresh one stays within with this probability (Vovk et al. 2005)."""
    return math.ceil(round((count + 1) * share, 9))


def limit(strays: Sequence[float] | NDArray[np.floating], share: float) -> float:
    """The score above which a picture is unknown, so that at most this share of the known classes' own pictures is.

    `strays` are the sorted scores of pictures that were not learned from; of fewer than 19 none lies among the
    farthest 5 %. inf where no limit can be told.
    """
    at = rank(len(strays), 1 - share)
    return float(strays[at - 1]) if 0 < share < 1 and at <= len(strays) else math.inf


def least_of(sets: Sequence[float], coverage: float) -> float:
    """The least probability of a class in a prediction set, for the next coverage that `sets` are known of.

    `sets` are such probabilities, one for each of COVERAGES. Raises ValueError for a coverage beyond these.
    """
    if not sets or not 0 < coverage <= COVERAGES[-1]:
        raise ValueError(f"There are no sets of coverage {coverage}.")
    return sets[next(at for at, known in enumerate(COVERAGES) if coverage <= known + 1e-9)]


def answers(
    chances: NDArray[np.float64],
    classes: Sequence[str],
    task: str = MULTICLASS,
    thresholds: Sequence[float] = (),
    least: float | None = None,
    unknown: NDArray[np.bool_] | None = None,
) -> Iterator[Answer | None]:
    """One Answer for each row of probabilities [n, classes]; None where one of them is no number: see NO_NUMBER.

    `thresholds` [classes] are for several labels; `least` is the probability from which on a class is in the set;
    `unknown` [n] marks the pictures that are unlike all that was trained on.
    """
    limits = np.asarray(thresholds or [UNSURE] * len(classes))
    strange = np.zeros(len(chances), bool) if unknown is None else unknown
    for row, odd, good in zip(chances, strange.tolist(), finite(chances).tolist(), strict=True):
        if not good:
            yield None
            continue
        order = np.argsort(-row, kind="stable")
        said = order[row[order] >= limits[order]] if task == MULTILABEL else order[:1]
        best = int(order[0])
        yield Answer(
            label=classes[best],
            probability=float(row[best]),
            probabilities=dict(zip(classes, row.tolist(), strict=True)),
            labels=() if odd else tuple(str(classes[at]) for at in said),
            among=None if least is None else tuple(str(classes[at]) for at in order[: size_of(row, least)]),
            unknown=odd,
        )


def size_of(row: NDArray[np.float64], least: float) -> int:
    """How many classes a prediction set has: all that are likely enough, and the likeliest in any case."""
    return max(1, int((row >= least).sum()))
