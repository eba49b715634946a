"""Pictures to answers: one file, many, or whole folders."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from graft.errors import DataError, OutputError
from graft.jobs.direct import opened
from graft.model.classifier import Classifier, Prediction
from graft.model.unknown import RATE, UNKNOWN
from graft.progress import Watch, unwatched
from graft_runtime.image import SUFFIXES

COLUMNS = ("picture", "label", "probability", "fault")
SET = "set"  # one more column, where prediction sets are asked for


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
    """Refuses a place where `write_csv` may not write, before any work is done."""
    begin = ",".join(COLUMNS).encode()
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent} for {path.name}.")
    if path.exists() and not force:
        raise OutputError(f"{path} is there already. Use --force to replace it, or choose another name.")
    if path.is_dir() or (path.is_file() and path.read_bytes()[: len(begin)] != begin):
        raise OutputError(f"{path} was not written by graft, so not even --force replaces it. Choose another name.")


def write_csv(predictions: Sequence[Prediction], classes: Sequence[str], path: Path, *, force: bool = False) -> None:
    """One row for each picture: its path, answer, probability, fault, and the probability of every class.

    The answer is the label, or several joined by '|', or 'unknown'; the probability is that of the likeliest class.
    Where prediction sets were asked for, they follow after the fault, joined in the same way.

    Raises OutputError rather than overwrite a file, or, with `force`, rather than one that graft did not write.
    """
    check(path, force=force)
    try:
        with path.open("w" if force else "x", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            sets = [SET] if any(each.among is not None for each in predictions) else []
            rows.writerow([*COLUMNS, *sets, *map(_harmless, classes)])
            for each in predictions:
                chances = each.answer.probabilities.values() if each.answer else [""] * len(classes)
                answer = UNKNOWN if each.unknown else _harmless("|".join(each.labels))
                among = [_harmless("|".join(each.among or ()))] * len(sets)
                rows.writerow([_harmless(each.picture), answer, each.probability, each.fault, *among, *chances])
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


def files(images: Sequence[str | Path]) -> Iterator[Path]:
    """The files among these paths, and all pictures in the folders among them. Raises DataError."""
    for path in map(Path, images):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES) and file.is_file())
            if not found:
                raise DataError(f"The folder {path} holds no pictures.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise DataError(f"There is no file {path}.")


def _harmless(text: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
