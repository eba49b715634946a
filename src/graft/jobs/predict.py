"""Predict the classes of images and folders of images, in memory or to a CSV or Parquet file.

Exported files are run without torch, which is therefore imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from graft.data.dataset import from_paths
from graft.errors import DataError, GraftError, ModelError, OutputError, UsageError
from graft.jobs import parquet
from graft.metrics.shift import AnswerCounter
from graft.progress import ProgressTask, ProgressWrapper, no_progress
from graft_runtime import contract, table
from graft_runtime.decide import UNKNOWN_RATE
from graft_runtime.prediction import Prediction
from graft_runtime.table import BlockPredictor, PredictOptions, TableFormat, WriteResult

DEFAULT_OPTIONS = PredictOptions()


def predict(
    classifier: str | Path | BlockPredictor,
    images: Sequence[str | Path],
    *,
    coverage: float | None = None,
    unknown: float = UNKNOWN_RATE,
    watch: ProgressWrapper = no_progress,
) -> list[Prediction]:
    """Predict the class of each image with a classifier, a saved or exported one, or a network by name.

    A folder stands for all images in it. `coverage` and `unknown` are those of Classifier.predict. Raises DataError for
    a path that does not exist; the prediction of an image that cannot be decoded has a fault instead of a class.

    >>> import graft
    >>> graft.predict("model/", ["photo.jpg"])[0].label  # doctest: +SKIP
    'tulip'
    """
    return predict_with_warnings(classifier, images, coverage=coverage, unknown=unknown, watch=watch)[0]


def predict_with_warnings(
    classifier: str | Path | BlockPredictor,
    images: Sequence[str | Path],
    *,
    coverage: float | None = None,
    unknown: float = UNKNOWN_RATE,
    watch: ProgressWrapper = no_progress,
) -> tuple[list[Prediction], tuple[str, ...]]:
    """Predict as `predict` does; also return caveats: in what the images are unlike the training images."""
    model = open_model(classifier, watch)
    _check_options(model, coverage, unknown)
    paths = [str(path) for path in list_images(images)]
    blocks = model.predict_blocks(paths, coverage=coverage, unknown=unknown)
    answers = AnswerCounter(model.card)
    found = list(answers.record(watch(chain.from_iterable(blocks), "images", len(paths))))
    return found, answers.compute_shift(unknown, from_paths(paths)).answer_caveats()


def write(
    classifier: str | Path | BlockPredictor,
    images: Sequence[str | Path],
    output: str | Path,
    options: PredictOptions = DEFAULT_OPTIONS,
    *,
    resume: bool = False,
    force: bool = False,
    watch: ProgressWrapper = no_progress,
) -> WriteResult:
    """Predict any number of images into a CSV file, or one that ends in .parquet.

    One row per image; see graft_runtime.table. Predictions are written as they are made, to a file with .part after its
    name; `resume` continues one that was left, and gives the same bytes as a run that was not stopped.

    Raises OutputError for a file that exists, unless `force`, or that graft did not write; for a part of a run with
    another classifier, other images or options; and for a full disk. Raises DataError and UsageError as `predict`.
    """
    place, model = Path(output), open_model(classifier, watch)

    answers = AnswerCounter(model.card)

    def track(things: Iterator[Prediction], before: int, count: int) -> Iterable[Prediction]:
        return answers.record(watch(things, ProgressTask("images", done_before=before), count))

    _check_options(model, options.coverage, options.unknown)
    with _translate_errors():
        paths = [str(path) for path in list_images(images)]
        written = table.write_predictions(
            model, paths, place, options, track, _table_format(place), resume=resume, force=force
        )
    return replace(written, careful=answers.compute_shift(options.unknown, from_paths(paths)).answer_caveats())


def check(path: Path, *, resume: bool = False, force: bool = False) -> None:
    """Check that `write` may write there, before any work is done. Raises OutputError."""
    with _translate_errors():
        table.check_destination(path, _table_format(path), resume=resume, force=force)


def open_model(model: str | Path | BlockPredictor, watch: ProgressWrapper = no_progress) -> BlockPredictor:
    """Return a classifier as it is, load an exported file, or else what `open_classifier` takes. Raises ModelError."""
    if isinstance(model, BlockPredictor):
        return model
    if Path(model).is_file() or Path(model).suffix == ".onnx":
        from graft_runtime.predictor import load

        with _translate_errors():
            return load(model)
    from graft.jobs.direct import open_classifier as trained

    return trained(model)


def list_images(images: Sequence[str | Path]) -> list[Path]:
    """List the files among these paths, and all images in the folders among them. Raises DataError."""
    try:
        return list(table.list_images(images))
    except OSError as error:
        raise DataError(str(error)) from error


def _table_format(path: Path) -> TableFormat:
    if path.suffix.lower() != parquet.SUFFIX:
        return table.CSV
    parquet.check_parquet()
    return parquet.PARQUET


def _check_options(model: BlockPredictor, coverage: float | None, unknown: float) -> None:
    """Raise UsageError for invalid options before any folder is searched; an empty prediction checks them."""
    try:
        model.predict_blocks([], coverage=coverage, unknown=unknown)
    except GraftError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise the runtime's errors as those of graft, with the same messages."""
    try:
        yield
    except GraftError:
        raise
    except contract.ModelFileError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise OutputError(str(error)) from error
