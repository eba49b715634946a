"""The gate: an export must answer as the classifier that was trained, from the bytes of files, in its own runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from graft.data.dataset import Dataset, pixels
from graft.errors import DataError, ExportError
from graft.jobs.export.evidence import Evidence
from graft.model.classifier import Classifier
from graft.model.compare import paired
from graft.networks import engine
from graft.progress import Watch
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.contract import PROBABILITIES, UNKNOWN, Export
from graft_runtime.decide import NO_NUMBER, RATE, UNSURE, answers, limit
from graft_runtime.prediction import Prediction

TOLERANCE = 1e-3  # of a probability, in float32
TIMED, TURNS = 4, 5  # pictures by which speed is told, and how often each is judged
TOGETHER = 4  # pictures of one size that a runtime other than graft_runtime is given at once

Answering = Callable[[Iterator[Any]], Iterator[Prediction]]  # pictures, as bytes or pixels, to answers
Run = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]  # pixels [n, height, width, 3] to outputs by name
Described = Callable[..., bytes]  # an Export and what it shows as evidence, to the content of a file


@dataclass(frozen=True)
class Parity:
    """What came of comparing an export with the classifier.

    `worst` is the largest difference between two probabilities. `changed` counts answers that differ (class, labels or
    unknown), except `ties`: those that so small a difference may turn either way. `trained`, `exported` are the
    accuracies (of several labels the share of right answers to 'is it there?'), `loss` their difference, with the
    interval that holds the true one with 95 % confidence; None without labels. Times are milliseconds for one decoded
    picture, of PyTorch and of the export; `size` is in bytes; `runtime` is what ran the export, with its version.
    """

    origin: str
    pictures: int
    worst: float
    changed: int
    ties: int
    trained: float | None
    exported: float | None
    loss: float | None
    interval: tuple[float, float] | None
    milliseconds: tuple[float, float]
    size: int
    runtime: str = ""

    @property
    def speed(self) -> float:
        """How many times as fast as PyTorch the export is, one picture at a time."""
        return self.milliseconds[0] / self.milliseconds[1]

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self) | {"speed": self.speed}

    def exact(self) -> str:
        """Why this is not the same classifier; empty where it is."""
        if not self.worst <= TOLERANCE:  # nan as well
            return f"a probability is off by {self.worst:.2g}, and {TOLERANCE:g} is allowed"
        if self.changed:
            return f"{self.changed} of {self.pictures} answers changed"
        return ""

    def close(self, allowed: float) -> str:
        """Why this loses more than the allowed share of right answers; empty where it does not.

        Without labels an answer that changed counts as one that was right before.
        """
        if self.loss is not None and self.loss > allowed:
            return f"it loses {self.loss:.1%} of right answers, and {allowed:.1%} is allowed"
        if self.loss is None and self.changed > allowed * self.pictures:
            return f"{self.changed / self.pictures:.1%} of the answers changed, and {allowed:.1%} is allowed"
        return ""


def compared(
    classifier: Classifier, answering: Answering, alone: Callable[[Any], Any], size: int, given: Evidence, watch: Watch
) -> Parity:
    """The classifier against an export that answers pictures, in order; `alone` judges one decoded picture."""
    look = classifier.look(given.data, watch=watch)
    if not len(look.rows):
        raise DataError(f"Not one of the {len(given.data):,} pictures to check the export on can be read.")
    want = classifier.calibrated(look.logits)
    good = given.data.take(look.rows)
    said = list(watch(answering(good.read(row) for row in range(len(good))), "pictures again", len(good)))
    none = [np.nan] * want.shape[1]  # of an image that the export has no number for
    got = np.array([list(each.probabilities.values()) or none for each in said]).reshape(want.shape)
    odd, margin = _odd(classifier, look.near.scores if look.near else None, len(good))
    own, others = _labels(classifier, want), _labels(classifier, got)
    differs = (own != others).any(axis=1)
    turned = odd != np.array([each.unknown for each in said], bool)
    clear = (differs & (_margins(classifier, want) > 2 * TOLERANCE)) | (turned & (margin > 2 * TOLERANCE))
    changed = int(clear.sum())
    right = _right(own, good, given.labelled), _right(others, good, given.labelled)
    return Parity(
        origin=given.origin,
        pictures=len(good),
        worst=float(np.abs(want - got).max(initial=0.0)),
        changed=changed,
        ties=int((differs | turned).sum()) - changed,
        trained=None if right[0] is None else float(right[0].mean()),
        exported=None if right[1] is None else float(right[1].mean()),
        loss=None if right[0] is None or right[1] is None else float((right[0] - right[1]).mean()),
        interval=None if right[0] is None or right[1] is None else paired(right[0] - right[1]),
        milliseconds=_timed(classifier, alone, good),
        size=size,
    )


def told(run: Run, card: Card, export: Export) -> Answering:
    """How a runtime answers pictures, by what it finds of their pixels; neighbours of one size go in together.

    Answering raises ExportError where the runtime fails.
    """
    border, enough = limit(export.strays, RATE), card.enough

    def answering(images: Iterator[Any]) -> Iterator[Prediction]:
        for _, same in groupby((pixels(image, enough) for image in images), key=np.shape):
            while batch := list(islice(same, TOGETHER)):
                try:
                    found = run(np.stack(batch))
                except (RuntimeError, AssertionError) as error:  # as OpenVINO and PyTorch fail
                    raise ExportError(f"The file that was made does not run: {error}.") from error
                chances, strange = found[PROBABILITIES].astype(np.float64), found[UNKNOWN] > border
                for answer in answers(chances, card.classes, card.task, card.thresholds, None, strange):
                    yield Prediction("", answer, "" if answer else NO_NUMBER)

    return answering


def _labels(classifier: Classifier, chances: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which classes each answer names, [n, classes]."""
    if classifier.card.task == MULTILABEL:
        return chances >= _limits(classifier)
    return chances.argmax(axis=1)[:, None] == np.arange(chances.shape[1])


def _margins(classifier: Classifier, chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """By how much a probability would have to change for another answer, [n]."""
    if classifier.card.task == MULTILABEL:
        return np.abs(chances - _limits(classifier)).min(axis=1)
    second, first = np.sort(chances, axis=1)[:, -2:].T
    return first - second


def _limits(classifier: Classifier) -> NDArray[np.float64]:
    return np.asarray(classifier.card.thresholds or [UNSURE] * len(classifier.classes))


def _odd(
    classifier: Classifier, scores: NDArray[np.float32] | None, count: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Which pictures are unknown, and how far each is from the border."""
    if scores is None or not classifier.memory or not classifier.memory.known:
        return np.zeros(count, bool), np.full(count, np.inf)
    limit = classifier.memory.known.limit(RATE)
    return scores > limit, np.abs(scores - limit).astype(np.float64)


def _right(answers: NDArray[np.bool_], data: Dataset, labelled: bool) -> NDArray[np.float64] | None:
    """How right each answer is, 0 to 1, [n]."""
    if not labelled or not len(data):
        return None
    wanted = data.targets().astype(np.float64)
    if data.labels.ndim == 1:
        return (answers * wanted[:, : answers.shape[1]]).sum(axis=1)
    return (answers == wanted[:, : answers.shape[1]]).mean(axis=1)


def _timed(classifier: Classifier, alone: Callable[[Any], Any], data: Dataset) -> tuple[float, float]:
    """Milliseconds for one decoded picture: by PyTorch, by the export; the median of turn and turn about."""
    network = engine.settled(classifier.network)
    preprocess = network.preprocess

    def trained(image: NDArray[np.uint8]) -> None:
        network(engine.ready(torch.from_numpy(preprocess.prepare(image)[None])))

    ways, spent = (trained, alone), ([], [])
    rows = range(0, len(data), max(1, len(data) // TIMED))
    for image in [pixels(data.read(row), preprocess.enough) for row in rows][:TIMED]:
        for turn in range(TURNS + 1):
            for way, times in zip(ways, spent, strict=True):
                began = time.perf_counter()
                with torch.inference_mode():
                    way(image)
                times.extend([time.perf_counter() - began] * (turn > 0))  # the first makes room
    return float(np.median(spent[0]) * 1e3), float(np.median(spent[1]) * 1e3)
