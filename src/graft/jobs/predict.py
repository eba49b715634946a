"""Pictures to answers: one file, many, or whole folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graft.errors import DataError, OutputError
from graft.jobs.direct import opened
from graft.model.classifier import Classifier
from graft.progress import Watch, unwatched
from graft_runtime import table
from graft_runtime.decide import RATE
from graft_runtime.prediction import Prediction


def predict(
    classifier: str | Path | Classifier,
    images: Sequence[str | Path],
    *,
    coverage: float | None = None,
    unknown: float = RATE,
    watch: Watch = unwatched,
) -> list[Prediction]:
    """What a classifier, the one saved in a folder, or a network by name says of each picture; a folder of pictures
    stands for all of them. `coverage` and `unknown` are those of Classifier.predict.

    Raises DataError for a path that is not there; a picture that cannot be decoded gets its fault instead.
    """
    judge = opened(classifier)
    judge.least(coverage)  # a share that cannot be is told before any folder is searched
    return judge.predict([str(path) for path in files(images)], coverage=coverage, unknown=unknown, watch=watch)


def check(path: Path, *, force: bool) -> None:
    """Refuses a place where `write_csv` may not write, before any work is done. Raises OutputError."""
    try:
        table.check(path, force=force)
    except OSError as error:
        raise OutputError(str(error)) from error


def write_csv(predictions: Sequence[Prediction], classes: Sequence[str], path: Path, *, force: bool = False) -> None:
    """One row for each picture; see graft_runtime.table.rows.

    Raises OutputError rather than overwrite a file, or, with `force`, rather than one that graft did not write.
    """
    check(path, force=force)
    try:
        table.write(predictions, classes, path, force=force)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


def files(images: Sequence[str | Path]) -> list[Path]:
    """The files among these paths, and all pictures in the folders among them. Raises DataError."""
    try:
        return list(table.files(images))
    except FileNotFoundError as error:
        raise DataError(str(error)) from error
