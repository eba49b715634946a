"""What `fit` returns: a network that knows its classes, its calibration and how it came to be."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data import dataset as table
from graft.data.dataset import NO_LABEL, TEST, Dataset
from graft.errors import DataError, UsageError
from graft.model import forward, scoring, storage
from graft.model.forward import Glance, Look
from graft.model.memory import Memory
from graft.model.multilabel import Score
from graft.model.network import Network
from graft.model.unknown import Near, compared_by
from graft.progress import Watch, unwatched
from graft_runtime.card import COVERAGES, MULTILABEL, Card, dump
from graft_runtime.decide import NO_NUMBER, RATE, Answer, answers, finite, least_of
from graft_runtime.prediction import Neighbour, Prediction
from graft_runtime.screen import FEW, listed


@dataclass(frozen=True)
class Classifier:
    """A trained network with its card (model.json), its report (report.json) and what it remembers of its pictures."""

    network: Network
    card: Card
    report: dict[str, Any] = field(default_factory=dict)
    memory: Memory | None = None

    def __repr__(self) -> str:
        card = self.card
        named = f"{len(card.classes):,} classes ({listed(card.classes, FEW)})"
        return f"<Classifier of {named}: {card.backbone.get('name')}, {card.strategy}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of every row of probabilities."""
        return self.card.classes

    @property
    def compared(self) -> tuple[str, ...]:
        """The layers that images are compared with training images by; none for the last one that the head reads."""
        return compared_by(self.card.unknown)

    @property
    def identity(self) -> str:
        """The SHA-256 of the card, which has those of the weights."""
        return hashlib.sha256(dump(self.card).encode()).hexdigest()

    def predict(
        self, images: Any, *, coverage: float | None = None, unknown: float = RATE, watch: Watch = unwatched
    ) -> list[Prediction]:
        """Answers, in order, for paths, bytes of files, arrays uint8 [height, width, 3] or [height, width], PIL
        pictures, or a single one of these; in a list, or whatever else can be gone through.

        With `coverage`, 0.9 perhaps, each has a set of classes that holds the true one for this share of pictures.
        `unknown` is the share of pictures of the known classes that may be called unknown; 0 for none at all.
        A picture that cannot be read gets a Prediction with its fault; it never stops the others. Raises UsageError
        for a share that cannot be, or one that the classifier has no sets for.
        """
        data = as_dataset(images)
        blocks = self.blocks(data, coverage=coverage, unknown=unknown)
        return list(watch(chain.from_iterable(blocks), "pictures", len(data)))

    def blocks(
        self, images: Any, *, start: int = 0, coverage: float | None = None, unknown: float = RATE
    ) -> Iterator[list[Prediction]]:
        """The same, few by few, for more pictures than there is memory for: those that the network saw together.

        From the `start` of such a block on, the rest are the very same. Raises UsageError as `predict` does, at once.
        """
        return self._blocks(as_dataset(images), start, self.least(coverage), self._limit(unknown))

    def _blocks(self, data: Dataset, start: int, least: float | None, limit: float) -> Iterator[list[Prediction]]:
        rest, at, faults = data.take(np.arange(start, len(data))), 0, dict[int, str]()
        for glance in forward.glances(self.network, self.compared, rest, unwatched, faults):
            end = int(glance.rows[-1]) + 1
            said = dict(zip(glance.rows.tolist(), self._told(glance, least, limit), strict=True))
            names = enumerate(map(data.name, range(start + at, start + end)), at)
            yield [
                _prediction(name, *said[row]) if row in said else Prediction(name, None, faults.pop(row))
                for row, name in names
            ]
            at = end
        if at < len(rest):
            yield [Prediction(data.name(start + row), None, faults[row]) for row in range(at, len(rest))]

    def _told(
        self, glance: Glance, least: float | None, limit: float
    ) -> Iterator[tuple[Answer | None, tuple[Neighbour, ...]]]:
        """(answer, nearest training pictures) of each picture of a batch; None without a number."""
        card, known = self.card, self.memory.known if self.memory else None
        near = known.near(glance.reference, glance.logits, card.task == MULTILABEL) if known else None
        strange, chances = near.scores > limit if near else None, self.calibrated(glance.logits)
        if near:
            chances[~finite(near.scores)] = np.nan
        told = answers(chances, card.classes, card.task, card.thresholds, least, strange)
        return zip(told, self._neighbours(near) if near else repeat(()), strict=False)

    def look(self, data: Dataset, *, watch: Watch = unwatched) -> Look:
        """All that the network says of pictures: logits, and the nearest training pictures."""
        known = self.memory.known if self.memory else None
        return forward.look(self.network, self.compared, known, self.card.task == MULTILABEL, data, watch)

    def probabilities(
        self, data: Dataset, *, watch: Watch = unwatched
    ) -> tuple[NDArray[np.float64], NDArray[np.intp], dict[int, str]]:
        """Calibrated probabilities [good pictures, classes], the rows these stand for, and the others' faults."""
        look = forward.look(self.network, (), None, False, data, watch)
        return self.calibrated(look.logits), look.rows, look.faults

    def calibrated(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities [n, classes] that mean what they say, from logits."""
        return scoring.chances_of(self.card, logits)

    def least(self, coverage: float | None) -> float | None:
        """From which probability on a class is in a prediction set of this coverage; None where none is asked for."""
        if coverage is None:
            return None
        if not 0 < coverage <= COVERAGES[-1]:
            raise UsageError(f"A coverage is a share above 0 and up to {COVERAGES[-1]}, such as 0.9. Got {coverage:g}.")
        if not self.card.sets:
            raise UsageError(
                "This classifier has no prediction sets: they come from pictures that `graft fit` leaves out while "
                "training. Train it with this version, or leave the coverage out."
            )
        return least_of(self.card.sets, coverage)

    def _limit(self, rate: float) -> float:
        """The score from which on a picture is unknown."""
        if not 0 <= rate < 1:
            raise UsageError(f"The share of pictures that may be called unknown lies from 0 to 1. Got {rate:g}.")
        return self.memory.known.limit(rate) if self.memory and self.memory.known else np.inf

    def _neighbours(self, near: Near) -> Iterator[tuple[Neighbour, ...]]:
        """The nearest training pictures of each, by name."""
        assert self.memory
        assert self.memory.known
        names, labels = self.memory.known.names, self.memory.known.labels
        for which, cosines in zip(near.which.tolist(), near.cosines.tolist(), strict=True):
            pairs = zip(which, cosines, strict=True)
            yield tuple(Neighbour(names[at], self.named(labels[at]), cosine) for at, cosine in pairs)

    def named(self, label: Any) -> tuple[str, ...]:
        """The names of the classes that a label stands for: a number, or a 1 for each class that is shown."""
        several = np.flatnonzero(label) if np.ndim(label) else [label]
        return tuple(self.classes[at] for at in several)

    def evaluate(self, source: Any, *, columns: str = "", watch: Watch = unwatched) -> Score:
        """The score on labelled pictures: class folders or a table with the classifier's own names, or whatever
        else `graft.read_source` reads. Of a source with a test part, only that part counts.

        Pictures of classes that it does not know are told apart: see `Trust.strangers`. Raises DataError where it
        knows none of the classes, where one is only spelt in another way, or when not one picture can be read.
        """
        from graft.data.read.source import read_source  # all readers: a single answer needs none

        several = self.card.task == MULTILABEL
        data = scoring.matched(read_source(source, self.classes, columns, several=several), self.card)
        if (data.split == TEST).any():
            data = data.take(data.part(TEST))
        look = self.look(data, watch=watch)
        if not len(look.rows):
            raise DataError(f"None of the {len(data)} pictures can be used, the first because: {look.faults[0]}.")
        score = self.scored(look, data)
        told = scoring.shifted(self.card, self.memory, look, data)
        return replace(score, trust=replace(score.trust, unlabelled=data.ignored.get(NO_LABEL, 0), shift=told))

    def scored(self, look: Look, data: Dataset) -> Score:
        """The score of what was said of the pictures of a table that `scoring.matched` made."""
        faults = data.named(look.faults)
        return scoring.scored(self.card, self.memory, look, data.labels[look.rows], data.classes, faults)

    def save(self, folder: str | Path, *, page: str = "", force: bool = False) -> Path:
        """Write the classifier into one folder, whole or not at all, with the report as a `page` if there is one.

        Raises OutputError if it is already there.
        """
        return storage.save(self.network, self.card, self.report, Path(folder), self.memory, page, force=force)


def _prediction(name: str, answer: Answer | None, nearest: tuple[Neighbour, ...]) -> Prediction:
    return Prediction(name, answer, nearest=nearest) if answer else Prediction(name, None, NO_NUMBER)


def load(folder: str | Path) -> Classifier:
    """The classifier that was saved in this folder.

    Raises ModelError when it is damaged, incomplete, or newer than this version can read.
    """
    return Classifier(*storage.load(Path(folder)))


def as_dataset(images: Any) -> Dataset:
    """Images as `Classifier.predict` takes them, as a table. Raises DataError for what is none."""
    return images if isinstance(images, Dataset) else table.of_any(images)
