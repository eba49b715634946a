"""Label errors and outliers, from out-of-fold probabilities and features.

Confident learning (Northcutt et al. 2021): a label is likely wrong if another class is more probable, and at least as
probable as that class is on average among its own images. Written here, not taken from cleanlab, to save a dependency.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, Labels
from graft.data.duplicates import BLOCK, FeatureRows, project_features

MIN_PER_CLASS = 5  # images of a class, below which its mean probability says too little
NEIGHBOURS = 5
MIN_IMAGES = 50  # below which the spread of the distances says too little
MAX_COMPARED = 4096  # images that each is compared with, so that the time is linear in the number of images
OUTLIER_DEVIATIONS = 3.0  # robust standard deviations (of logarithms) above the median distance


@dataclass(frozen=True)
class LabelErrors:
    """Likely label errors.

    `rows` are the images whose label is likely wrong, the worst first; `suggested_labels` the class that each may be
    instead; for multilabel data, the label that is missing or wrongly set. `error_scores` [n] ranks all images: one
    minus the probability of the given label.
    """

    rows: NDArray[np.intp]
    suggested_labels: NDArray[np.intp]
    error_scores: NDArray[np.float64]

    def name_suggestions(self, data: Dataset) -> dict[int, str]:
        """Return the suggested label by row, as text; 'no sky', for instance, for a wrongly set one of several."""
        names = [data.classes[label] for label in self.suggested_labels]
        if data.labels.ndim == 2:
            is_positive = data.labels[self.rows, self.suggested_labels] > 0
            names = [f"no {name}" if has else name for has, name in zip(is_positive, names, strict=True)]
        return dict(zip(self.rows.tolist(), names, strict=True))


def find_label_errors(probs: NDArray[np.float64], labels: Labels) -> LabelErrors:
    """Find label errors by out-of-fold probabilities [n, classes]; labels are [n], or [n, classes] if multilabel."""
    if labels.ndim == 2:
        return _find_multilabel_errors(probs, labels)
    found = _find_likelier_classes(probs, labels)
    return _rank_label_errors(found >= 0, found, 1 - probs[np.arange(len(labels)), labels])


def _find_multilabel_errors(probs: NDArray[np.float64], labels: Labels) -> LabelErrors:
    """Find label errors, each class as a binary problem; an image's score is that of its worst label."""
    wrong = np.stack(
        [
            _find_likelier_classes(np.column_stack([1 - class_probs, class_probs]), class_labels) >= 0
            for class_probs, class_labels in zip(probs.T, labels.T, strict=True)
        ],
        1,
    )
    scores = np.abs(labels - probs)
    return _rank_label_errors(
        np.logical_or.reduce(wrong, axis=1), np.where(wrong, scores, -1).argmax(axis=1), scores.max(axis=1)
    )


def _find_likelier_classes(probs: NDArray[np.float64], labels: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return the class that each image likely shows instead of its label; -1 where the label stands."""
    own = probs[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=probs.shape[1])
    sums = np.bincount(labels, own, minlength=probs.shape[1])
    usual = np.where(counts >= MIN_PER_CLASS, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probs >= usual, probs, -1)
    best = confident.argmax(axis=1)
    return np.where((confident.max(axis=1) > own) & (counts[labels] >= MIN_PER_CLASS), best, -1)


def _rank_label_errors(
    is_error: NDArray[np.bool_], suggested_labels: NDArray[np.intp], error_scores: NDArray[np.float64]
) -> LabelErrors:
    rows = np.flatnonzero(is_error)
    rows = rows[np.argsort(-error_scores[rows], kind="stable")]
    return LabelErrors(rows, suggested_labels[rows], error_scores)


def find_outliers(features: FeatureRows, seed: int = 0) -> NDArray[np.intp]:
    """Return the rows far from their nearest neighbours in feature space (Ramaswamy et al. 2000), the farthest first.

    Each is compared with up to MAX_COMPARED others, so the time grows with the images, not with the pairs.
    """
    rows = project_features(features)
    if len(rows) < MIN_IMAGES:
        return np.zeros(0, np.intp)
    some = rows[np.random.default_rng(seed).permutation(len(rows))[:MAX_COMPARED]]
    starts = range(0, len(rows), BLOCK)
    distance = np.log(np.concatenate([_neighbour_distances(rows[start : start + BLOCK], some) for start in starts]))
    middle = np.median(distance)
    # 1.4826 times the median absolute deviation estimates the standard deviation of a normal distribution.
    far = np.flatnonzero(distance - middle > OUTLIER_DEVIATIONS * 1.4826 * np.median(np.abs(distance - middle)))
    return far[np.argsort(-distance[far], kind="stable")]


def _neighbour_distances(rows: NDArray[np.floating], others: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the mean distance to the nearest neighbours, without the nearest of all: it may be the image itself."""
    squares = (rows**2).sum(axis=1)[:, None] + (others**2).sum(axis=1) - 2 * rows @ others.T
    nearest = np.sort(np.partition(squares, NEIGHBOURS, axis=1)[:, : NEIGHBOURS + 1], axis=1)
    return np.sqrt(nearest[:, 1:].clip(1e-12)).mean(axis=1)
