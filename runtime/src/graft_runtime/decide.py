"""Logits to answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Answer:
    """What a classifier says about one picture: its likeliest class and how likely each class is."""

    label: str
    probability: float
    probabilities: dict[str, float]


def probabilities(logits: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """Calibrated class probabilities [n, classes] from logits [n, classes] (Guo et al. 2017)."""
    scaled = np.asarray(logits, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def answers(chances: NDArray[np.float64], classes: Sequence[str]) -> Iterator[Answer]:
    """One Answer for each row of probabilities [n, classes]."""
    for row in chances:
        best = int(row.argmax())
        yield Answer(classes[best], float(row[best]), dict(zip(classes, row.tolist(), strict=True)))
