"""How sure a figure is: how far it strays when as many pictures are drawn again, with replacement (Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NORMAL = 1.959963984540054  # 95 % of a normal distribution lie within so many standard deviations
MOST, LEAST = 1000, 200  # draws
WORK = 20_000_000  # pictures drawn in all, unless LEAST draws need more
AT_ONCE = 4_000_000  # numbers in one block of draws

Interval = tuple[float, float]
Figures = dict[str, NDArray[np.float64]]  # a number for each draw, by name
Measure = Callable[[NDArray[np.float64]], Figures]  # from how often each picture counts, [draws, n]

_RANGES = {"log_loss": (0.0, math.inf), "brier": (0.0, 2.0), "mcc": (-1.0, 1.0)}  # of all others 0 to 1


def once(measure: Measure, count: int) -> dict[str, float | None]:
    """The figures with each picture counted once; None is what cannot be told."""
    return {name: number(values[0]) for name, values in measure(np.ones((1, count))).items()}


def intervals(
    measure: Measure, count: int, figures: Mapping[str, float | None], most: int = MOST
) -> dict[str, Interval]:
    """Where each true figure lies with 95 % confidence; a figure that cannot be told has none.

    The percentiles of the draws, moved so that their middle is the figure itself: a picture drawn twice stands beside
    itself, which makes a ranking look better and a calibration look worse than it is.
    """
    blocks = [measure(weights) for weights in draws(count, most)]
    return {
        name: around(np.concatenate([block[name] for block in blocks]), figure, *_RANGES.get(name, (0.0, 1.0)))
        for name, figure in figures.items()
        if figure is not None
    }


def draws(count: int, most: int = MOST) -> Iterator[NDArray[np.float64]]:
    """How often each of so many pictures is drawn, in blocks [draws, count]: always the same draws."""
    random, left = np.random.default_rng(0), int(np.clip(WORK // count, LEAST, most))
    step = max(1, AT_ONCE // count)
    while left > 0:
        each = (random.integers(0, count, count) for _ in range(min(step, left)))
        yield np.stack([np.bincount(rows, minlength=count) for rows in each]).astype(np.float64)
        left -= step


def around(drawn: NDArray[np.float64], figure: float, least: float, most: float) -> Interval:
    """The middle 95 % of the draws, moved onto the figure and cut off where no figure can be."""
    known = drawn[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.025, 0.975]) + figure - known.mean()
    return float(np.clip(low, least, figure)), float(np.clip(high, figure, most))


def wilson(right: int, count: int) -> Interval:
    """Where a share lies with 95 % confidence, after so many successes (Wilson 1927)."""
    share, z = right / count, NORMAL
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def number(value: float) -> float | None:
    """A plain number, or None for what is none."""
    return None if math.isnan(value) else float(value)


def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean of each row [rows, n] over what can be told; nan where nothing can."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1))


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """One over the other; nan where the other is 0."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)
