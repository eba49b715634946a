"""Pictures to answers: one file, many, or whole folders; in memory, or to a file as they are made.

Exported files answer as well, without torch: what needs it is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from graft.data.dataset import from_paths
from graft.errors import DataError, GraftError, ModelError, OutputError, UsageError
from graft.jobs import columns
from graft.model.shift import Answers
from graft.progress import Watch, Work, unwatched
from graft_runtime import contract, table
from graft_runtime.decide import RATE
from graft_runtime.prediction import Prediction
from graft_runtime.table import Asked, Form, Judge, Written

PLAIN = Asked()


def predict(
    classifier: str | Path | Judge,
    images: Sequence[str | Path],
    *,
    coverage: float | None = None,
    unknown: float = RATE,
    watch: Watch = unwatched,
) -> list[Prediction]:
    """What a classifier, the one saved in a folder or exported to a file, or a network by name says of each picture; a
    folder of pictures stands for all of them. `coverage` and `unknown` are those of Classifier.predict.

    Raises DataError for a path that is not there; a picture that cannot be decoded gets its fault instead.
    """
    return predict_with_care(classifier, images, coverage=coverage, unknown=unknown, watch=watch)[0]


def predict_with_care(
    classifier: str | Path | Judge,
    images: Sequence[str | Path],
    *,
    coverage: float | None = None,
    unknown: float = RATE,
    watch: Watch = unwatched,
) -> tuple[list[Prediction], tuple[str, ...]]:
    """The same, and what to know before believing the answers: in what the images are unlike the training ones."""
    judge = opened(classifier, watch)
    _allowed(judge, coverage, unknown)
    paths = [str(path) for path in files(images)]
    blocks = judge.blocks(paths, coverage=coverage, unknown=unknown)
    answers = Answers(judge.card)
    found = list(answers.noted(watch(chain.from_iterable(blocks), "pictures", len(paths))))
    return found, answers.shift(unknown, from_paths(paths)).of_answers()


def write(
    classifier: str | Path | Judge,
    images: Sequence[str | Path],
    output: str | Path,
    asked: Asked = PLAIN,
    *,
    resume: bool = False,
    force: bool = False,
    watch: Watch = unwatched,
) -> Written:
    """The same for more pictures than there is memory for: the answers go to a CSV file, or one that ends in .parquet.

    One row for each picture; see graft_runtime.table. Answers are on the disk as they are made, in a file with .part
    after its name; `resume` goes on with one that was left, to the same bytes as if it had never been stopped.

    Raises OutputError for a file that is there, unless `force`, or that graft did not write; for a part of a run with
    another classifier, other pictures or options; and for a full disk. Raises DataError and UsageError as `predict`.
    """
    place, judge = Path(output), opened(classifier, watch)

    answers = Answers(judge.card)

    def watched(things: Iterator[Prediction], before: int, count: int) -> Iterable[Prediction]:
        return answers.noted(watch(things, Work("pictures", before=before), count))

    _allowed(judge, asked.coverage, asked.unknown)
    with _told():
        paths = [str(path) for path in files(images)]
        written = table.write(judge, paths, place, asked, watched, _form(place), resume=resume, force=force)
    return replace(written, careful=answers.shift(asked.unknown, from_paths(paths)).of_answers())


def check(path: Path, *, resume: bool = False, force: bool = False) -> None:
    """Refuses a place where `write` may not write, before any work is done. Raises OutputError."""
    with _told():
        table.check(path, _form(path), resume=resume, force=force)


def opened(model: str | Path | Judge, watch: Watch = unwatched) -> Judge:
    """A classifier as it is, an exported file, or whatever else `jobs.direct.opened` takes. Raises ModelError."""
    if isinstance(model, Judge):
        return model
    if Path(model).is_file() or Path(model).suffix == ".onnx":
        from graft_runtime.predictor import load

        with _told():
            return load(model)
    from graft.jobs.direct import opened as trained

    return trained(model)


def files(images: Sequence[str | Path]) -> list[Path]:
    """The files among these paths, and all pictures in the folders among them. Raises DataError."""
    try:
        return list(table.files(images))
    except OSError as error:
        raise DataError(str(error)) from error


def _form(path: Path) -> Form:
    if path.suffix.lower() != columns.SUFFIX:
        return table.CSV
    columns.check()
    return columns.PARQUET


def _allowed(judge: Judge, coverage: float | None, unknown: float) -> None:
    """What cannot be asked for is told before any folder is searched. Raises UsageError."""
    try:
        judge.blocks([], coverage=coverage, unknown=unknown)
    except GraftError:
        raise
    except ValueError as error:
        raise UsageError(str(error)) from error


@contextmanager
def _told() -> Iterator[None]:
    """The runtime's errors, whose messages are for people, as those of graft."""
    try:
        yield
    except GraftError:
        raise
    except contract.ModelError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise OutputError(str(error)) from error
