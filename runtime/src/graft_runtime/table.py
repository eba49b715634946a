"""Predictions for files as a table, written as they are made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from graft_runtime import walk
from graft_runtime.card import Card
from graft_runtime.decide import UNKNOWN_RATE
from graft_runtime.journal import Journal, check_leftovers
from graft_runtime.prediction import Prediction

COLUMNS = ("image", "label", "probability", "fault", "unknown")
BASE_COLUMNS = COLUMNS[:4]  # begin every table of answers, those of before `unknown` had a column as well
SET_COLUMN = "set"  # one more column, where prediction sets are asked for
CLASS_COLUMN_PREFIX = "probability of "  # begins the column of a class: no class can be called like another column
TABLE_VERSION = 2  # of the columns: answers that were begun in another one are not gone on with
COLUMN_TYPES = {"probability": float, "unknown": bool}  # of the columns that are no text
MAX_EXAMPLES = 5  # faults that are listed one by one

Row = list[str | float]
Columns = list[tuple[str, type]]  # the name of each, and whether it is text (str), numbers (float) or yes and no (bool)


@runtime_checkable
class BlockPredictor(Protocol):
    """What predicts in blocks: a Predictor of an exported file, or a trained classifier."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> str: ...

    @property
    def card(self) -> Card: ...

    def predict_blocks(
        self, images: Any, *, start: int = 0, coverage: float | None = None, unknown: float = UNKNOWN_RATE
    ) -> Iterator[list[Prediction]]: ...


@dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction: `coverage` and `unknown` as in `predict`; with `top` only so many classes."""

    coverage: float | None = None
    unknown: float = UNKNOWN_RATE
    top: int = 0


@dataclass(frozen=True)
class TableFormat:
    """A file format of tables: recognise one, convert a cell, and turn a complete part into the file."""

    is_ours: Callable[[Path], bool]
    cell: Callable[[str | float], str | float]
    finish: Callable[[Path, Path, Columns], None]


@dataclass(frozen=True)
class WriteResult:
    """Result of writing predictions: numbers of answers, of those of an earlier run and of faults, and examples.

    `careful` are warnings to read before trusting the answers.
    """

    output: str
    answers: int
    before: int
    faults: int
    examples: tuple[tuple[str, str], ...]  # (image, fault)
    careful: tuple[str, ...] = ()


def write_predictions(
    predictor: BlockPredictor,
    paths: Sequence[str],
    place: Path,
    options: PredictOptions,
    watch: Callable[[Iterator[Prediction], int, int], Iterable[Prediction]],
    table_format: TableFormat,
    *,
    resume: bool = False,
    force: bool = False,
) -> WriteResult:
    """Predict for these files and write each block of answers as soon as it is there; see `journal`.

    `watch` shows progress over (predictions, number of those done before, number in all). Raises OSError, with a
    message for people, and ValueError for options that are not legal.
    """
    check_destination(place, table_format, resume=resume, force=force)
    output, place = str(place), resolve_link(place)
    predictor.predict_blocks(
        [], coverage=options.coverage, unknown=options.unknown
    )  # so that illegal options raise before any work
    header = build_columns(predictor.classes, options)
    with Journal(place, _describe_run(predictor, paths, options), resume=resume, force=force) as journal:
        if not journal.mark.end:
            journal.add([[table_format.cell(name) for name, _ in header]])
        before, examples = journal.mark.rows, list[tuple[str, str]]()

        def answered() -> Iterator[Prediction]:
            for block in predictor.predict_blocks(
                paths, start=before, coverage=options.coverage, unknown=options.unknown
            ):
                rows = (
                    [table_format.cell(cell) for cell in build_row(each, predictor.classes, options)] for each in block
                )
                journal.add(rows, len(block), sum(bool(each.fault) for each in block))
                yield from block

        for each in watch(answered(), before, len(paths)):
            if each.fault and len(examples) < MAX_EXAMPLES:
                examples.append((each.image, each.fault))
        check_destination(place, table_format, resume=True, force=force)  # a file may have come there meanwhile
        journal.finish(lambda part, place: table_format.finish(part, place, header))
        return WriteResult(output, journal.mark.rows, before, journal.mark.faults, tuple(examples))


def _describe_run(predictor: BlockPredictor, paths: Sequence[str], options: PredictOptions) -> dict[str, Any]:
    """Return what has to be the same for a run to be resumed."""
    names = hashlib.sha256()
    for path in paths:
        names.update(os.fsencode(path) + b"\0")
    return {
        "the form of the table": TABLE_VERSION,
        "the model": predictor.identity,
        **{f"--{name}": value for name, value in asdict(options).items()},
        "the number of images": len(paths),
        "the list of images": names.hexdigest(),
    }


def check_destination(place: Path, table_format: TableFormat, *, resume: bool, force: bool) -> None:
    """Raise OSError if `write_predictions` cannot write there, before any work is done."""
    place = resolve_link(place)
    if not place.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {place.parent} for {place.name}.")
    if not os.access(place.parent, os.W_OK):
        raise PermissionError(f"The folder {place.parent} cannot be written to. Choose another one.")
    if place.exists() and not force:
        raise FileExistsError(f"{place} is there already. Use --force to replace it, or choose another name.")
    if place.exists() and not (place.is_file() and table_format.is_ours(place)):  # a pipe would be waited for
        raise FileExistsError(
            f"{place} was not written by graft, so not even --force replaces it. Choose another name."
        )
    check_leftovers(place, resume=resume, force=force)


def resolve_link(place: Path) -> Path:
    """Return the target of a symbolic link, so that the link itself stays; any other path as it is."""
    return Path(os.path.realpath(place)) if place.is_symlink() else place


def list_images(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the files among these paths, and all images in the folders among them. Raises OSError."""
    for path in map(Path, paths):
        if path.is_dir():
            try:
                found = walk.list_images(path)
            except OSError as error:
                raise PermissionError(f"The folder {path} cannot be opened: {error.strerror}.") from error
            if not found:
                raise FileNotFoundError(f"The folder {path} holds no images.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(f"There is no file {path}.")


def is_prediction_table(path: Path) -> bool:
    """Whether a file begins with the header of a CSV table of predictions."""
    begin = ",".join(BASE_COLUMNS).encode()
    with path.open("rb") as file:
        return file.read(len(begin)) == begin


def build_columns(classes: Sequence[str], options: PredictOptions) -> Columns:
    """Return the columns: path, answer, probability, fault, whether it is unknown, set if there is a coverage, and one
    for each class, 'probability of ' and its name.

    With `top` two for each of the likeliest classes, its name and its probability, in place of those of all classes.
    """
    some = range(1, min(options.top, len(classes)) + 1)
    few: Columns = [pair for number in some for pair in ((f"class {number}", str), (f"probability {number}", float))]
    every: Columns = [(f"{CLASS_COLUMN_PREFIX}{name}", float) for name in classes]
    always: Columns = [(name, COLUMN_TYPES.get(name, str)) for name in COLUMNS]
    return [*always, *[(SET_COLUMN, str)] * (options.coverage is not None), *(few if options.top else every)]


def build_row(prediction: Prediction, classes: Sequence[str], options: PredictOptions) -> Row:
    """Return the prediction for one image in these columns.

    The answer is the label, or several joined by '|', and empty where `unknown` is true; the probability is that of the
    likeliest class. Prediction sets are joined in the same way. What an image with a fault does not have is empty.
    """
    unknown = "" if prediction.answer is None else str(prediction.unknown).lower()
    probs = list(prediction.probabilities.values())
    if not options.top:
        last: Row = [*probs] if probs else [""] * len(classes)
    else:
        few = min(options.top, len(classes))
        best = sorted(range(len(probs)), key=lambda at: -probs[at])[:few]
        last = [cell for at in best for cell in (classes[at], probs[at])] or [""] * (2 * few)
    prediction_set = [join_labels(prediction.prediction_set or ())] * (options.coverage is not None)
    return [
        prediction.image,
        join_labels(prediction.labels),
        prediction.probability,
        prediction.fault,
        unknown,
        *prediction_set,
        *last,
    ]


def join_labels(names: Sequence[str]) -> str:
    """Join class names in one cell by '|'; one inside a name has a backslash before it, as has a backslash."""
    return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in names)


def escape_formula(cell: str | float) -> str | float:
    """Put a quote before text that a spreadsheet would run as a formula.

    Leading quotes are skipped in the check, so that no two cells become the same.
    """
    dangerous = isinstance(cell, str) and cell.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if dangerous else cell


def _move(part: Path, place: Path, _: Columns) -> None:
    part.replace(place)


CSV = TableFormat(is_prediction_table, escape_formula, _move)
