"""What makes a score worth believing: reliability, prediction sets, rejection, and what the test pictures were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.model.bootstrap import Interval
from graft.model.shift import Shift

BINS = 15
FEW, FEW_OF_CLASS = 100, 10  # test pictures below which a score, or that of a class, says little
NAMED = 5  # classes in one sentence


@dataclass(frozen=True)
class Bin:
    """Answers given with a probability from `low` on and below `high`: the mean of it, and how many of them are right.

    `confidence` and `right` are shares; None where there is no such answer.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    right: float | None


@dataclass(frozen=True)
class Sets:
    """Prediction sets that should hold the truth for the share `coverage` of the pictures, and for how many they do.

    A set is never empty: it holds the likeliest class, so that the share may be higher than asked for.
    """

    coverage: float
    covered: float
    interval: Interval
    mean_size: float


@dataclass(frozen=True)
class Rejection:
    """Which share of the test pictures, all of them of known classes, is called unknown, where `rate` was asked for."""

    rate: float
    rejected: float
    interval: Interval


@dataclass(frozen=True)
class Strangers:
    """Test pictures of classes that the classifier does not know, by class: it cannot be right on any of them.

    `accuracy` counts them as wrong answers; `rejected` is the share of them that is called unknown, None where the
    classifier cannot tell.
    """

    classes: dict[str, int]
    accuracy: float
    interval: Interval
    rejected: float | None = None


@dataclass(frozen=True)
class Trust:
    """`before` and `after` are the reliability without and with calibration; `seen` are test pictures trained on.

    `unlabelled` images were left out, because their label is missing; `shift` says how the images differ from training.
    """

    before: tuple[Bin, ...] = ()
    after: tuple[Bin, ...] = ()
    sets: Sets | None = None
    unknown: Rejection | None = None
    strangers: Strangers | None = None
    seen: int = 0
    unlabelled: int = 0
    shift: Shift | None = None


def reliability(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> tuple[Bin, ...]:
    """How many answers [n] are right among those of about the same confidence."""
    which = binned(confidence, bins)
    counts = np.bincount(which, minlength=bins)
    sure, hits = (np.bincount(which, values, minlength=bins) for values in (confidence, right))
    return tuple(
        Bin(at / bins, (at + 1) / bins, n, float(sure[at]) / n if n else None, float(hits[at]) / n if n else None)
        for at, n in enumerate(counts.tolist())
    )


def binned(confidence: NDArray[np.floating], bins: int = BINS) -> NDArray[np.intp]:
    """The bin of each confidence, by equal steps from 0 to 1."""
    return np.minimum((confidence * bins).astype(np.intp), bins - 1)


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error: how far confidence is from accuracy on average, 0 to 1 (Naeini et al. 2015)."""
    gaps = np.bincount(binned(confidence, bins), confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def careful(count: int, of_classes: Mapping[str, int], trust: Trust) -> tuple[str, ...]:
    """Sentences for whoever is about to believe a score of so many test pictures."""
    said = [*(trust.shift.of_score() if trust.shift else ())]
    said += [f"{count} test pictures are few: the true figure may be anywhere in that range"] * (count < FEW)
    none = [name for name, own in of_classes.items() if not own]
    few = [name for name, own in of_classes.items() if 0 < own < FEW_OF_CLASS]
    if none:
        said.append(f"no test picture of {listed(none)}: nothing is known about how well these are told")
    if few:
        said.append(f"fewer than {FEW_OF_CLASS} test pictures of {listed(few)}: the figures of these say little")
    if trust.strangers:
        own, total = trust.strangers, sum(trust.strangers.classes.values())
        said.append(
            f"{total:,} more pictures show what the classifier does not know ({listed(list(own.classes))}): with these "
            f"counted as wrong {own.accuracy:.1%} are right"
        )
    if trust.unlabelled:
        said.append(f"{trust.unlabelled:,} images without a label are not counted")
    if trust.seen:  # last, beside what else `graft fit` says of leaks
        said.append(f"{trust.seen:,} of these pictures were trained on: the score flatters. Use pictures of their own")
    return tuple(said)


def listed(names: Sequence[str]) -> str:
    """A few names, and how many more."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
