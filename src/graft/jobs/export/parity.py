"""Parity check: an export must give the classifier's predictions, in ONNX Runtime, OpenVINO or torch.export."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from graft.data import dataset as table
from graft.data.dataset import TEST, Dataset, decode_pixels
from graft.data.images import InMemoryImages
from graft.data.readers.folder import list_loose_images
from graft.data.readers.source import read_source
from graft.errors import DataError, ExportError
from graft.features.embed import load_each
from graft.jobs.direct import relabel_dataset
from graft.model import scoring
from graft.model.classifier import Classifier
from graft.model.scoring import paired_interval
from graft.progress import ProgressWrapper
from graft_runtime import contract
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.contract import CARD, PROBABILITIES, UNKNOWN, Export
from graft_runtime.decide import DEFAULT_THRESHOLD, NOT_FINITE, UNKNOWN_RATE, build_answers, unknown_threshold
from graft_runtime.prediction import Prediction
from graft_runtime.walk import is_image

TOLERANCE = 1e-3  # of a probability, in float32
TIMED_IMAGES, TIMED_REPEATS = 4, 5  # images by which speed is measured, and runs of each
RUN_BATCH = 4  # images of one size in a batch of a runtime other than graft_runtime
MAX_PARITY_IMAGES = 500  # the network runs twice over each
MAX_CALIBRATION_IMAGES = 100  # for the ranges of int8
HELD_OUT, GIVEN, MADE = "held out", "given", "made"
SIZES = (  # height, width: strips, panoramas, exactly the network's size, photos
    *((1, 1), (1, 300), (300, 1), (2, 3), (37, 91), (64, 512), (1600, 400), (224, 224), (255, 257)),
    *((300, 400), (480, 640), (683, 512), (1023, 767), (1200, 1800)),
)

AnswerStream = Callable[[Iterator[Any]], Iterator[Prediction]]  # images, as bytes or pixels, to predictions
RunPixels = Callable[[NDArray[np.uint8]], Mapping[str, NDArray[Any]]]  # pixels [n, height, width, 3] to outputs by name
BuildFile = Callable[..., bytes]  # an Export, and the training images that it shows, to the content of a file


# --- comparison -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parity:
    """Comparison of an export with the classifier.

    `worst` is the largest difference between two probabilities. `changed` counts predictions that differ (class, labels
    or unknown), except `ties`: those so close to a border that a difference within the tolerance may change them.
    `trained` and `exported` are the accuracies (multilabel: the share of correct labels), `loss` is their difference
    and `interval` its 95 % confidence interval; None without labels. `milliseconds` are for one decoded image, of the
    classifier and of the export; `size` is in bytes; `runtime` is what ran the export, with its version.
    """

    origin: str
    images: int
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
        """Speed of the export relative to the classifier, one image at a time."""
        return self.milliseconds[0] / self.milliseconds[1]

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as plain values for JSON."""
        return asdict(self) | {"speed": self.speed}

    def find_mismatch(self) -> str:
        """Return why this is not the same classifier; '' where it is."""
        if not self.worst <= TOLERANCE:  # true for NaN as well
            return f"a probability is off by {self.worst:.2g}, and {TOLERANCE:g} is allowed"
        if self.changed:
            return f"{self.changed} of {self.images} answers changed"
        return ""

    def find_excess_loss(self, allowed: float) -> str:
        """Return why this loses more than the allowed share of correct predictions; '' where it does not.

        Without labels a prediction that changed counts as one that was correct.
        """
        if self.loss is not None and self.loss > allowed:
            return f"it loses {self.loss:.1%} of right answers, and {allowed:.1%} is allowed"
        if self.loss is None and self.changed > allowed * self.images:
            return f"{self.changed / self.images:.1%} of the answers changed, and {allowed:.1%} is allowed"
        return ""


def compare_export(
    classifier: Classifier,
    answer_stream: AnswerStream,
    run_one: Callable[[Any], Any],
    size: int,
    parity_images: ParityImages,
    watch: ProgressWrapper,
) -> Parity:
    """Compare the classifier with an export; `run_one` runs the export on one decoded image, for its speed."""
    output = classifier.run_forward(parity_images.data, watch=watch)
    if not len(output.rows):
        raise DataError(f"Not one of the {len(parity_images.data):,} images to check the export on can be read.")
    expected = classifier.calibrate_logits(output.logits)
    good = parity_images.data.take(output.rows)
    predictions = list(watch(answer_stream(good.read(row) for row in range(len(good))), "images again", len(good)))
    none = [np.nan] * expected.shape[1]  # for an image that the export gives no probabilities
    actual = np.array([list(each.probabilities.values()) or none for each in predictions]).reshape(expected.shape)
    is_unknown, margin = _flag_unknown(classifier, output.near.scores if output.near else None, len(good))
    expected_labels, actual_labels = _predicted_labels(classifier, expected), _predicted_labels(classifier, actual)
    differs = (expected_labels != actual_labels).any(axis=1)
    unknown_differs = is_unknown != np.array([each.unknown for each in predictions], bool)
    clearly_changed = (differs & (_margins(classifier, expected) > 2 * TOLERANCE)) | (
        unknown_differs & (margin > 2 * TOLERANCE)
    )
    changed = int(clearly_changed.sum())
    correct = (
        _score_answers(expected_labels, good, parity_images.has_labels),
        _score_answers(actual_labels, good, parity_images.has_labels),
    )
    return Parity(
        origin=parity_images.origin,
        images=len(good),
        worst=float(np.abs(expected - actual).max(initial=0.0)),
        changed=changed,
        ties=int((differs | unknown_differs).sum()) - changed,
        trained=None if correct[0] is None else float(correct[0].mean()),
        exported=None if correct[1] is None else float(correct[1].mean()),
        loss=None if correct[0] is None or correct[1] is None else float((correct[0] - correct[1]).mean()),
        interval=None if correct[0] is None or correct[1] is None else paired_interval(correct[0] - correct[1]),
        milliseconds=_measure_speed(classifier, run_one, good),
        size=size,
    )


def build_answer_stream(run: RunPixels, card: Card, export: Export) -> AnswerStream:
    """Return a function from images to predictions; consecutive images of one size are run as a batch.

    It raises ExportError where the runtime fails.
    """
    border, enough = unknown_threshold(export.strays, UNKNOWN_RATE), card.enough

    def stream(images: Iterator[Any]) -> Iterator[Prediction]:
        for _, same in groupby((decode_pixels(image, enough) for image in images), key=np.shape):
            while batch := list(islice(same, RUN_BATCH)):
                try:
                    found = run(np.stack(batch))
                except (RuntimeError, AssertionError) as error:  # raised by OpenVINO and by PyTorch
                    raise ExportError(f"The file that was made does not run: {error}.") from error
                probs, is_unknown = found[PROBABILITIES].astype(np.float64), found[UNKNOWN] > border
                for answer in build_answers(probs, card.classes, card.task, card.thresholds, None, is_unknown):
                    yield Prediction("", answer, "" if answer else NOT_FINITE)

    return stream


def _predicted_labels(classifier: Classifier, probs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the predicted classes as a mask [n, classes]."""
    if classifier.card.task == MULTILABEL:
        return probs >= _thresholds(classifier)
    return probs.argmax(axis=1)[:, None] == np.arange(probs.shape[1])


def _margins(classifier: Classifier, probs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much a probability would have to change for another prediction, [n]."""
    if classifier.card.task == MULTILABEL:
        return np.abs(probs - _thresholds(classifier)).min(axis=1)
    second, first = np.sort(probs, axis=1)[:, -2:].T
    return first - second


def _thresholds(classifier: Classifier) -> NDArray[np.float64]:
    return np.asarray(classifier.card.thresholds or [DEFAULT_THRESHOLD] * len(classifier.classes))


def _flag_unknown(
    classifier: Classifier, scores: NDArray[np.float32] | None, count: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return which images are unknown, and how far each score is from the threshold."""
    if scores is None or not classifier.memory or not classifier.memory.known:
        return np.zeros(count, bool), np.full(count, np.inf)
    limit = classifier.memory.known.unknown_threshold(UNKNOWN_RATE)
    return scores > limit, np.abs(scores - limit).astype(np.float64)


def _score_answers(y_pred: NDArray[np.bool_], data: Dataset, labelled: bool) -> NDArray[np.float64] | None:
    """Return the accuracy of each prediction, 0 to 1, [n]; None without labels."""
    if not labelled or not len(data):
        return None
    y_true = data.targets().astype(np.float64)
    if data.labels.ndim == 1:
        return (y_pred * y_true[:, : y_pred.shape[1]]).sum(axis=1)
    return (y_pred == y_true[:, : y_pred.shape[1]]).mean(axis=1)


def _measure_speed(classifier: Classifier, run_one: Callable[[Any], Any], data: Dataset) -> tuple[float, float]:
    """Return the median milliseconds for one decoded image of the classifier and of the export, run alternately."""
    network, preprocess = classifier.network, classifier.network.preprocess
    run = network.features.compile_features()

    def trained(image: NDArray[np.uint8]) -> None:
        network.head(run(preprocess.prepare(image)[None]))

    ways, spent = (trained, run_one), ([], [])
    rows = range(0, len(data), max(1, len(data) // TIMED_IMAGES))
    for image in [decode_pixels(data.read(row), preprocess.decode_size) for row in rows][:TIMED_IMAGES]:
        for turn in range(TIMED_REPEATS + 1):
            for way, times in zip(ways, spent, strict=True):
                began = time.perf_counter()
                way(image)
                times.extend([time.perf_counter() - began] * (turn > 0))  # the first run is a warm-up
    return float(np.median(spent[0]) * 1e3), float(np.median(spent[1]) * 1e3)


# --- images to compare on ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParityImages:
    """Images to check on, others of the same source to calibrate on, their origin, and whether they have labels."""

    data: Dataset
    calibration_data: Dataset
    origin: str
    has_labels: bool


def collect_parity_images(classifier: Classifier, source: Any, watch: ProgressWrapper) -> ParityImages:
    """Select the source's images that the classifier was tested on or, without any, was not trained on.

    A folder of images without class folders has no labels. Without a source, images are generated. Raises DataError for
    a source without images, or of other classes.
    """
    if source is None:
        return ParityImages(generate_images(), generate_images(), MADE, False)
    data, labelled = _read_images(classifier, source, watch)
    rows, held_out = _select_held_out(classifier, data, watch)
    if not len(rows):
        raise DataError(f"Not one image in {source} can be read.")
    chosen = sample_evenly(rows, MAX_PARITY_IMAGES)
    others = np.setdiff1d(np.arange(len(data)), chosen)
    others = sample_evenly(others if len(others) else chosen, MAX_CALIBRATION_IMAGES)
    return ParityImages(data.take(chosen), data.take(others), HELD_OUT if held_out else GIVEN, labelled)


def generate_images() -> Dataset:
    """Generate images of the same SIZES every time: smooth blobs with noise, as PNG and JPEG files in turn."""
    rng = np.random.default_rng(0)
    files = []
    for number, (height, width) in enumerate(SIZES):
        blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height))
        noise = rng.normal(0, 10, (height, width, 3))
        pixels = np.clip(np.asarray(blobs) + noise, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG" if number % 2 else "PNG")
        files.append(file.getvalue())
    return Dataset(InMemoryImages(files), np.full(len(files), -1, np.int32), (), np.zeros(len(files), np.int8))


def _read_images(classifier: Classifier, source: Any, watch: ProgressWrapper) -> tuple[Dataset, bool]:
    if isinstance(source, str | Path) and (files := _list_loose_images(Path(source))):
        return table.from_paths(files), False
    if classifier.card.strategy == "direct":
        return relabel_dataset(read_source(source, watch=watch), classifier), True
    multilabel = classifier.card.task == MULTILABEL
    data = read_source(source, classifier.classes, several=multilabel, watch=watch)
    return scoring.align_classes(data, classifier.card), True


def _list_loose_images(path: Path) -> list[Path]:
    """List the images directly in a folder, unless it has a table of them; or the one image."""
    if path.is_file() and is_image(path.name):
        return [path]
    return [path / name for name in list_loose_images(path)]


def _select_held_out(classifier: Classifier, data: Dataset, watch: ProgressWrapper) -> tuple[NDArray[np.intp], bool]:
    """Return (rows to check on, whether they are held out), by the classifier's digests and the source's split."""
    readable = [each for each in load_each(data, table.compute_digest, watch) if each.value is not None]
    rows = np.array([each.row for each in readable], np.intp)
    memory = classifier.memory
    tested = {digest.tobytes() for digest in memory.tested.digests} if memory and memory.tested else set[bytes]()
    if (known := np.array([each.value in tested for each in readable], bool)).any():
        return rows[known], True
    if (data.split == TEST).any():
        return np.intersect1d(rows, data.part(TEST)), True
    digests = np.frombuffer(b"".join(each.value or b"" for each in readable), np.uint8).reshape(-1, table.DIGEST)
    fresh = ~memory.find_trained(digests) if memory and len(rows) else np.zeros(len(rows), bool)
    return (rows[fresh], True) if fresh.any() else (rows, False)


def sample_evenly(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Return at most `most` of the rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]


# --- OpenVINO ---------------------------------------------------------------------------------------------------------

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's default is 16 bits on some processors


def open_openvino(content: bytes) -> tuple[AnswerStream, RunPixels, str]:
    """Load the file in OpenVINO; return (predictions of images, outputs of pixels, name and version of the runtime).

    Raises ModuleNotFoundError without the package, RuntimeError where OpenVINO cannot run the file.
    """
    import openvino

    core = openvino.Core()
    model = core.compile_model(core.read_model(content, b""), "CPU", EXACT)

    def run(images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        found = model(images)
        return {name: found[name] for name in (PROBABILITIES, UNKNOWN)}

    return (
        build_answer_stream(run, *contract.read_description(content)),
        run,
        f"openvino {openvino.__version__.partition('-')[0]}",
    )


# --- torch.export -----------------------------------------------------------------------------------------------------


def build_program(classifier: Classifier) -> tuple[tuple[str, ...], BuildFile]:
    """Return the names of the outputs, and what builds the file. Raises whatever torch.export raises."""
    from graft.torch import program

    return program.export_program(classifier)


def open_program(content: bytes) -> tuple[AnswerStream, RunPixels, str]:
    """Load the file in PyTorch; returns as `open_openvino`. Raises ModelError."""
    from graft.torch import program

    run, texts = program.load_program(content)
    return build_answer_stream(run, *contract.parse_properties(texts)), run, program.RUNTIME


def is_program_of_ours(path: Path) -> bool:
    """Whether the file is a program of torch.export written by graft."""
    if not path.is_file() or not zipfile.is_zipfile(path):  # is_file: reading a pipe would block
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith(f"/extra/{CARD}") for name in file.namelist())
