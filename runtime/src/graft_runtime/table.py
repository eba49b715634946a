"""Files to be judged, and the answers as a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from graft_runtime.decide import UNKNOWN
from graft_runtime.image import SUFFIXES
from graft_runtime.prediction import Prediction

COLUMNS = ("picture", "label", "probability", "fault")
SET = "set"  # one more column, where prediction sets are asked for


def files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files among these paths, and all pictures in the folders among them. Raises FileNotFoundError."""
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.lower().endswith(SUFFIXES) and file.is_file())
            if not found:
                raise FileNotFoundError(f"The folder {path} holds no pictures.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(f"There is no file {path}.")


def check(path: Path, *, force: bool) -> None:
    """Refuses a place where `write` may not write, before any work is done. Raises OSError."""
    begin = ",".join(COLUMNS).encode()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} for {path.name}.")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already. Use --force to replace it, or choose another name.")
    if path.is_dir() or (path.is_file() and path.read_bytes()[: len(begin)] != begin):
        raise FileExistsError(f"{path} was not written by graft, so not even --force replaces it. Choose another name.")


def write(predictions: Sequence[Prediction], classes: Sequence[str], path: Path, *, force: bool = False) -> None:
    """The table of answers as a CSV file. Raises OSError."""
    sets = any(each.among is not None for each in predictions)
    with path.open("w" if force else "x", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows(predictions, classes, sets))


def rows(predictions: Iterable[Prediction], classes: Sequence[str], sets: bool) -> Iterator[list[object]]:
    """A heading, then for each picture its path, answer, probability, fault, and the probability of every class.

    The answer is the label, or several joined by '|', or 'unknown'; the probability is that of the likeliest class.
    Prediction sets follow after the fault, joined in the same way.
    """
    yield [*COLUMNS, *[SET] * sets, *map(_harmless, classes)]
    for each in predictions:
        chances = each.answer.probabilities.values() if each.answer else [""] * len(classes)
        answer = UNKNOWN if each.unknown else _harmless("|".join(each.labels))
        among = [_harmless("|".join(each.among or ()))] * sets
        yield [_harmless(each.picture), answer, each.probability, each.fault, *among, *chances]


def _harmless(text: str) -> str:
    """Spreadsheets run what begins like a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
