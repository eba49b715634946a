"""What `fit` returns: a network that knows its classes, its calibration and how it came to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graft.data import dataset as table
from graft.data.dataset import TEST, Dataset
from graft.data.read.folder import read_folder
from graft.errors import DataError
from graft.model import pictures, storage
from graft.model.evaluation import Evaluation, judge
from graft.networks import engine
from graft.networks.network import Network
from graft.progress import Watch, unwatched
from graft_runtime.card import Card
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
        return known | {"probabilities": self.probabilities, "fault": self.fault}


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
        said = dict(zip(rows.tolist(), answers(chances, self.classes), strict=True))
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
        return probabilities(logits, self.card.temperature)

    def evaluate(self, source: str | Path | Dataset, *, watch: Watch = unwatched) -> Evaluation:
        """The score on labelled pictures: a folder with class folders of the classifier's own names, or a Dataset.

        Of one with a test part, only that part counts.

        Raises DataError for classes that it does not know, or when not one picture can be read.
        """
        data = self._matched(source) if isinstance(source, Dataset) else read_folder(source, self.classes)
        if (data.split == TEST).any():
            data = data.take(data.part(TEST))
        chances, rows, faults = self.probabilities(data, watch=watch)
        if not len(rows):
            raise DataError(f"None of the {len(data)} pictures can be read, the first because: {faults[0]}.")
        return judge(chances, data.labels[rows], self.classes, data.named(faults))

    def _matched(self, data: Dataset) -> Dataset:
        """The same pictures with their labels counted as the classifier's own classes, by name."""
        if unknown := sorted(set(data.classes) - set(self.classes)):
            raise DataError(f"The classifier does not know {', '.join(unknown)}. It knows {', '.join(self.classes)}.")
        if not len(data) or (data.labels < 0).any():
            raise DataError("A score needs pictures, and a label for each.")
        order = np.array([self.classes.index(name) for name in data.classes], np.int32)
        return replace(data, classes=self.classes, labels=order[data.labels])

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write the classifier into one folder, whole or not at all. Raises OutputError if it is already there."""
        return storage.save(self.network, self.card, self.report, Path(folder), force=force)


def load(folder: str | Path) -> Classifier:
    """The classifier that was saved in this folder.

    Raises ModelError when it is damaged, incomplete, or newer than this version can read.
    """
    return Classifier(*storage.load(Path(folder)))


def _as_dataset(images: Any) -> Dataset:
    if isinstance(images, Dataset):
        return images
    alone = isinstance(images, str | Path) or not isinstance(images, Sequence | np.ndarray) or _is_one_array(images)
    return table.from_pictures([images] if alone else list(cast(Sequence[Any], images)))


def _is_one_array(images: Any) -> bool:
    """A single picture [height, width] or [height, width, channels], as against a stack of them."""
    return isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] <= 4))
