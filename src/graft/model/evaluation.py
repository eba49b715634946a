"""How good a classifier is on pictures that it never saw, and how sure that number is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class OfClass:
    """Precision, recall and F1 of one class, 0 to 1, and how many pictures it was judged by."""

    name: str
    precision: float
    recall: float
    f1: float
    count: int


@dataclass(frozen=True)
class Evaluation:
    """What a classifier scored. `interval` holds the true accuracy with 95 % confidence (Wilson 1927).

    `log_loss` and `calibration_error` (0 to 1) judge the probabilities; `confusion` counts [true class][answer].
    """

    accuracy: float
    interval: tuple[float, float]
    count: int
    log_loss: float
    calibration_error: float
    classes: tuple[OfClass, ...]
    confusion: tuple[tuple[int, ...], ...]
    faults: dict[str, str] = field(default_factory=dict)  # pictures that could not be judged, and why

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes that were judged."""
        return float(np.mean([each.f1 for each in self.judged()]))

    def judged(self) -> list[OfClass]:
        """The classes that had pictures to be judged by."""
        return [each for each in self.classes if each.count]

    def worst(self, most: int = 3) -> list[OfClass]:
        """The classes with the lowest F1."""
        return sorted(self.judged(), key=lambda each: each.f1)[:most]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self) | {"macro_f1": self.macro_f1}


def judge(
    chances: NDArray[np.float64],
    labels: NDArray[np.integer],
    names: tuple[str, ...],
    faults: Mapping[str, str] | None = None,
) -> Evaluation:
    """Score probabilities [n, classes] against labels [n]; n is at least 1."""
    from scipy.stats import binomtest  # here, because predicting needs neither, and they take a second to import
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    answers = chances.argmax(axis=1)
    right = int((answers == labels).sum())
    interval = binomtest(right, len(labels)).proportion_ci(CONFIDENCE, method="wilson")
    every = np.arange(len(names))
    table = precision_recall_fscore_support(labels, answers, labels=every, zero_division=0)  # pyright: ignore[reportArgumentType]
    precision, recall, f1, counts = map(np.asarray, table)
    own = np.maximum(chances[np.arange(len(labels)), labels], 1e-15)
    return Evaluation(
        accuracy=right / len(labels),
        interval=(float(interval.low), float(interval.high)),
        count=len(labels),
        log_loss=float(-np.log(own).mean()),
        calibration_error=calibration_error(chances, labels),
        classes=tuple(
            OfClass(name, float(p), float(r), float(f), int(n))
            for name, p, r, f, n in zip(names, precision, recall, f1, counts, strict=True)
        ),
        confusion=tuple(tuple(map(int, row)) for row in confusion_matrix(labels, answers, labels=every)),
        faults=dict(faults or {}),
    )


def calibration_error(chances: NDArray[np.float64], labels: NDArray[np.integer], bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy on average, 0 to 1 (Naeini et al. 2015)."""
    confidence = chances.max(axis=1)
    right = chances.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
