"""An exported file at work: pictures to answers, with numpy, Pillow and ONNX Runtime."""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from graft_runtime import contract, given
from graft_runtime.contract import IMAGE, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN, ModelError
from graft_runtime.decide import NO_NUMBER, RATE, answers, finite, least_of, limit
from graft_runtime.image import ImageError, colour, decode, read, upright
from graft_runtime.prediction import Neighbour, Prediction
from graft_runtime.screen import FEW, listed

BATCH = 8  # pictures of one size that go through the network together
ROOM = 4_000_000  # their pixels, at most: the resize holds them as float32
AHEAD = 2  # pictures decoded ahead of the network, for each thread

Pixels = NDArray[np.uint8]


class Predictor:
    """A classifier that was exported: `classes`, `card`, `export`, and what it says of pictures.

    `evidence` are the training pictures that answers name as the nearest; none unless the file was exported with them.
    `identity` is the SHA-256 of the file.
    """

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        self.card, self.export = contract.read(model)
        self.evidence = contract.evidence(model, self.export)
        self.identity = hashlib.sha256(model).hexdigest()
        self.threads = threads or _cores()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3  # errors; what ONNX Runtime warns of, no user can change
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to the decoder
        # Without VNNI sums of 8-bit products overflow; this takes a slower way there, with the same answers.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime has some ten kinds of its own, without a common ancestor
            raise ModelError(f"ONNX Runtime {onnxruntime.__version__} cannot run it: {error}") from error
        known = {output.name: output.shape for output in self.session.get_outputs()}
        if missing := {PROBABILITIES, UNKNOWN} - known.keys():
            raise ModelError(f"it has no output {min(missing)!r}")
        if self.evidence and (missing := {NEAREST, SIMILARITY} - known.keys()):
            raise ModelError(f"it has evidence, and no output {min(missing)!r}")
        contract.fit(self.card, known)
        if not isinstance(known[PROBABILITIES][1], int):
            self.probe()

    def probe(self) -> None:
        """Run a black picture. Raises ModelError where what comes of it is not what the description says."""
        side = self.card.preprocess["resize"]
        names = [output.name for output in self.session.get_outputs()]
        try:
            found = self.run(np.zeros((1, side, side, 3), np.uint8), tuple(names))
        except Exception as error:  # as above
            raise ModelError(f"it does not run: {type(error).__name__}: {error}") from error
        contract.fit(self.card, {name: output.shape for name, output in zip(names, found, strict=True)})

    def __repr__(self) -> str:
        named = f"{len(self.classes):,} classes ({listed(self.classes, FEW)})"
        return f"<Predictor of {named}: {self.card.backbone.get('name')}, {self.export.precision}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of every row of probabilities."""
        return self.card.classes

    def predict(self, images: Any, *, coverage: float | None = None, unknown: float = RATE) -> list[Prediction]:
        """Answers, in order, for paths, bytes of files, arrays uint8 [height, width, 3] or [height, width], PIL
        pictures, or a single one of these; in a list, or whatever else can be gone through.

        With `coverage`, 0.9 perhaps, each has a set of classes that holds the true one for this share of pictures.
        `unknown` is the share of pictures of the known classes that may be called unknown; 0 for none at all.
        A picture that cannot be read gets a Prediction with its fault; it never stops the others. Raises ValueError
        for a share that cannot be, or an array that is no picture.
        """
        return list(self.stream(given.many(images), coverage=coverage, unknown=unknown))

    def stream(
        self, images: Iterable[Any], *, coverage: float | None = None, unknown: float = RATE
    ) -> Iterator[Prediction]:
        """The same one by one, for more pictures than there is memory for."""
        for block in self.blocks(images, coverage=coverage, unknown=unknown):
            yield from block

    def blocks(
        self, images: Iterable[Any], *, start: int = 0, coverage: float | None = None, unknown: float = RATE
    ) -> Iterator[list[Prediction]]:
        """The same, few by few: those that went through the network together.

        From the `start` of such a block on, the rest are the very same. Raises ValueError as `predict` does, at once.
        """
        _ = self._least(coverage), self._limit(unknown)
        return self._blocks(islice(enumerate(images), start, None), coverage, unknown)

    def _blocks(
        self, images: Iterable[tuple[int, Any]], coverage: float | None, unknown: float
    ) -> Iterator[list[Prediction]]:
        for group in _grouped(self._decoded(images)):
            good = [(name, pixels) for name, pixels, _ in group if pixels is not None]
            told = iter(())
            if good:
                found = self.run(np.stack([pixels for _, pixels in good]), self.wanted)
                outputs = dict(zip(self.wanted, found, strict=True))
                told = self.told([name for name, _ in good], outputs, coverage, unknown)
            yield [Prediction(name, None, fault) if fault else next(told) for name, _, fault in group]

    def run(self, images: Pixels, outputs: tuple[str, ...] = (PROBABILITIES, UNKNOWN)) -> list[NDArray[Any]]:
        """What the file itself says of pictures [n, height, width, 3]; docs/client.md lists the outputs."""
        return [np.asarray(output) for output in self.session.run(list(outputs), {IMAGE: images})]

    @property
    def wanted(self) -> tuple[str, ...]:
        """The outputs that `told` reads."""
        return (PROBABILITIES, UNKNOWN, *(NEAREST, SIMILARITY) * bool(self.evidence))

    def told(
        self, names: Sequence[str], found: Mapping[str, NDArray[Any]], coverage: float | None, unknown: float
    ) -> Iterator[Prediction]:
        """The answers for pictures of these names, from what `run` found of them: an array [n, ...] for each output.

        Raises ValueError as `predict` does.
        """
        scores, card, least = found[UNKNOWN], self.card, self._least(coverage)
        chances = np.where(finite(scores)[:, None], found[PROBABILITIES].astype(np.float64), np.nan)
        said = answers(chances, card.classes, card.task, card.thresholds, least, scores > self._limit(unknown))
        near = [found[name].tolist() for name in (NEAREST, SIMILARITY) if self.evidence]
        nearest = map(self._neighbours, *near) if near else repeat(())
        for name, answer, own in zip(names, said, nearest, strict=False):
            yield Prediction(name, answer, nearest=own) if answer else Prediction(name, None, NO_NUMBER)

    def _neighbours(self, which: list[int], cosines: list[float]) -> tuple[Neighbour, ...]:
        """The training pictures in these rows, nearest first."""
        found = ((self.evidence[row], cosine) for row, cosine in zip(which, cosines, strict=True))
        return tuple(Neighbour(it.picture, it.labels, cosine, _uri(it.thumbnail)) for it, cosine in found)

    def _decoded(self, images: Iterable[tuple[int, Any]]) -> Iterator[tuple[str, Pixels | None, str]]:
        """(name, pixels or None, fault) in order, a few ahead of the network."""
        enough = self.card.enough
        with ThreadPoolExecutor(self.threads) as pool:
            waiting = (pool.submit(_pixels, row, image, enough) for row, image in images)
            ahead = deque(islice(waiting, AHEAD * self.threads))
            try:
                while ahead:
                    yield ahead.popleft().result()
                    ahead.extend(islice(waiting, 1))
            finally:  # whoever has enough does not wait for what nobody will use
                for future in ahead:
                    future.cancel()

    def _least(self, coverage: float | None) -> float | None:
        """From which probability on a class is in a prediction set of this coverage."""
        if coverage is None:
            return None
        if not self.card.sets:
            raise ValueError("This classifier has no prediction sets. Leave the coverage out.")
        return least_of(self.card.sets, coverage)

    def _limit(self, rate: float) -> float:
        if not 0 <= rate < 1:
            raise ValueError(f"The share of pictures that may be called unknown lies from 0 to 1. Got {rate:g}.")
        return limit(self.export.strays, rate) if self.export.strays else math.inf


def load(file: str | os.PathLike[str] | bytes, *, threads: int | None = None) -> Predictor:
    """The classifier in a file that `graft export` wrote, or in its bytes; `threads` is all cores unless given.

    Raises ModelError for a file that is damaged, newer than this version, not one of graft's, or whose network does not
    fit its description. A file of a stranger is a program of a stranger: do not load one.
    """
    name = "The model" if isinstance(file, bytes) else str(file)
    try:
        return Predictor(file if isinstance(file, bytes) else contract.content(Path(file)), threads)
    except OSError as error:
        raise ModelError(f"{name} cannot be read: {error.strerror}. Name a file that `graft export` wrote.") from error
    except ModelError as error:
        raise ModelError(f"{name} is no classifier that can be used: {error}.") from error


def _pixels(row: int, image: Any, enough: int) -> tuple[str, Pixels | None, str]:
    name = str(image) if isinstance(image, str | os.PathLike) else f"picture {row}"
    image = given.one(image, row)
    try:
        if isinstance(image, str | os.PathLike):
            image = read(image)
        if isinstance(image, bytes):
            return name, decode(image, enough=enough), ""
        return name, upright(image) if isinstance(image, Image.Image) else colour(np.asarray(image)), ""
    except ImageError as error:
        return name, None, str(error)
    except OSError as error:
        return name, None, f"cannot be read: {error.strerror or error}"


def _uri(thumbnail: str | None) -> str | None:
    return None if thumbnail is None else f"data:image/jpeg;base64,{thumbnail}"


def _grouped(
    decoded: Iterable[tuple[str, Pixels | None, str]],
) -> Iterator[list[tuple[str, Pixels | None, str]]]:
    """Neighbours of one size, few enough to go through the network together; whatever has a fault goes along.

    Where a group begins, nothing of those before it matters.
    """
    group: list[tuple[str, Pixels | None, str]] = []
    shape: tuple[int, ...] | None = None
    for each in decoded:
        own = shape if each[1] is None else each[1].shape
        full = own is not None and (len(group) + 1) * own[0] * own[1] > ROOM
        if group and (len(group) == BATCH or full or (shape is not None and own != shape)):
            yield group
            group, own = [], None if each[1] is None else own
        group.append(each)
        shape = own
    if group:
        yield group


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
