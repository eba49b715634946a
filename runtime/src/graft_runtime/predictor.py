"""Inference with an exported file, by numpy, Pillow and ONNX Runtime."""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from graft_runtime import contract, inputs
from graft_runtime.contract import IMAGE, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN, ModelFileError
from graft_runtime.decide import (
    NOT_FINITE,
    UNKNOWN_RATE,
    build_answers,
    find_finite_rows,
    prediction_set_threshold,
    unknown_threshold,
)
from graft_runtime.formatting import MAX_NAMES_IN_REPR, join_names
from graft_runtime.image import ImageError, decode, from_array, from_pil, read
from graft_runtime.prediction import Neighbour, Prediction
from graft_runtime.terminal import escape_breaks

BATCH_SIZE = 8  # images of one size that go through the network together
MAX_BATCH_PIXELS = 4_000_000  # their pixels, at most: the resize holds them as float32
PREFETCH = 2  # images decoded ahead of the network, for each thread

Pixels = NDArray[np.uint8]


class Predictor:
    """An exported classifier: `classes`, `card`, `export`, and predictions for images.

    `evidence` are the stored training images, for nearest neighbours; none unless the file was exported with them.
    `identity` is the SHA-256 of the file.
    """

    def __init__(self, model: bytes, threads: int | None = None) -> None:
        self.card, self.export = contract.read_description(model)
        self.evidence = contract.read_training_images(model, self.export)
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
            raise ModelFileError(f"ONNX Runtime {onnxruntime.__version__} cannot run it: {error}") from error
        known = {output.name: output.shape for output in self.session.get_outputs()}
        if missing := {PROBABILITIES, UNKNOWN} - known.keys():
            raise ModelFileError(f"it has no output {min(missing)!r}")
        if self.evidence and (missing := {NEAREST, SIMILARITY} - known.keys()):
            raise ModelFileError(f"it has evidence, and no output {min(missing)!r}")
        contract.check_shapes(self.card, known)
        if not isinstance(known[PROBABILITIES][1], int):
            self.check_outputs()

    def check_outputs(self) -> None:
        """Run a black image. Raises ModelFileError if the outputs do not fit the metadata."""
        side = self.card.preprocess["resize"]
        names = [output.name for output in self.session.get_outputs()]
        try:
            found = self.run(np.zeros((1, side, side, 3), np.uint8), tuple(names))
        except Exception as error:  # as above
            raise ModelFileError(f"it does not run: {type(error).__name__}: {error}") from error
        contract.check_shapes(self.card, {name: output.shape for name, output in zip(names, found, strict=True)})

    def __repr__(self) -> str:
        named = f"{len(self.classes):,} classes ({join_names(self.classes, MAX_NAMES_IN_REPR)})"
        return escape_breaks(f"<Predictor of {named}: {self.card.backbone.get('name')}, {self.export.precision}>")

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of every row of probabilities."""
        return self.card.classes

    def predict(self, images: Any, *, coverage: float | None = None, unknown: float = UNKNOWN_RATE) -> list[Prediction]:
        """Predict, in order, for paths, bytes of files, arrays uint8 [height, width, 3] or [height, width], PIL
        images, or a single one of these; in a list or any iterable.

        With `coverage`, 0.9 perhaps, each has a set of classes that holds the true one for this share of images.
        `unknown` is the share of images of the known classes that may be called unknown; 0 for none at all.
        An image that cannot be read gets a Prediction with its fault; it never stops the others. Raises ValueError
        for a share that cannot be, or an array that is no image.
        """
        return list(self.stream(inputs.as_images(images), coverage=coverage, unknown=unknown))

    def stream(
        self, images: Iterable[Any], *, coverage: float | None = None, unknown: float = UNKNOWN_RATE
    ) -> Iterator[Prediction]:
        """Yield predictions one by one, for more images than fit into memory."""
        for block in self.predict_blocks(images, coverage=coverage, unknown=unknown):
            yield from block

    def predict_blocks(
        self, images: Iterable[Any], *, start: int = 0, coverage: float | None = None, unknown: float = UNKNOWN_RATE
    ) -> Iterator[list[Prediction]]:
        """Yield predictions in blocks: the images of one forward pass.

        Starting at the `start` of such a block gives the same numbers for the rest. Raises ValueError as
        `predict` does, at once.
        """
        _ = self._set_threshold(coverage), self._unknown_threshold(unknown)
        return self._iter_blocks(islice(enumerate(images), start, None), coverage, unknown)

    def _iter_blocks(
        self, images: Iterable[tuple[int, Any]], coverage: float | None, unknown: float
    ) -> Iterator[list[Prediction]]:
        for group in _group_by_size(self._decode_images(images)):
            good = [(each.name, each.pixels) for each in group if each.pixels is not None]
            predictions = iter(())
            if good:
                found = self.run(np.stack([pixels for _, pixels in good]), self.output_names)
                outputs = dict(zip(self.output_names, found, strict=True))
                predictions = self.build_predictions([name for name, _ in good], outputs, coverage, unknown)
            yield [
                Prediction(each.name, None, each.fault, path=each.path)
                if each.fault
                else replace(next(predictions), path=each.path)
                for each in group
            ]

    def run(self, images: Pixels, outputs: tuple[str, ...] = (PROBABILITIES, UNKNOWN)) -> list[NDArray[Any]]:
        """Run the network on images [n, height, width, 3]; docs/client.md lists the outputs."""
        return [np.asarray(output) for output in self.session.run(list(outputs), {IMAGE: images})]

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs that `build_predictions` reads."""
        return (PROBABILITIES, UNKNOWN, *(NEAREST, SIMILARITY) * bool(self.evidence))

    def build_predictions(
        self, names: Sequence[str], outputs: Mapping[str, NDArray[Any]], coverage: float | None, unknown: float
    ) -> Iterator[Prediction]:
        """Yield predictions for images of these names from the outputs of `run`: an array [n, ...] by output name.

        Raises ValueError as `predict` does.
        """
        scores, card, set_threshold = outputs[UNKNOWN], self.card, self._set_threshold(coverage)
        probs = np.where(find_finite_rows(scores)[:, None], outputs[PROBABILITIES].astype(np.float64), np.nan)
        answers = build_answers(
            probs, card.classes, card.task, card.thresholds, set_threshold, scores > self._unknown_threshold(unknown)
        )
        near = [outputs[name].tolist() for name in (NEAREST, SIMILARITY) if self.evidence]
        nearest = map(self._build_neighbours, *near) if near else repeat(())
        for name, answer, own in zip(names, answers, nearest, strict=False):
            yield Prediction(name, answer, nearest=own) if answer else Prediction(name, None, NOT_FINITE)

    def _build_neighbours(self, which: list[int], cosines: list[float]) -> tuple[Neighbour, ...]:
        """Return the training images in these rows, nearest first."""
        found = ((self.evidence[row], cosine) for row, cosine in zip(which, cosines, strict=True))
        return tuple(Neighbour(it.image, it.labels, cosine, _data_uri(it.thumbnail)) for it, cosine in found)

    def _decode_images(self, images: Iterable[tuple[int, Any]]) -> Iterator[_DecodedImage]:
        """Yield images in order, decoded a few ahead of the network."""
        enough = self.card.enough
        with ThreadPoolExecutor(self.threads) as pool:
            waiting = (pool.submit(_decode_image, row, image, enough) for row, image in images)
            ahead = deque(islice(waiting, PREFETCH * self.threads))
            try:
                while ahead:
                    yield ahead.popleft().result()
                    ahead.extend(islice(waiting, 1))
            finally:  # whoever has enough does not wait for what nobody will use
                for future in ahead:
                    future.cancel()

    def _set_threshold(self, coverage: float | None) -> float | None:
        """Return the probability from which on a class is in a prediction set. Raises ValueError."""
        if coverage is None:
            return None
        if not self.card.sets:
            raise ValueError("This classifier has no prediction sets. Leave the coverage out.")
        return prediction_set_threshold(self.card.sets, coverage)

    def _unknown_threshold(self, rate: float) -> float:
        if not 0 <= rate < 1:
            raise ValueError(f"The share of images that may be called unknown lies from 0 to 1. Got {rate:g}.")
        return unknown_threshold(self.export.strays, rate) if self.export.strays else math.inf


def load(file: str | os.PathLike[str] | bytes, *, threads: int | None = None) -> Predictor:
    """Load a classifier from a file that `graft export` wrote, or from its bytes; `threads` defaults to all cores.

    Raises ModelFileError for a file that is damaged, newer than this version, not one of graft's, or whose network
    does not fit its metadata. An exported file is a program: do not load one that you do not trust.
    """
    name = "The model" if isinstance(file, bytes) else str(file)
    try:
        return Predictor(file if isinstance(file, bytes) else contract.read_file(Path(file)), threads)
    except OSError as error:
        raise ModelFileError(
            f"{name} cannot be read: {error.strerror}. Name a file that `graft export` wrote."
        ) from error
    except ModelFileError as error:
        raise ModelFileError(f"{name} is no classifier that can be used: {error}.") from error


@dataclass(frozen=True)
class _DecodedImage:
    """An image: its name, pixels or fault, and the file that it is, if it is one."""

    name: str
    pixels: Pixels | None
    fault: str = ""
    path: str = ""


def _decode_image(row: int, image: Any, enough: int) -> _DecodedImage:
    path = str(image) if isinstance(image, str | os.PathLike) else ""
    name = path or f"image {row}"
    image = inputs.as_image(image, row)
    try:
        if isinstance(image, str | os.PathLike):
            image = read(image)
        if isinstance(image, bytes):
            return _DecodedImage(name, decode(image, enough=enough), path=path)
        return _DecodedImage(name, from_pil(image) if isinstance(image, Image.Image) else from_array(np.asarray(image)))
    except ImageError as error:
        return _DecodedImage(name, None, str(error), path)
    except OSError as error:
        return _DecodedImage(name, None, f"cannot be read: {error.strerror or error}", path)


def _data_uri(thumbnail: str | None) -> str | None:
    return None if thumbnail is None else f"data:image/jpeg;base64,{thumbnail}"


def _group_by_size(decoded: Iterable[_DecodedImage]) -> Iterator[list[_DecodedImage]]:
    """Group consecutive images of one size into batches; images with a fault join any batch.

    A group does not depend on the images before its first one.
    """
    group: list[_DecodedImage] = []
    shape: tuple[int, ...] | None = None
    for each in decoded:
        own = shape if each.pixels is None else each.pixels.shape
        full = own is not None and (len(group) + 1) * own[0] * own[1] > MAX_BATCH_PIXELS
        if group and (len(group) == BATCH_SIZE or full or (shape is not None and own != shape)):
            yield group
            group, own = [], None if each.pixels is None else own
        group.append(each)
        shape = own
    if group:
        yield group


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
