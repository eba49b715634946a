"""Unknown images and shift: distance to the training images, and differences from them in pixels and answers.

The score is one minus the mean cosine to the five nearest training images in the last layer (after Sun et al. 2022);
bench/README.md compares it with others. The scores of held-out images give the threshold above which one in twenty,
or any other share, of the images of known classes is called unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones.features import normalise_rows
from graft_runtime.decide import find_finite_rows, unknown_threshold

NEIGHBOURS = 5
MAX_FEATURE_BYTES = 32 << 20  # bytes of training features that a classifier may carry
MOST_LEFT_OUT = 4096  # held-out images by which the threshold is found


@dataclass(frozen=True, eq=False)
class NeighbourMatches:
    """Unknown score of each image, [n], and the nearest known images, [n, at most NEIGHBOURS], with cosines."""

    scores: NDArray[np.float32]
    indices: NDArray[np.intp]
    cosines: NDArray[np.float32]

    def take(self, rows: NDArray[np.bool_]) -> NeighbourMatches:
        """Some of the images."""
        return NeighbourMatches(self.scores[rows], self.indices[rows], self.cosines[rows])


@dataclass(frozen=True, eq=False)
class KnownImages:
    """Stored training images: `features` [k, d] of length 1, `labels`, `names`.

    `strays` are the sorted scores of held-out images. Without features the score is the energy of
    the logits (Liu et al. 2020), for so many classes that one image of each would not find room.
    """

    features: NDArray[np.float16]
    labels: NDArray[np.integer]
    names: tuple[str, ...]
    strays: NDArray[np.float32]

    def find_neighbours(
        self, features: NDArray[np.floating], logits: NDArray[np.floating], multilabel: bool
    ) -> NeighbourMatches:
        """The score of images by their features [n, d] or, where none are kept, their logits [n, classes]."""
        if not len(self.features):
            none = np.zeros((len(logits), 0))
            return NeighbourMatches(energy_scores(logits, multilabel), none.astype(np.intp), none.astype(np.float32))
        return nearest_neighbours(self.features, features)

    def unknown_threshold(self, rate: float) -> float:
        """The score above which this share of the images of known classes lies at most; inf if it cannot be told."""
        return unknown_threshold(self.strays, rate)


def reference_layers(card_entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers that images are compared by, as a card describes it; none for the last one that the head reads."""
    before = card_entry.get("layer")  # as earlier versions wrote it
    return tuple(card_entry.get("layers") or ([before] if before else []))


def nearest_neighbours(
    stored: NDArray[np.float16], features: NDArray[np.floating], apart: NDArray[np.bool_] | None = None
) -> NeighbourMatches:
    """The nearest stored rows; `apart` [n, stored] marks pairs that do not count. Without any, the score is nan."""
    cosines = normalise_rows(features) @ stored.T.astype(np.float32)
    if apart is not None:
        cosines[apart] = -np.inf
    few = min(NEIGHBOURS, len(stored))
    which = _top_columns(cosines, few)
    best = np.take_along_axis(cosines, which, axis=1)
    counted = np.isfinite(best)
    total = np.where(counted, best, 0).sum(axis=1)
    scores = np.where(counted.any(axis=1), 1 - total / np.maximum(counted.sum(axis=1), 1), np.nan)
    return NeighbourMatches(scores.astype(np.float32), which, best)


def _top_columns(values: NDArray[np.floating], few: int) -> NDArray[np.intp]:
    """The columns of the `few` largest of each row, largest first."""
    some = np.argpartition(-values, few - 1, axis=1)[:, :few]
    order = np.argsort(-np.take_along_axis(values, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def energy_scores(logits: NDArray[np.floating], multilabel: bool) -> NDArray[np.float32]:
    """Higher for stranger images; of several labels the sum over them (Wang et al. 2021). nan without a number."""
    good = find_finite_rows(logits)
    wide = np.where(good[:, None], np.asarray(logits, np.float64), 0)
    free = np.logaddexp(0, wide).sum(axis=1) if multilabel else np.logaddexp.reduce(wide, axis=1)
    return np.where(good, -free, np.nan).astype(np.float32)


def max_stored_images(width: int) -> int:
    """How many training images a classifier carries, at most."""
    return MAX_FEATURE_BYTES // (2 * width)


def select_rows(labels: NDArray[np.integer], most: int) -> NDArray[np.intp]:
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


def heldout_scores(
    stored: NDArray[np.float16],
    groups: NDArray[np.integer],
    heldout_features: NDArray[np.floating],
    own: NDArray[np.integer],
) -> NDArray[np.float32]:
    """Sorted scores of left-out features [q, d], each judged without the stored images of its own group."""
    found = [
        nearest_neighbours(stored, heldout_features[at : at + 512], own[at : at + 512, None] == groups[None]).scores
        for at in range(0, len(heldout_features), 512)
    ]
    scores = np.concatenate([np.empty(0, np.float32), *found])
    return np.sort(scores[~np.isnan(scores)])
