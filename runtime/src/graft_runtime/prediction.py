"""The answer for one picture, or why there is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from graft_runtime.decide import Answer
from graft_runtime.screen import answer as said


@dataclass(frozen=True)
class Neighbour:
    """A training picture that the network finds similar, and the cosine between the two, 1 for the same picture.

    `thumbnail` is the picture made small, as a data URI, where an exported file carries it.
    """

    picture: str
    labels: tuple[str, ...]
    similarity: float
    thumbnail: str | None = None


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture, or the fault that kept it from being judged."""

    picture: str
    answer: Answer | None
    fault: str = ""
    nearest: tuple[Neighbour, ...] = ()

    def __repr__(self) -> str:
        return f"<Prediction {said(self.as_dict()).strip()}  {self.picture}>"

    @property
    def label(self) -> str:
        """The likeliest class; empty for an unknown picture, and for one that could not be judged.

        Never a word of the program's own: a class may be called 'unknown'.
        """
        return self.answer.label if self.answer and not self.answer.unknown else ""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the picture is said to show: one class, or any number of them if the classifier gives several.

        None for an unknown picture.
        """
        return self.answer.labels if self.answer else ()

    @property
    def unknown(self) -> bool:
        """Whether the picture is unlike all that was trained on; `nearest` are what comes closest."""
        return self.answer is not None and self.answer.unknown

    @property
    def among(self) -> tuple[str, ...] | None:
        """The classes that the picture shows one of, as often as the `coverage` that was asked for; else None."""
        return self.answer.among if self.answer else None

    @property
    def probability(self) -> float:
        """How likely the likeliest class is, 0 to 1, of a picture that shows one of the classes."""
        return self.answer.probability if self.answer else 0.0

    @property
    def probabilities(self) -> dict[str, float]:
        """How likely each class is; empty for a picture that could not be judged."""
        return self.answer.probabilities if self.answer else {}

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "picture": self.picture,
            "label": self.label,
            "probability": self.probability,
            "labels": list(self.labels),
            "unknown": self.unknown,
            "among": None if self.among is None else list(self.among),
            "probabilities": self.probabilities,
            "nearest": [asdict(each) | {"labels": list(each.labels)} for each in self.nearest],
            "fault": self.fault,
        }
