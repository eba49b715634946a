"""Figures of a report as SVG: they take the colours of the page, need no script, and print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from graft_runtime import display

WIDE, HIGH = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 12, 40  # margins for ticks and labels
HISTOGRAM_BINS = 24

Point = tuple[float, float]


def interval(value: float, low: float, high: float, chance: float | None) -> Markup:
    """Draw a score between 0 and 1 with its interval; `chance` is the score of always predicting the largest class."""
    return Markup(display.draw_interval(value, low, high, chance))


def reliability(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the reliability diagram: accuracy by confidence, before calibration hollow, after it filled."""
    frame = _Axes((0, 1), (0, 1), "how sure it is", "how often it is right")
    most = max((each["count"] for each in (*before, *after)), default=1)
    parts = [frame.line([(0, 0), (1, 1)], "ideal")]
    for name, bins in (("before", before), ("after", after)):
        for each in bins:
            if each["count"]:
                size = 2.5 + 9 * math.sqrt(each["count"] / most)
                tooltip = (
                    f"{each['count']:,} answers, {each['confidence']:.0%} sure: {each['right']:.0%} right ({name})"
                )
                parts.append(frame.dot((each["confidence"], each["right"]), size, name, tooltip))
    return frame.render("Reliability: how sure the answers are against how often they are right", parts)


def histogram(values: NDArray[np.floating], limit: float | None, label: str) -> Markup:
    """Draw the histogram of the scores, and the limit above which an image is unknown."""
    low, high = float(min(values.min(), limit or 0)), float(max(values.max(), limit or 0)) * 1.02
    counts, edges = np.histogram(values, HISTOGRAM_BINS, (low, high if high > low else low + 1))
    frame = _Axes((float(edges[0]), float(edges[-1])), (0, float(counts.max())), label, "images")
    bars = zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    parts = [frame.bar(start, end, count, f"{count:,} images") for count, start, end in bars if count]
    if limit is not None:
        parts.append(frame.line([(limit, 0), (limit, float(counts.max()))], "limit"))
    return frame.render("How unlike the training images the test images are", parts)


def curves(history: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw the loss of each epoch, in training and on held-out images."""
    lines = {"train": [(each["number"], each["loss"]) for each in history]}
    lines["valid"] = [(each["number"], each["metrics"]["loss"]) for each in history if "loss" in each["metrics"]]
    values = [value for line in lines.values() for _, value in line]
    frame = _Axes((1, max(len(history), 2)), (0, max(values) * 1.05), "epoch", "loss")
    parts = [frame.line(line, name) for name, line in lines.items() if line]
    for name, line in lines.items():
        parts += [frame.dot(point, 3, name, f"epoch {point[0]:.0f}: {point[1]:.3f} ({name})") for point in line]
    return frame.render("Training curves: the loss after each epoch", parts)


class _Axes:
    """Axes of a figure, with the scale from numbers to pixels."""

    def __init__(self, x: Point, y: Point, below: str, beside: str) -> None:
        self.x, self.y, self.x_label, self.y_label = x, y, below, beside

    def to_pixels(self, point: Point) -> Point:
        """Return the pixel position of a point."""
        across = (point[0] - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        up = (point[1] - self.y[0]) / ((self.y[1] - self.y[0]) or 1)
        return LEFT + across * (WIDE - LEFT - RIGHT), HIGH - BOTTOM - up * (HIGH - TOP - BOTTOM)

    def line(self, points: Sequence[Point], name: str) -> str:
        """Draw a line through points."""
        places = " ".join("{:.1f},{:.1f}".format(*self.to_pixels(point)) for point in points)
        return f'<polyline class="line {name}" points="{places}"/>'

    def dot(self, point: Point, size: float, name: str, tooltip: str) -> str:
        """Draw a dot with a tooltip."""
        x, y = self.to_pixels(point)
        place = f'cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"'
        return f'<circle class="dot {name}" {place}><title>{escape(tooltip)}</title></circle>'

    def bar(self, start: float, end: float, height: float, tooltip: str) -> str:
        """Draw a bar with a tooltip."""
        (left, top), (right, bottom) = self.to_pixels((start, height)), self.to_pixels((end, 0))
        place = f'x="{left + 0.5:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}" height="{bottom - top:.1f}"'
        return f'<rect class="bar" {place}><title>{escape(tooltip)}</title></rect>'

    def render(self, title: str, parts: Iterable[str]) -> Markup:
        """Return the whole figure: the axes, then `parts`."""
        return Markup(
            f'<svg class="figure" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(title)}">'
            f"{self._render_axes()}{''.join(parts)}</svg>"
        )

    def _render_axes(self) -> str:
        parts = []
        for value in _ticks(*self.x):
            x, y = self.to_pixels((value, self.y[0]))
            parts.append(f'<text x="{x:.1f}" y="{y + 16:.1f}" text-anchor="middle">{_format_number(value)}</text>')
        for value in _ticks(*self.y):
            x, y = self.to_pixels((self.x[0], value))
            parts.append(f'<line class="grid" x1="{x:.1f}" x2="{WIDE - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{_format_number(value)}</text>')
        middle = (LEFT + WIDE - RIGHT) / 2
        parts.append(f'<text x="{middle}" y="{HIGH - 6}" text-anchor="middle">{escape(self.x_label)}</text>')
        turned = f'x="{-(TOP + HIGH - BOTTOM) / 2}" y="12" transform="rotate(-90)" text-anchor="middle"'
        return "".join(parts) + f"<text {turned}>{escape(self.y_label)}</text>"


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers from `low` to `high`, about `most` of them."""
    step = 10 ** math.floor(math.log10((high - low) or 1))
    step = next(step * times for times in (0.1, 0.2, 0.5, 1, 2, 5, 10) if (high - low) / (step * times) <= most)
    return [at * step for at in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
