"""Predict the classes of images and folders of images, in memory or to a CSV or Parquet file.

Exported files are run without torch, which is therefore imported where it is used.
"""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from graft import atomic
from graft.data.dataset import from_paths
from graft.errors import DataError, GraftError, ModelError, OutputError, UsageError
from graft.metrics.unknown import AnswerCounter
from graft.progress import ProgressTask, ProgressWrapper, no_progress
from graft_runtime import contract, table
from graft_runtime.decide import UNKNOWN_RATE
from graft_runtime.prediction import Prediction
from graft_runtime.table import BASE_COLUMNS, BlockPredictor, Columns, PredictOptions, TableFormat, WriteResult

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
    if path.suffix.lower() != PARQUET_SUFFIX:
        return table.CSV
    check_parquet()
    return PARQUET


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


# --- Parquet ----------------------------------------------------------------------------------------------------------

PARQUET_SUFFIX = ".parquet"
MAX_CELLS = 1_000_000  # of a row group, which is held in memory


def check_parquet() -> None:
    """Raise UsageError where pyarrow is not installed, before any work is done."""
    import_pyarrow()


def import_pyarrow() -> Any:
    """Import pyarrow. Raises UsageError where it is not installed."""
    try:
        import pyarrow as package
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UsageError("Parquet needs the package pyarrow: pip install 'graft-vision[parquet]'") from error
    return package


def _is_ours(path: Path) -> bool:
    """Whether a file is a Parquet table of predictions."""
    arrow = import_pyarrow()
    try:
        return tuple(arrow.parquet.read_schema(path).names[: len(BASE_COLUMNS)]) == BASE_COLUMNS
    except arrow.ArrowInvalid:
        return False


def _keep_cell(cell: str | float) -> str | float:
    return cell


def _convert_csv(part: Path, place: Path, columns: Columns) -> None:
    """Convert the finished CSV part into a Parquet file, atomically. Raises OSError."""
    arrow = import_pyarrow()
    arrow_types = {str: arrow.string(), float: arrow.float64(), bool: arrow.bool_()}
    types = [arrow_types[kind] for _, kind in columns]
    schema = arrow.schema([(name, arrow_types[kind]) for name, kind in columns])
    for left in [path for path in place.parent.iterdir() if _is_leftover(path, place)]:
        left.unlink()
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with (
            part.open(newline="", encoding="utf-8") as file,
            fresh.open("xb") as out,
            arrow.parquet.ParquetWriter(out, schema) as writer,
        ):
            csv.field_size_limit(2**31 - 1)  # a set of thousands of classes is longer than csv expects
            rows = csv.reader(file)
            next(rows)
            for group in iter(lambda: list(islice(rows, max(1, MAX_CELLS // len(columns)))), []):
                cells = (
                    _parse_cells(own, kind) for own, (_, kind) in zip(zip(*group, strict=True), columns, strict=True)
                )
                writer.write_table(arrow.Table.from_arrays(list(map(arrow.array, cells, types)), schema=schema))
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)


def _is_leftover(path: Path, place: Path) -> bool:
    """Whether a killed run left the file here; the log beside it keeps other runs out meanwhile."""
    name = atomic.LEFTOVER.fullmatch(path.name)
    return name is not None and name[1] == place.name and path.is_file()


def _parse_cells(cells: tuple[str, ...], kind: type) -> list[str] | list[float | None] | list[bool | None]:
    """Parse a column of texts, numbers or booleans; the last two are empty for an image with a fault."""
    if kind is bool:
        return [cell == "true" if cell else None for cell in cells]
    return list(cells) if kind is str else [float(cell) if cell else None for cell in cells]


PARQUET = TableFormat(_is_ours, _keep_cell, _convert_csv)
