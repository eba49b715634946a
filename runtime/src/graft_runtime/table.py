"""Files to be judged, and the answers as a table, written as they are made."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from graft_runtime import walk
from graft_runtime.card import Card
from graft_runtime.decide import RATE
from graft_runtime.journal import Journal, left
from graft_runtime.prediction import Prediction

COLUMNS = ("picture", "label", "probability", "fault", "unknown")
OURS = COLUMNS[:4]  # begin every table of answers, those of before `unknown` had a column as well
SET = "set"  # one more column, where prediction sets are asked for
OF_CLASS = "probability of "  # begins the column of a class: no class can be called like another column
FORM = 2  # of the columns: answers that were begun in another one are not gone on with
KINDS = {"probability": float, "unknown": bool}  # of the columns that are no text
EXAMPLES = 5  # faults that are told one by one

Row = list[str | float]
Columns = list[tuple[str, type]]  # the name of each, and whether it is text (str), numbers (float) or yes and no (bool)


@runtime_checkable
class Judge(Protocol):
    """What answers: an exported file at work, or a classifier that was trained."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def identity(self) -> str: ...

    @property
    def card(self) -> Card: ...

    def blocks(
        self, images: Any, *, start: int = 0, coverage: float | None = None, unknown: float = RATE
    ) -> Iterator[list[Prediction]]: ...


@dataclass(frozen=True)
class Asked:
    """What is asked of pictures: `coverage` and `unknown` as in `predict`; with `top` only so many classes."""

    coverage: float | None = None
    unknown: float = RATE
    top: int = 0


@dataclass(frozen=True)
class Form:
    """A kind of file: whether one is ours, how a cell is written, and how a whole part becomes one."""

    is_ours: Callable[[Path], bool]
    cell: Callable[[str | float], str | float]
    finish: Callable[[Path, Path, Columns], None]


@dataclass(frozen=True)
class Written:
    """What came of it: all answers, how many of them an earlier run made, all faults, and some of this run's.

    `careful` are sentences to read before the answers are believed.
    """

    output: str
    answers: int
    before: int
    faults: int
    examples: tuple[tuple[str, str], ...]  # (picture, fault)
    careful: tuple[str, ...] = ()


def write(
    judge: Judge,
    paths: Sequence[str],
    place: Path,
    asked: Asked,
    watch: Callable[[Iterator[Prediction], int, int], Iterable[Prediction]],
    form: Form,
    *,
    resume: bool = False,
    force: bool = False,
) -> Written:
    """Judge these files, with each answer on the disk as soon as it is there; see `journal`.

    `watch` shows progress over (answers still to come, how many are there, how many there will be). Raises OSError,
    with a message for people, and ValueError for what cannot be asked.
    """
    check(place, form, resume=resume, force=force)
    said, place = str(place), target(place)
    judge.blocks([], coverage=asked.coverage, unknown=asked.unknown)  # what cannot be asked is told before any work
    named = columns(judge.classes, asked)
    with Journal(place, _about(judge, paths, asked), resume=resume, force=force) as journal:
        if not journal.mark.end:
            journal.add([[form.cell(name) for name, _ in named]])
        before, examples = journal.mark.rows, list[tuple[str, str]]()

        def answered() -> Iterator[Prediction]:
            for block in judge.blocks(paths, start=before, coverage=asked.coverage, unknown=asked.unknown):
                rows = ([form.cell(cell) for cell in row(each, judge.classes, asked)] for each in block)
                journal.add(rows, len(block), sum(bool(each.fault) for each in block))
                yield from block

        for each in watch(answered(), before, len(paths)):
            if each.fault and len(examples) < EXAMPLES:
                examples.append((each.picture, each.fault))
        check(place, form, resume=True, force=force)  # a file may have come there meanwhile
        journal.finish(lambda part, place: form.finish(part, place, named))
        return Written(said, journal.mark.rows, before, journal.mark.faults, tuple(examples))


def _about(judge: Judge, paths: Sequence[str], asked: Asked) -> dict[str, Any]:
    """What has to be the same for a run to be gone on with."""
    names = hashlib.sha256()
    for path in paths:
        names.update(os.fsencode(path) + b"\0")
    return {
        "the form of the table": FORM,
        "the model": judge.identity,
        **{f"--{name}": value for name, value in asdict(asked).items()},
        "the number of pictures": len(paths),
        "the list of pictures": names.hexdigest(),
    }


def check(place: Path, form: Form, *, resume: bool, force: bool) -> None:
    """Refuses a place where `write` may not write, before any work is done. Raises OSError."""
    place = target(place)
    if not place.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {place.parent} for {place.name}.")
    if not os.access(place.parent, os.W_OK):
        raise PermissionError(f"The folder {place.parent} cannot be written to. Choose another one.")
    if place.exists() and not force:
        raise FileExistsError(f"{place} is there already. Use --force to replace it, or choose another name.")
    if place.exists() and not (place.is_file() and form.is_ours(place)):  # a pipe would be waited for
        raise FileExistsError(
            f"{place} was not written by graft, so not even --force replaces it. Choose another name."
        )
    left(place, resume=resume, force=force)


def target(place: Path) -> Path:
    """Where the answers go: for a link what it names, another disk perhaps; the link stays."""
    return Path(os.path.realpath(place)) if place.is_symlink() else place


def files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files among these paths, and all images in the folders among them. Raises OSError."""
    for path in map(Path, paths):
        if path.is_dir():
            try:
                found = walk.images(path)
            except OSError as error:
                raise PermissionError(f"The folder {path} cannot be opened: {error.strerror}.") from error
            if not found:
                raise FileNotFoundError(f"The folder {path} holds no pictures.")
            yield from found
        elif path.exists():
            yield path
        else:
            raise FileNotFoundError(f"There is no file {path}.")


def is_ours(path: Path) -> bool:
    """Whether a file begins as a table of answers in CSV does."""
    begin = ",".join(OURS).encode()
    with path.open("rb") as file:
        return file.read(len(begin)) == begin


def columns(classes: Sequence[str], asked: Asked) -> Columns:
    """What there is of each picture: path, answer, probability, fault, whether it is unknown, set where asked for, and
    one for each class, 'probability of ' and its name.

    With `top` two for each of the likeliest classes, its name and its probability, in place of those of all classes.
    """
    some = range(1, min(asked.top, len(classes)) + 1)
    few: Columns = [pair for number in some for pair in ((f"class {number}", str), (f"probability {number}", float))]
    every: Columns = [(f"{OF_CLASS}{name}", float) for name in classes]
    always: Columns = [(name, KINDS.get(name, str)) for name in COLUMNS]
    return [*always, *[(SET, str)] * (asked.coverage is not None), *(few if asked.top else every)]


def row(each: Prediction, classes: Sequence[str], asked: Asked) -> Row:
    """The answer of one picture in these columns.

    The answer is the label, or several joined by '|', and empty where `unknown` is true; the probability is that of the
    likeliest class. Prediction sets are joined in the same way. What a picture with a fault does not have is empty.
    """
    unknown = "" if each.answer is None else str(each.unknown).lower()
    chances = list(each.probabilities.values())
    if not asked.top:
        last: Row = [*chances] if chances else [""] * len(classes)
    else:
        few = min(asked.top, len(classes))
        best = sorted(range(len(chances)), key=lambda at: -chances[at])[:few]
        last = [cell for at in best for cell in (classes[at], chances[at])] or [""] * (2 * few)
    among = [joined(each.among or ())] * (asked.coverage is not None)
    return [each.picture, joined(each.labels), each.probability, each.fault, unknown, *among, *last]


def joined(names: Sequence[str]) -> str:
    """Class names in one cell, joined by '|'; one inside a name has a backslash before it, as has a backslash."""
    return "|".join(name.replace("\\", "\\\\").replace("|", "\\|") for name in names)


def harmless(cell: str | float) -> str | float:
    """Spreadsheets run what begins like a formula. Quotes before one count, so that no two cells become the same."""
    dangerous = isinstance(cell, str) and cell.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{cell}" if dangerous else cell


def _moved(part: Path, place: Path, _: Columns) -> None:
    part.replace(place)


CSV = Form(is_ours, harmless, _moved)
