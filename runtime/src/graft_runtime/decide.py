"""Logits to answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import MULTICLASS, MULTILABEL

UNSURE = 0.5  # the threshold of a label that has none of its own


@dataclass(frozen=True)
class Answer:
    """What a classifier says about one picture: its likeliest class and how likely each class is.

    `labels` are what it says the picture shows, likeliest first: the one label, or of several labels those that reach
    their thresholds, which may be none.
    """

    label: str
    probability: float
    probabilities: dict[str, float]
    labels: tuple[str, ...]


def probabilities(logits: NDArray[np.floating], temperature: float, task: str = MULTICLASS) -> NDArray[np.float64]:
    """Calibrated class probabilities [n, classes] from logits [n, classes] (Guo et al. 2017).

    They sum to 1 where a picture has one label; each stands for itself where it may have several.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    if task == MULTILABEL:
        return np.exp(-np.logaddexp(0, -scaled))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def answers(
    chances: NDArray[np.float64], classes: Sequence[str], task: str = MULTICLASS, thresholds: Sequence[float] = ()
) -> Iterator[Answer]:
    """One Answer for each row of probabilities [n, classes]; `thresholds` [classes] are for several labels."""
    least = np.asarray(thresholds or [UNSURE] * len(classes))
    for row in chances:
        order = np.argsort(-row, kind="stable")
        said = order[row[order] >= least[order]] if task == MULTILABEL else order[:1]
        named = dict(zip(classes, row.tolist(), strict=True))
        best = int(order[0])
        yield Answer(classes[best], float(row[best]), named, tuple(str(classes[at]) for at in said))
