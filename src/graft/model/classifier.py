"""Classifier: what `fit` returns and `load` reads."""

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
from graft.metrics.evaluation import Score
from graft.metrics.unknown import NeighbourMatches, reference_layers
from graft.model import network, scoring, storage
from graft.model.card import build_html
from graft.model.memory import Memory
from graft.model.network import BatchOutput, ForwardOutput, Network
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.card import COVERAGES, MULTILABEL, Card, dump
from graft_runtime.decide import (
    NOT_FINITE,
    UNKNOWN_RATE,
    Answer,
    build_answers,
    find_finite_rows,
    prediction_set_threshold,
)
from graft_runtime.formatting import MAX_NAMES_IN_REPR, join_names
from graft_runtime.prediction import Neighbour, Prediction
from graft_runtime.terminal import escape_breaks


@dataclass(frozen=True)
class Classifier:
    """A trained network with its card (model.json), its report (report.json) and its memory of images."""

    network: Network
    card: Card
    report: dict[str, Any] = field(default_factory=dict)
    memory: Memory | None = None

    def __repr__(self) -> str:
        card = self.card
        named = f"{len(card.classes):,} classes ({join_names(card.classes, MAX_NAMES_IN_REPR)})"
        return escape_breaks(f"<Classifier of {named}: {card.backbone.get('name')}, {card.strategy}>")

    def _repr_html_(self) -> str:
        return build_html(self.card, self.report)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the columns of probabilities."""
        return self.card.classes

    @property
    def reference_layers(self) -> tuple[str, ...]:
        """Layers by which images are compared with training images; empty for the last one that the head reads."""
        return reference_layers(self.card.unknown)

    @property
    def identity(self) -> str:
        """SHA-256 of the card, which holds those of the weights."""
        return hashlib.sha256(dump(self.card).encode()).hexdigest()

    def predict(
        self,
        images: Any,
        *,
        coverage: float | None = None,
        unknown: float = UNKNOWN_RATE,
        watch: ProgressWrapper = no_progress,
    ) -> list[Prediction]:
        """Predict the class of images, in order.

        Images are paths, bytes of files, arrays uint8 [height, width, 3] or [height, width], or PIL images: any
        iterable of these, or a single one. With `coverage`, such as 0.9, each prediction has a set of classes that
        holds the true one for this share of images. `unknown` is the share of images of the known classes that may be
        called unknown; 0 for none. An image that cannot be read gets a Prediction with its fault and does not stop the
        others. Raises UsageError for a share out of range, and for a coverage where the classifier has no sets.

            classifier = graft.load("model/")
            for prediction in classifier.predict(["photo.jpg"], coverage=0.9):
                print(prediction.labels)
        """
        data = as_dataset(images)
        blocks = self.predict_blocks(data, coverage=coverage, unknown=unknown)
        return list(watch(chain.from_iterable(blocks), "images", len(data)))

    def predict_blocks(
        self, images: Any, *, start: int = 0, coverage: float | None = None, unknown: float = UNKNOWN_RATE
    ) -> Iterator[list[Prediction]]:
        """Predict batch by batch, for more images than fit into memory.

        A run that begins at the `start` of a block gives the same predictions from there on. Raises UsageError as
        `predict` does, before the first block.
        """
        return self._predict_blocks(
            as_dataset(images), start, self.coverage_threshold(coverage), self._unknown_threshold(unknown)
        )

    def _predict_blocks(
        self, data: Dataset, start: int, least: float | None, limit: float
    ) -> Iterator[list[Prediction]]:
        rest, at, faults = data.take(np.arange(start, len(data))), 0, dict[int, str]()
        for batch in network.iterate_batches(self.network, self.reference_layers, rest, no_progress, faults):
            end = int(batch.rows[-1]) + 1
            found = dict(zip(batch.rows.tolist(), self._answer_batch(batch, least, limit), strict=True))
            yield [
                _build_prediction(data, start + row, *found[row])
                if row in found
                else _build_fault(data, start + row, faults.pop(row))
                for row in range(at, end)
            ]
            at = end
        if at < len(rest):
            yield [_build_fault(data, start + row, faults[row]) for row in range(at, len(rest))]

    def _answer_batch(
        self, batch: BatchOutput, least: float | None, limit: float
    ) -> Iterator[tuple[Answer | None, tuple[Neighbour, ...]]]:
        """Yield (answer, nearest training images) of each image of a batch; no answer where a logit is not finite."""
        card, known = self.card, self.memory.known if self.memory else None
        near = known.find_neighbours(batch.reference, batch.logits, card.task == MULTILABEL) if known else None
        strange, probs = near.scores > limit if near else None, self.calibrate_logits(batch.logits)
        if near:
            probs[~find_finite_rows(near.scores)] = np.nan
        found = build_answers(probs, card.classes, card.task, card.thresholds, least, strange)
        return zip(found, self._neighbours(near) if near else repeat(()), strict=False)

    def run_forward(self, data: Dataset, *, watch: ProgressWrapper = no_progress) -> ForwardOutput:
        """Compute logits and the nearest training images."""
        known = self.memory.known if self.memory else None
        return network.run_forward(
            self.network, self.reference_layers, known, self.card.task == MULTILABEL, data, watch
        )

    def predict_probs(
        self, data: Dataset, *, watch: ProgressWrapper = no_progress
    ) -> tuple[NDArray[np.float64], NDArray[np.intp], dict[int, str]]:
        """Return calibrated probabilities [n, classes] of the readable images, their rows, and the others' faults."""
        output = network.run_forward(self.network, (), None, False, data, watch)
        return self.calibrate_logits(output.logits), output.rows, output.faults

    def calibrate_logits(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return calibrated probabilities [n, classes]."""
        return scoring.calibrate_logits(self.card, logits)

    def coverage_threshold(self, coverage: float | None) -> float | None:
        """Return the probability from which on a class is in a prediction set of this coverage; None for None.

        Raises UsageError for a coverage out of range, and for a classifier without prediction sets.
        """
        if coverage is None:
            return None
        if not 0 < coverage <= COVERAGES[-1]:
            raise UsageError(f"A coverage is a share above 0 and up to {COVERAGES[-1]}, such as 0.9. Got {coverage:g}.")
        if not self.card.sets:
            raise UsageError(
                "This classifier has no prediction sets: they come from images that `graft fit` leaves out while "
                "training. Train it with this version, or leave the coverage out."
            )
        return prediction_set_threshold(self.card.sets, coverage)

    def _unknown_threshold(self, rate: float) -> float:
        """Return the score above which an image is unknown. Raises UsageError for a share out of range."""
        if not 0 <= rate < 1:
            raise UsageError(f"The share of images that may be called unknown lies from 0 to 1. Got {rate:g}.")
        return self.memory.known.unknown_threshold(rate) if self.memory and self.memory.known else np.inf

    def _neighbours(self, near: NeighbourMatches) -> Iterator[tuple[Neighbour, ...]]:
        """Yield the nearest training images of each image, with their names."""
        assert self.memory
        assert self.memory.known
        names, labels = self.memory.known.names, self.memory.known.labels
        for which, cosines in zip(near.indices.tolist(), near.cosines.tolist(), strict=True):
            pairs = zip(which, cosines, strict=True)
            yield tuple(Neighbour(names[at], self.label_names(labels[at]), cosine) for at, cosine in pairs)

    def label_names(self, label: Any) -> tuple[str, ...]:
        """Return the class names of a label: a class index, or a row of zeros and ones."""
        indices = np.flatnonzero(label) if np.ndim(label) else [label]
        return tuple(self.classes[at] for at in indices)

    def evaluate(self, source: Any, *, columns: str = "", watch: ProgressWrapper = no_progress) -> Score:
        """Score the classifier on labelled images: class folders, a table, or whatever else `graft.read_source` reads.

        Of a source with a test part, only that part counts. Images of unknown classes are scored apart: see
        `Trust.strangers`. Raises DataError where no class is known, where one differs in spelling only, or when no
        image can be read.

            print(graft.load("model/").evaluate("photos/"))
        """
        from graft.data.readers.source import read_source  # here, as it imports all readers and a prediction needs none

        multilabel = self.card.task == MULTILABEL
        data = scoring.align_classes(read_source(source, self.classes, columns, several=multilabel), self.card)
        if (data.split == TEST).any():
            data = data.take(data.part(TEST))
        output = self.run_forward(data, watch=watch)
        if not len(output.rows):
            raise DataError(f"None of the {len(data)} images can be used, the first because: {output.faults[0]}.")
        score = self.score_output(output, data)
        shift = scoring.measure_labelled_shift(self.card, self.memory, output, data)
        return replace(score, trust=replace(score.trust, unlabelled=data.ignored.get(NO_LABEL, 0), shift=shift))

    def score_output(self, output: ForwardOutput, data: Dataset) -> Score:
        """Score the output for the images of a table that `scoring.align_classes` returned."""
        faults = data.named(output.faults)
        return scoring.score_output(self.card, self.memory, output, data.labels[output.rows], data.classes, faults)

    def save(self, folder: str | Path, *, page: str = "", force: bool = False) -> Path:
        """Write the classifier to a folder, atomically, with the HTML report `page` if given; return the folder.

        Raises OutputError if the folder holds a classifier already and `force` is not set, or anything else.
        """
        return storage.save(self.network, self.card, self.report, Path(folder), self.memory, page, force=force)


def _build_fault(data: Dataset, row: int, fault: str) -> Prediction:
    return Prediction(data.name(row), None, fault, path=data.path(row))


def _build_prediction(data: Dataset, row: int, answer: Answer | None, nearest: tuple[Neighbour, ...]) -> Prediction:
    fault, nearest = ("", nearest) if answer else (NOT_FINITE, ())
    return Prediction(data.name(row), answer, fault, nearest, path=data.path(row))


def load(folder: str | Path) -> Classifier:
    """Load a saved classifier.

    Raises ModelError when it is damaged, incomplete, or newer than this version can read.

    >>> graft.load("model/").classes  # doctest: +SKIP
    ('daisy', 'tulip')
    """
    return Classifier(*storage.load(Path(folder)))


def as_dataset(images: Any) -> Dataset:
    """Return images as `Classifier.predict` takes them as a Dataset. Raises DataError for anything else."""
    return images if isinstance(images, Dataset) else table.from_images(images)
