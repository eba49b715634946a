"""Pictures that show none of the classes: how far they lie from all that was trained on.

The score is one minus the mean cosine to the five nearest training pictures in the last layer (after Sun et al. 2022);
bench/README.md has what others are worth. What pictures that were left out score says from where on one in twenty, or
any other share, of the known classes' own pictures would be called unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.decide import finite, limit

NEIGHBOURS = 5
ROOM = 32 << 20  # bytes of training features that a classifier may carry
ASKED = 4096  # left-out pictures by which the threshold is found


@dataclass(frozen=True, eq=False)
class Near:
    """How strange each picture is, [n], and which known pictures are nearest, [n, at most NEIGHBOURS] with cosines."""

    scores: NDArray[np.float32]
    which: NDArray[np.intp]
    cosines: NDArray[np.float32]

    def take(self, rows: NDArray[np.bool_]) -> Near:
        """Some of the pictures."""
        return Near(self.scores[rows], self.which[rows], self.cosines[rows])


@dataclass(frozen=True, eq=False)
class Known:
    """Training pictures by what the network says of them: `features` [k, d] of length 1, `labels`, `names`.

    `strays` are the sorted scores of pictures that were not learned from. Without features the score is the energy of
    the logits (Liu et al. 2020), for so many classes that one picture of each would not find room.
    """

    features: NDArray[np.float16]
    labels: NDArray[np.integer]
    names: tuple[str, ...]
    strays: NDArray[np.float32]

    def near(self, features: NDArray[np.floating], logits: NDArray[np.floating], several: bool) -> Near:
        """The score of pictures by their features [n, d] or, where none are kept, their logits [n, classes]."""
        if not len(self.features):
            none = np.zeros((len(logits), 0))
            return Near(energy(logits, several), none.astype(np.intp), none.astype(np.float32))
        return nearest(self.features, features)

    def limit(self, rate: float) -> float:
        """The score above which this share of the pictures of known classes lies at most; inf if it cannot be told."""
        return limit(self.strays, rate)


def compared_by(described: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers that images are compared by, as a card describes it; none for the last one that the head reads."""
    before = described.get("layer")  # as earlier versions wrote it
    return tuple(described.get("layers") or ([before] if before else []))


def unit(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows of length 1, [n, d]; nan where a feature is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def nearest(
    stored: NDArray[np.float16], features: NDArray[np.floating], apart: NDArray[np.bool_] | None = None
) -> Near:
    """The nearest stored rows; `apart` [n, stored] marks pairs that do not count. Without any, the score is nan."""
    cosines = unit(features) @ stored.T.astype(np.float32)
    if apart is not None:
        cosines[apart] = -np.inf
    few = min(NEIGHBOURS, len(stored))
    which = _first(cosines, few)
    best = np.take_along_axis(cosines, which, axis=1)
    counted = np.isfinite(best)
    total = np.where(counted, best, 0).sum(axis=1)
    scores = np.where(counted.any(axis=1), 1 - total / np.maximum(counted.sum(axis=1), 1), np.nan)
    return Near(scores.astype(np.float32), which, best)


def _first(values: NDArray[np.floating], few: int) -> NDArray[np.intp]:
    """The columns of the `few` largest of each row, largest first."""
    some = np.argpartition(-values, few - 1, axis=1)[:, :few]
    order = np.argsort(-np.take_along_axis(values, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def energy(logits: NDArray[np.floating], several: bool) -> NDArray[np.float32]:
    """Higher for stranger pictures; of several labels the sum over them (Wang et al. 2021). nan without a number."""
    good = finite(logits)
    wide = np.where(good[:, None], np.asarray(logits, np.float64), 0)
    free = np.logaddexp(0, wide).sum(axis=1) if several else np.logaddexp.reduce(wide, axis=1)
    return np.where(good, -free, np.nan).astype(np.float32)


def room(width: int) -> int:
    """How many training pictures a classifier carries, at most."""
    return ROOM // (2 * width)


def chosen(labels: NDArray[np.integer], most: int) -> NDArray[np.intp]:
    """At most so many rows, the large classes cut to one size; of several labels every so-manieth row."""
    if len(labels) <= most:
        return np.arange(len(labels))
    if labels.ndim == 2:
        return np.linspace(0, len(labels) - 1, most).astype(np.intp)
    place = np.empty(len(labels), np.intp)  # of each row within its class
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        place[own] = np.arange(len(own))
    return np.sort(np.argsort(place, kind="stable")[:most])


def strays(
    stored: NDArray[np.float16], groups: NDArray[np.integer], asked: NDArray[np.floating], own: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Sorted scores of left-out features [q, d], each judged without the stored pictures of its own group."""
    found = [
        nearest(stored, asked[at : at + 512], own[at : at + 512, None] == groups[None]).scores
        for at in range(0, len(asked), 512)
    ]
    scores = np.concatenate([np.empty(0, np.float32), *found])
    return np.sort(scores[~np.isnan(scores)])
