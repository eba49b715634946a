"""How well probabilities order the pictures: average precision and the area under the ROC curve, class by class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from graft.model.bootstrap import LEAST, Figures, Interval, intervals, mean, number

NAMES = ("mean_average_precision", "macro_auc")
CELLS = 1_000_000  # pictures x classes from which on hundreds of draws take too long: no interval then


def ranked(
    scores: NDArray[np.floating], there: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(average precision, ROC-AUC) [draws, classes] where picture i counts `weights[draw, i]` times: scikit-learn's.

    nan for a class that no picture has, and for the area also where every picture has it.
    """
    precise, areas = (np.full((len(weights), scores.shape[1]), np.nan) for _ in range(2))
    for at in np.flatnonzero(there.any(axis=0)):
        column = scores[:, at].copy()  # in one piece, which is many times faster to sort and pick from
        order = np.argsort(-column)  # equal scores count as one step, in whichever order they come
        ends = np.flatnonzero(np.r_[np.diff(column[order]) != 0, True])
        own = weights[:, order]
        seen = own.cumsum(axis=1)[:, ends]
        hits = (own * there[:, at][order]).cumsum(axis=1)[:, ends]
        with np.errstate(invalid="ignore"):  # a draw may hold no picture of the class, or none of another
            precise[:, at], areas[:, at] = _areas(seen, hits)
    return precise, areas


def _areas(seen: NDArray[np.float64], hits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Under precision over recall in steps, and under hits over misses by trapezes; [draws, steps] -> [draws] each."""
    misses, found = seen - hits, np.diff(hits, prepend=0, axis=1)
    precise = (found * hits / np.maximum(seen, 1e-30)).sum(axis=1) / hits[:, -1]
    heights = hits - found / 2
    area = (np.diff(misses, prepend=0, axis=1) * heights).sum(axis=1) / (hits[:, -1] * misses[:, -1])
    return precise, area


def of_each(scores: NDArray[np.floating], there: NDArray[np.bool_]) -> tuple[list[float | None], list[float | None]]:
    """(average precision, ROC-AUC) of each class; None is what cannot be told."""
    precise, areas = ranked(scores, there, np.ones((1, len(scores))))
    return [number(value) for value in precise[0]], [number(value) for value in areas[0]]


def means(precise: list[float | None], areas: list[float | None]) -> dict[str, float | None]:
    """Both, averaged over the classes that can be judged."""
    columns = (np.array([column], float) for column in (precise, areas))
    return {name: number(mean(column)[0]) for name, column in zip(NAMES, columns, strict=True)}


def spans(
    scores: NDArray[np.floating], there: NDArray[np.bool_], figures: Mapping[str, float | None]
) -> dict[str, Interval]:
    """The intervals of these averages; none where there are so many cells that the draws would take minutes."""

    def measured(weights: NDArray[np.float64]) -> Figures:
        return dict(zip(NAMES, map(mean, ranked(scores, there, weights)), strict=True))

    return intervals(measured, len(scores), figures, LEAST) if scores.size <= CELLS else {}


def mean_average_precision(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean of the average precision over the labels that some picture has; 0 if there is none."""
    return means(*of_each(scores, labels > 0))["mean_average_precision"] or 0.0
