"""Class folders, alone or below train / val / test, on a disk or in an archive: which file shows what."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.images import Images
from graft.data.lookalikes import listed, matched
from graft.data.read import foreign, nested
from graft.data.read.nested import Row
from graft.errors import DataError
from graft.progress import Watch, unwatched
from graft_runtime.walk import is_image

PARTS = {"train": TRAIN, "training": TRAIN, "val": VALID, "valid": VALID, "validation": VALID} | {
    "test": TEST,
    "testing": TEST,
}

TABLE = "labels.csv"  # what makes a folder a table's folder
OUTSIDE = "pictures outside class folders"
OTHER = "other files"
EMPTY = "folders without images"


class Entry(NamedTuple):
    """What is in a folder: its name, its path below the root, and whether it is a folder itself."""

    name: str
    path: str
    folder: bool


Listing = Callable[[str], Iterable[Entry]]  # what is in a folder, by its path below the root, in a fixed order


def arranged(
    where: str,
    listing: Listing,
    column: Callable[[list[str]], Images],
    classes: tuple[str, ...] | None,
    ignored: Counter[str],
    root: str = "",
    watch: Watch = unwatched,
    advice: str = "",
    level: str = "",
) -> Dataset:
    """The pictures in the class folders of a listing, in the order of their paths; `column` finds them by these.

    `where` is what to call the place in an error, and `advice` ends one about too few classes; `ignored` counts what
    the listing left out, and goes on counting; `level` says which folders are the classes where these lie in others
    (see `nested`). Raises DataError: no pictures, fewer than two classes, or names that
    cannot be told apart.
    """
    others: list[str] = []
    noted = _noted(listing, others)
    rows = sorted(watch(_pictures(root, noted, ignored), "files found", 0), key=lambda row: row.path)
    rows = nested.settled(where, rows, PARTS, classes, level)
    found = tuple(sorted({row.label for row in rows}, key=natural))
    if classes is None:
        _check_classes(where, found, ignored, advice)
    if not rows:
        said = foreign.told(others)
        advice = advice if ignored[OUTSIDE] else f" {said}" if said else ""
        raise DataError(f"{where} holds no pictures in class folders.{_hint(ignored)}{advice}")
    known = found if classes is None else matched(where, found, classes)
    order = {name: index for index, name in enumerate(known)}
    labels = np.array([order[row.label] for row in rows], np.int32)
    split = decided([row.part for row in rows])
    said = f"label={level}" if level else ""
    return Dataset(column([row.path for row in rows]), labels, known, split, dict(ignored), columns=said)


def decided(parts: list[int]) -> NDArray[np.int8]:
    """The column of the split; training alone is not a decision about the test part."""
    split = np.array(parts, np.int8)
    if (split == TRAIN).all():
        split[:] = UNSPLIT
    return split


def _pictures(root: str, listing: Listing, ignored: Counter[str]) -> Iterator[Row]:
    empty = list[str]()
    tops = list(_folders(root, listing, ignored))
    if parts := _parts(tops):
        for top in tops:
            if parts[top.name] == UNSPLIT:
                ignored["folders beside train and test"] += 1
                continue
            inside = list(_folders(top.path, listing, ignored))
            yield from _of_classes(inside, parts[top.name], listing, ignored, empty)
    else:
        yield from _of_classes(tops, UNSPLIT, listing, ignored, empty)
    _count_empty(empty, root, ignored)


def _count_empty(empty: list[str], root: str, ignored: Counter[str]) -> None:
    """Names the class folders without an image, for their class is missing in what is learnt."""
    if empty:
        names = sorted((posixpath.relpath(path, root or ".") for path in empty), key=natural)
        ignored[f"{EMPTY} ({listed(names)})"] = len(empty)


def _noted(listing: Listing, others: list[str]) -> Listing:
    """The same listing, which notes the files in it that are no images."""

    def noting(folder: str) -> Iterator[Entry]:
        for entry in listing(folder):
            if not entry.folder and not is_image(entry.name):
                others.append(entry.name)
            yield entry

    return noting


def _parts(tops: list[Entry]) -> dict[str, int]:
    """The part of the split that each of these folders is; empty where they are no train / val / test folders."""
    parts = {top.name: PARTS.get(top.name.lower(), UNSPLIT) for top in tops}
    divided = TRAIN in parts.values() and (len({*parts.values()} - {UNSPLIT}) > 1 or len(tops) == 1)
    return parts if divided else {}


def whole(name: str, listing: Listing, ignored: Counter[str]) -> Iterator[Row]:
    """Every image of a listing as one class, whatever folders it lies in; train / val / test folders are its parts."""
    entries, empty = list(listing("")), list[str]()
    parts = _parts([entry for entry in entries if entry.folder])
    for entry in entries:
        if entry.folder and parts.get(entry.name) == UNSPLIT:
            ignored["folders beside train and test"] += 1
        elif entry.folder:
            yield from _of_class(name, entry, parts.get(entry.name, UNSPLIT), listing, ignored, empty)
        elif not is_image(entry.name):
            ignored[OTHER] += 1
        elif parts:
            ignored[OUTSIDE] += 1
        else:
            yield Row(name, UNSPLIT, entry.path)
    _count_empty(empty, "", ignored)


def _folders(folder: str, listing: Listing, ignored: Counter[str]) -> Iterator[Entry]:
    """The sub-folders; what lies beside them is counted as outside any class."""
    for entry in listing(folder):
        if entry.folder:
            yield entry
        else:
            ignored[OUTSIDE if is_image(entry.name) else OTHER] += 1


def _of_classes(
    folders: list[Entry], part: int, listing: Listing, ignored: Counter[str], empty: list[str]
) -> Iterator[Row]:
    """What the folders that stand side by side hold, each the class that it is called."""
    names = [class_name(folder.name) for folder in folders]
    if twin := next((name for name, count in Counter(names).items() if count > 1), None):
        raise DataError(f"Two folders are both called {twin!r} (accents stored in two ways). Please merge them.")
    for name, folder in zip(names, folders, strict=True):
        yield from _of_class(name, folder, part, listing, ignored, empty)


def _of_class(
    name: str, folder: Entry, part: int, listing: Listing, ignored: Counter[str], empty: list[str]
) -> Iterator[Row]:
    waiting, found = [(folder.path, tuple[str, ...]())], False
    while waiting:
        path, inside = waiting.pop()
        for entry in listing(path):
            if not is_unicode(entry.name):
                ignored["names that are not Unicode"] += 1
            elif entry.folder:
                waiting.append((entry.path, (*inside, class_name(entry.name))))
            elif is_image(entry.name):
                found = True
                yield Row(name, part, entry.path, inside)
            else:
                ignored[OTHER] += 1
    if not found:
        empty.append(folder.path)


def is_unicode(name: str) -> bool:
    """Whether each byte of the name is part of a letter."""
    stray = "Cs"  # Python's stand-in for a stray byte
    return name.isascii() or not any(unicodedata.category(letter) == stray for letter in name)


def class_name(folder: str) -> str:
    name = unicodedata.normalize("NFC", folder)
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise DataError(f"The folder name {folder!r} has control characters or is not Unicode. Please rename it.")
    return name


def natural(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Sorts 'class 2' before 'class 10', and 'class' before both.

    >>> sorted(["dog10", "dog", "Dog2"], key=natural)
    ['dog', 'Dog2', 'dog10']
    """
    pieces = re.split(r"([0-9]+)", name)
    return [_number(piece) if index % 2 else piece.casefold() for index, piece in enumerate(pieces)], name


def _number(digits: str) -> tuple[int, str]:
    """Sorts as the number does, of any length: Python reads 4,300 digits at most."""
    bare = digits.lstrip("0")
    return len(bare), bare


def tree(names: Iterable[str]) -> dict[str, dict[str, bool]]:
    """The folders of these paths: what each holds, and whether that is a folder. A path ends in '/' for an empty one.

    >>> tree(["cat/1.jpg", "dog/"])
    {'': {'cat': True, 'dog': True}, 'cat': {'1.jpg': False}, 'dog': {}}
    """
    found: dict[str, dict[str, bool]] = {"": {}}
    for path in names:
        *folders, last = path.split("/")
        above = ""
        for folder in folders:
            found[above][folder] = True
            above = posixpath.join(above, folder)
            found.setdefault(above, {})
        if last:
            found[above].setdefault(last, False)
    return found


def _check_classes(where: str, found: tuple[str, ...], ignored: Counter[str], advice: str) -> None:
    if len(found) == 1:
        raise DataError(
            f"{where} has pictures of one class only ({found[0]!r}); a classifier needs at least two. "
            f"Put each class into a folder of its own below {where}.{_hint(ignored)}{advice}"
        )


def _hint(ignored: Counter[str]) -> str:
    parts = [f"{what}: {count}" for what, count in ignored.items()]
    outside = ignored[OUTSIDE]
    advice = " Sort them into one folder for each class." if outside else ""
    return f" Left out: {', '.join(parts)}.{advice}" if parts else ""
