"""The prediction for one image: its answer, or its fault."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from graft_runtime.decide import Answer
from graft_runtime.formatting import MAX_NAMES, format_answer, join_names
from graft_runtime.terminal import escape_breaks

MAX_BARS = 5  # of the likeliest classes in a notebook


@dataclass(frozen=True)
class Neighbour:
    """A training image that the network finds similar, and the cosine between the two, 1 for the same image.

    `thumbnail` is the image made small, as a data URI, where an exported file carries it.
    """

    image: str
    labels: tuple[str, ...]
    similarity: float
    thumbnail: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Prediction:
    """The answer for one image, or the fault that prevented one. `path` is its file, '' for an image that is none."""

    image: str
    answer: Answer | None
    fault: str = ""
    nearest: tuple[Neighbour, ...] = ()
    path: str = field(default="", repr=False, compare=False)

    def __repr__(self) -> str:
        return escape_breaks(f"<Prediction {format_answer(self.as_dict()).strip()}  {self.image}>")

    def _repr_html_(self) -> str:
        from graft_runtime import display  # here, as only a notebook needs it

        small = display.read_thumbnail(self.path) if self.path else None
        shown = display.figure(small, self.image) if small else ""
        return display.block(self._title(), display.note(self.image), display.side_by_side(shown, self._details()))

    def _title(self) -> str:
        """Return the answer in words."""
        if self.answer is None:
            return f"Not judged: {self.fault}"
        if self.unknown:
            return "Unknown: like none of the training images"
        return f"{join_names(self.labels, MAX_NAMES) or 'None of the labels'} ({self.probability:.1%})"

    def _details(self) -> str:
        """Return the bars of the likeliest classes, the prediction set, and why an image is unknown, as HTML."""
        from graft_runtime import display

        best = dict(sorted(self.probabilities.items(), key=lambda item: -item[1])[:MAX_BARS])
        parts = [display.bars(best, [f"{value:.1%}" for value in best.values()])] if best else []
        if self.unknown:
            parts.insert(0, display.note("Were it one of the known classes:"))
            parts.append(self._nearest_table())
        if self.prediction_set is not None:
            parts.append(display.note(f"Prediction set: {join_names(self.prediction_set, MAX_NAMES) or 'empty'}"))
        return f"<div>{''.join(parts)}</div>"

    def _nearest_table(self) -> str:
        """Return the nearest training images as an HTML table."""
        from graft_runtime import display

        rows = [
            (
                display.embedded_image(each.thumbnail) + display.escape_text(each.image),
                display.escape_text(join_names(each.labels)),
                f"{each.similarity:.2f}",
            )
            for each in self.nearest
        ]
        return display.table(("nearest training images", "label", "similarity"), rows) if rows else ""

    @property
    def label(self) -> str:
        """The likeliest class; empty for an unknown image, and for one with a fault.

        Never a placeholder: a class may be called 'unknown'.
        """
        return self.answer.label if self.answer and not self.answer.unknown else ""

    @property
    def labels(self) -> tuple[str, ...]:
        """The predicted labels: one class, or any number of them for multilabel.

        Empty for an unknown image.
        """
        return self.answer.labels if self.answer else ()

    @property
    def unknown(self) -> bool:
        """Whether the image is unlike the training data; `nearest` are the most similar training images."""
        return self.answer is not None and self.answer.unknown

    @property
    def prediction_set(self) -> tuple[str, ...] | None:
        """The prediction set: it holds the true class as often as `coverage` says; None without a coverage."""
        return self.answer.prediction_set if self.answer else None

    @property
    def probability(self) -> float:
        """The probability of the likeliest class, 0 to 1, given that the image shows one of the classes."""
        return self.answer.probability if self.answer else 0.0

    @property
    def probabilities(self) -> dict[str, float]:
        """The probability of each class; empty for an image with a fault."""
        return self.answer.probabilities if self.answer else {}

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as a dictionary, ready for JSON."""
        return {
            "image": self.image,
            "label": self.label,
            "probability": self.probability,
            "labels": list(self.labels),
            "unknown": self.unknown,
            "prediction_set": None if self.prediction_set is None else list(self.prediction_set),
            "probabilities": self.probabilities,
            "nearest": [asdict(each) | {"labels": list(each.labels)} for each in self.nearest],
            "fault": self.fault,
        }
