"""How good a classifier is on pictures that it never saw, and how sure that number is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import MULTICLASS

NORMAL = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations


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

    def figures(self) -> dict[str, Any]:
        """The numbers that sum it up."""
        return {name: getattr(self, name) for name in ("accuracy", "interval", "macro_f1", "log_loss")}

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {"task": MULTICLASS} | asdict(self) | {"macro_f1": self.macro_f1}


def judge(
    chances: NDArray[np.float64],
    labels: NDArray[np.integer],
    names: tuple[str, ...],
    faults: Mapping[str, str] | None = None,
) -> Evaluation:
    """Score probabilities [n, classes] against labels [n]; n is at least 1."""
    confusion = np.bincount(labels * len(names) + chances.argmax(axis=1), minlength=len(names) ** 2)
    confusion = confusion.reshape(len(names), len(names))
    own = np.maximum(chances[np.arange(len(labels)), labels], 1e-15)
    right = int(confusion.trace())
    return Evaluation(
        accuracy=right / len(labels),
        interval=wilson(right, len(labels)),
        count=len(labels),
        log_loss=float(-np.log(own).mean()),
        calibration_error=calibration_error(chances, labels),
        classes=tuple(_of_class(name, at, confusion) for at, name in enumerate(names)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        faults=dict(faults or {}),
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """Where a share lies with 95 % confidence, after so many successes (Wilson 1927)."""
    share, z = right / count, NORMAL
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _of_class(name: str, at: int, confusion: NDArray[np.integer]) -> OfClass:
    """Precision, recall and F1; 0 where nothing was answered or there."""
    hits, answered, there = int(confusion[at, at]), int(confusion[:, at].sum()), int(confusion[at].sum())
    f1 = 2 * hits / max(answered + there, 1)
    return OfClass(name, hits / max(answered, 1), hits / max(there, 1), f1, there)


def calibration_error(chances: NDArray[np.float64], labels: NDArray[np.integer], bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy on average, 0 to 1 (Naeini et al. 2015)."""
    confidence = chances.max(axis=1)
    right = chances.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(which, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))
