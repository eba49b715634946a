"""What `fit` returns: a network that knows its classes, its calibration and how it came to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graft.data import dataset as table
from graft.data.dataset import TEST, Dataset
from graft.data.read.source import read_source
from graft.errors import DataError
from graft.model import pictures, storage
from graft.model.evaluation import judge
from graft.model.multilabel import Score, judge_labels
from graft.networks import engine
from graft.networks.network import Network
from graft.progress import Watch, unwatched
from graft_runtime.card import MULTICLASS, MULTILABEL, Card
from graft_runtime.decide import Answer, answers, probabilities


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture, or the fault that kept it from being judged."""

    picture: str
    answer: Answer | None
    fault: str = ""

    @property
    def label(self) -> str:
        """The likeliest class; empty for a picture that could not be judged."""
        return self.answer.label if self.answer else ""

    @property
    def labels(self) -> tuple[str, ...]:
        """What the picture is said to show: one class, or any number of them if the classifier gives several."""
        return self.answer.labels if self.answer else ()

    @property
    def probability(self) -> float:
        """How likely that class is, 0 to 1."""
        return self.answer.probability if self.answer else 0.0

    @property
    def probabilities(self) -> dict[str, float]:
        """How likely each class is; empty for a picture that could not be judged."""
        return self.answer.probabilities if self.answer else {}

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        known = {"picture": self.picture, "label": self.label, "probability": self.probability}
        return known | {"labels": list(self.labels), "probabilities": self.probabilities, "fault": self.fault}


@dataclass(frozen=True)
class Classifier:
    """A trained network with its card (model.json) and its report (report.json)."""

    network: Network
    card: Card
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of every row of probabilities."""
        return self.card.classes

    def predict(self, images: Any, *, watch: Watch = unwatched) -> list[Prediction]:
        """Answers, in order, for paths, arrays uint8 [height, width, 3], PIL pictures, or a single one of these.

        A picture that cannot be read gets a Prediction with its fault; it never stops the others.
        """
        data = _as_dataset(images)
        chances, rows, faults = self.probabilities(data, watch=watch)
        said = dict(zip(rows.tolist(), self.answers(chances), strict=True))
        return [Prediction(data.name(row), said.get(row), faults.get(row, "")) for row in range(len(data))]

    def probabilities(
        self, data: Dataset, *, watch: Watch = unwatched
    ) -> tuple[NDArray[np.float64], NDArray[np.intp], dict[int, str]]:
        """Calibrated probabilities [good pictures, classes], the rows these stand for, and the others' faults."""
        run = engine.compile(self.network, self.network.preprocess.size, len(data))
        faults: dict[int, str] = {}
        rows: list[int] = []
        waiting: list[NDArray[np.uint8]] = []
        logits = [np.empty((0, len(self.classes)), np.float32)]
        for picture in pictures.each(data, partial(pictures.prepared, self.network.preprocess), watch):
            if picture.made is None:
                faults[picture.row] = picture.fault
                continue
            rows.append(picture.row)
            waiting.append(picture.made)
            if len(waiting) == run.batch:
                logits.append(run(np.stack(waiting)))
                waiting = []
        if waiting:
            logits.append(run(np.stack(waiting)))
        return self.calibrated(np.concatenate(logits)), np.array(rows, np.intp), faults

    def calibrated(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities [n, classes] that mean what they say, from logits."""
        return probabilities(logits, self.card.temperature, self.card.task)

    def answers(self, chances: NDArray[np.float64]) -> Iterator[Answer]:
        """One Answer for each row of calibrated probabilities [n, classes]."""
        return answers(chances, self.classes, self.card.task, self.card.thresholds)

    def evaluate(self, source: str | Path | Dataset, *, watch: Watch = unwatched) -> Score:
        """The score on labelled pictures: a folder with class folders of the classifier's own names, a table, or a
        Dataset. Of one with a test part, only that part counts.

        Raises DataError for classes that it does not know, or when not one picture can be read.
        """
        data = self._matched(source if isinstance(source, Dataset) else read_source(source, self.classes, watch))
        if (data.split == TEST).any():
            data = data.take(data.part(TEST))
        chances, rows, faults = self.probabilities(data, watch=watch)
        if not len(rows):
            raise DataError(f"None of the {len(data)} pictures can be read, the first because: {faults[0]}.")
        return self.judged(chances, data.labels[rows], data.named(faults))

    def judged(
        self, chances: NDArray[np.float64], labels: NDArray[np.integer], faults: Mapping[str, str] | None = None
    ) -> Score:
        """The score of calibrated probabilities [n, classes] against labels of the classifier's own kind."""
        if self.card.task == MULTILABEL:
            return judge_labels(chances, labels, self.classes, self.card.thresholds, faults)
        return judge(chances, labels, self.classes, faults)

    def _matched(self, data: Dataset) -> Dataset:
        """The same pictures with their labels counted as the classifier's own classes, by name."""
        if unknown := sorted(set(data.classes) - set(self.classes)):
            raise DataError(f"The classifier does not know {', '.join(unknown)}. It knows {', '.join(self.classes)}.")
        if not len(data) or (data.task == MULTICLASS and (data.labels < 0).any()):
            raise DataError("A score needs pictures, and a label for each.")
        order = np.array([self.classes.index(name) for name in data.classes], np.int32)
        if self.card.task == MULTILABEL:
            labels = np.zeros((len(data), len(self.classes)), np.uint8)
            labels[:, order] = data.targets()
        else:
            labels = order[_only(data)]
        return replace(data, classes=self.classes, labels=labels)

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the classifier into one folder, whole or not at all. Raises OutputError if it is already there."""
        return storage.save(self.network, self.card, self.report, Path(folder), force=force)


def load(folder: str | Path) -> Classifier:
    """The classifier that was saved in this folder.

    Raises ModelError when it is damaged, incomplete, or newer than this version can read.
    """
    return Classifier(*storage.load(Path(folder)))


def _only(data: Dataset) -> NDArray[np.integer]:
    """The one label of each picture, [n]."""
    if data.task == MULTICLASS:
        return data.labels
    if odd := int((data.labels.sum(axis=1) != 1).sum()):
        raise DataError(
            f"The classifier gives each picture one label, and {odd} of {len(data)} pictures have several or none."
        )
    return data.labels.argmax(axis=1)


def _as_dataset(images: Any) -> Dataset:
    if isinstance(images, Dataset):
        return images
    alone = isinstance(images, str | Path) or not isinstance(images, Sequence | np.ndarray) or _is_one_array(images)
    return table.from_pictures([images] if alone else list(cast(Sequence[Any], images)))


def _is_one_array(images: Any) -> bool:
    """A single picture [height, width] or [height, width, channels], as against a stack of them."""
    return isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] <= 4))
