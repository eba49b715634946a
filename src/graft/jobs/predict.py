"""Pictures to answers: one file, many, or whole folders."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from graft.errors import DataError, OutputError
from graft.model.classifier import Classifier, Prediction, load
from graft.progress import Watch, unwatched
from graft_runtime.image import SUFFIXES


def predict(
    classifier: str | Path | Classifier, images: Sequence[str | Path], *, watch: Watch = unwatched
) -> list[Prediction]:
    """What a classifier, or the one saved in a folder, says of each picture; a folder stands for its pictures.

    Raises DataError for a path that is not there; a picture that cannot be decoded gets its fault instead.
    """
    judge = classifier if isinstance(classifier, Classifier) else load(classifier)
    return judge.predict([str(path) for path in _files(images)], watch=watch)


def write_csv(predictions: Sequence[Prediction], classes: Sequence[str], path: Path, *, force: bool = False) -> None:
    """One row for each picture: its path, answer, probability, fault, and the probability of every class.

    Raises OutputError rather than overwrite a file.
    """
    try:
        with path.open("w" if force else "x", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["picture", "label", "probability", "fault", *map(_harmless, classes)])
            for each in predictions:
                chances = each.answer.probabilities.values() if each.answer else [""] * len(classes)
                rows.writerow([_harmless(each.picture), _harmless(each.label), each.probability, each.fault, *chances])
    except FileExistsError as error:
        raise OutputError(f"{path} is there already. Use --force to replace it, or choose another name.") from error
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error


def _files(images: Sequence[str | Path]) -> Iterator[Path]:
    for path in map(Path, images):
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES))
        elif path.exists():
            yield path
        else:
            raise DataError(f"There is no file {path}.")


def _harmless(text: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
