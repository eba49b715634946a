"""Confidence intervals: the bootstrap over images (Efron 1979) and Wilson's interval (1927)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.959963984540054  # standard deviations that hold 95 % of a normal distribution
MAX_DRAWS, MIN_DRAWS = 1000, 200  # draws
MAX_DRAWN_IMAGES = 20_000_000  # images drawn in all, unless MIN_DRAWS draws need more
BLOCK_NUMBERS = 4_000_000  # numbers in one block of draws

Interval = tuple[float, float]
Figures = dict[str, NDArray[np.float64]]  # a number for each draw, by name
Measure = Callable[[NDArray[np.float64]], Figures]  # from how often each image counts, [draws, n]

_RANGES = {"log_loss": (0.0, math.inf), "brier": (0.0, 2.0), "mcc": (-1.0, 1.0)}  # of all others 0 to 1


def point_estimates(measure: Measure, count: int) -> dict[str, float | None]:
    """Return the figures with each image counted once; None where one is undefined."""
    return {name: none_if_nan(values[0]) for name, values in measure(np.ones((1, count))).items()}


def bootstrap_intervals(
    measure: Measure, count: int, figures: Mapping[str, float | None], most: int = MAX_DRAWS
) -> dict[str, Interval]:
    """Return the 95 % confidence interval of each figure; an undefined figure has none.

    The percentiles of the draws, shifted so that their mean is the figure itself: an image drawn twice is compared with
    itself, which makes ranking look better and calibration look worse than it is.
    """
    blocks = [measure(weights) for weights in draw_weights(count, most)]
    return {
        name: percentile_interval(
            np.concatenate([block[name] for block in blocks]), figure, *_RANGES.get(name, (0.0, 1.0))
        )
        for name, figure in figures.items()
        if figure is not None
    }


def draw_weights(count: int, most: int = MAX_DRAWS) -> Iterator[NDArray[np.float64]]:
    """Yield how often each of `count` images is drawn, in blocks [draws, count]; always the same draws."""
    random, left = np.random.default_rng(0), int(np.clip(MAX_DRAWN_IMAGES // count, MIN_DRAWS, most))
    step = max(1, BLOCK_NUMBERS // count)
    while left > 0:
        each = (random.integers(0, count, count) for _ in range(min(step, left)))
        yield np.stack([np.bincount(rows, minlength=count) for rows in each]).astype(np.float64)
        left -= step


def percentile_interval(drawn: NDArray[np.float64], figure: float, least: float, most: float) -> Interval:
    """Return the middle 95 % of the draws, shifted onto the figure and clipped to the legal range."""
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) + figure - known.mean()
    return float(np.clip(low, least, figure)), float(np.clip(high, figure, most))


def wilson_interval(right: int, count: int) -> Interval:
    """Return the 95 % confidence interval of a share, after `right` successes of `count` (Wilson 1927)."""
    share, z = right / count, Z_95
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def none_if_nan(value: float) -> float | None:
    """Return a float, or None for nan."""
    return None if math.isnan(value) else float(value)


def nan_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of each row [rows, n] without nan; nan where all are."""
    known = ~np.isnan(values)
    return nan_ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1))


def nan_ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Return part / whole; nan where `whole` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)
