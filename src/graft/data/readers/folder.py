"""Class folders on the disk, alone or below ready-made train / val / test folders."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.data.classes import join_names, matched
from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.images import Files, Images
from graft.data.readers import place
from graft.errors import DataError
from graft.progress import Watch, unwatched
from graft_runtime.formats import advise_by_name
from graft_runtime.walk import LOCK, Visits, is_folder, is_hidden, is_image

OUTER, INNER = "outer", "inner"  # as in --columns label=inner
LOOSE = 0.05  # share of the images that lie in a class folder itself, beside folders that may be classes


class Row(NamedTuple):
    """An image: its class, its part of the split, its path below the root, the folders between it and the class's."""

    label: str
    part: int
    path: str
    inside: tuple[str, ...] = ()


def level_of(columns: str) -> str:
    """'inner' or 'outer' where these options say nothing else than which folders are the classes; else ''."""
    said = columns.replace(" ", "").removeprefix("label=")
    return said if said in (OUTER, INNER) and columns.strip().startswith("label") else ""


def settled(
    where: str, rows: Sequence[Row], parts: Mapping[str, int], classes: tuple[str, ...] | None, level: str
) -> list[Row]:
    """The rows with parts found inside class folders, and with the inner folders as classes where these are meant.

    Where every class folder has folders of the same names, `level` or a classifier's `classes` say which of the two
    are the classes. Raises DataError where nothing does.
    """
    rows = _parted(rows, parts)
    if level == INNER:
        if lost := next((row for row in rows if not row.inside), None):
            raise DataError(f"{lost.path} in {where} lies in no inner folder, which label=inner takes for the class.")
        return _inner(rows)
    same = _same(rows)
    if not same or level == OUTER:
        return list(rows)
    outer = sorted({row.label for row in rows})
    if classes and set(outer) <= set(classes):
        return list(rows)
    if classes and same <= {name.casefold() for name in classes}:
        return _inner(rows)
    inner = sorted({row.inside[0] for row in rows if row.inside})
    raise DataError(
        f"{where} has folders of the same names inside each of its folders, so it can be read in two ways: "
        f"{len(outer)} classes {join_names(outer, 5)}, with --columns label={OUTER}; or {len(inner)} classes "
        f"{join_names(inner, 5)}, with --columns label={INNER}. In Python columns='label={INNER}'. "
        f"Or name one of the folders, as in {where}/{outer[0]}."
    )


def _parted(rows: Sequence[Row], parts: Mapping[str, int]) -> Sequence[Row]:
    """Rows whose class folders each hold train and test folders, with these as the parts."""
    first = [parts.get(row.inside[0].lower(), UNSPLIT) if row.inside else UNSPLIT for row in rows]
    whole = {row.label for row, part in zip(rows, first, strict=True) if part == TRAIN} == {row.label for row in rows}
    if UNSPLIT in first or len(set(first)) < 2 or not whole or any(row.part != UNSPLIT for row in rows):
        return rows
    return [row._replace(part=part, inside=row.inside[1:]) for row, part in zip(rows, first, strict=True)]


def _same(rows: Sequence[Row]) -> set[str]:
    """The names, without capitals, that folders inside every class folder have; none unless that is a sign."""
    inside: dict[str, set[str]] = {row.label: set() for row in rows}
    for row in rows:
        inside[row.label].update(row.inside[:1])
    names = [{name.casefold() for name in each} for each in inside.values()]
    if len(names) < 2 or sum(not row.inside for row in rows) > LOOSE * len(rows):
        return set()
    common, every = set.intersection(*names), set.union(*names)
    return common if len(common) > 1 and 2 * len(common) >= len(every) else set()


def _inner(rows: Sequence[Row]) -> list[Row]:
    return [row._replace(label=row.inside[0], inside=row.inside[1:]) for row in rows]


PARTS = {"train": TRAIN, "training": TRAIN, "val": VALID, "valid": VALID, "validation": VALID} | {
    "test": TEST,
    "testing": TEST,
}

TABLE = "labels.csv"  # what makes a folder a table's folder
OUTSIDE = "images outside class folders"
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
    """The images in the class folders of a listing, in the order of their paths; `column` finds them by these.

    `where` is what to call the place in an error, and `advice` ends one about too few classes; `ignored` counts what
    the listing left out, and goes on counting; `level` says which folders are the classes where these lie in others
    (see `nested`). Raises DataError: no images, fewer than two classes, or names that
    cannot be told apart.
    """
    others: list[str] = []
    noted = _noted(listing, others)
    rows = sorted(watch(_images(root, noted, ignored), "files found", 0), key=lambda row: row.path)
    rows = settled(where, rows, PARTS, classes, level)
    found = tuple(sorted({row.label for row in rows}, key=natural))
    if classes is None:
        _check_classes(where, found, ignored, advice)
    if not rows:
        said = place.told(others)
        advice = advice if ignored[OUTSIDE] else f" {said}" if said else ""
        raise DataError(f"{where} holds no images in class folders.{_hint(ignored)}{advice}")
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


def _images(root: str, listing: Listing, ignored: Counter[str]) -> Iterator[Row]:
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
        ignored[f"{EMPTY} ({join_names(names)})"] = len(empty)


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
            f"{where} has images of one class only ({found[0]!r}); a classifier needs at least two. "
            f"Put each class into a folder of its own below {where}.{_hint(ignored)}{advice}"
        )


def _hint(ignored: Counter[str]) -> str:
    parts = [f"{what}: {count}" for what, count in ignored.items()]
    outside = ignored[OUTSIDE]
    advice = " Sort them into one folder for each class." if outside else ""
    return f" Left out: {', '.join(parts)}.{advice}" if parts else ""


def read_folder(
    root: str | Path, classes: tuple[str, ...] | None = None, watch: Watch = unwatched, level: str = ""
) -> Dataset:
    """The images below `root`, one folder a class, or train/val/test folders with one folder a class in each.

    Folders inside a class folder belong to that class, or are its parts where each class folder has train and test
    folders. Where they have the same names in every class folder, `level` says which are the classes: 'outer' or
    'inner'. Hidden files, files that are no images by their ending and
    images outside class folders are left out and counted. Each folder is visited once, so that links cannot loop.
    With `classes` given (a trained classifier's), folders are matched to them by name and others follow after.

    Raises DataError: no such folder, no images, fewer than two classes, names that cannot be told apart, or folders
    that can be read in two ways.
    """
    root = existing(Path(root))
    ignored: Counter[str] = Counter()
    return arranged(
        str(root),
        Disk(root, ignored),
        lambda paths: Files.of(paths, str(root)),
        classes=classes,
        ignored=ignored,
        watch=watch,
        level=level,
        advice=" Or, for one class against the rest, add --against OTHERS, a folder of images of anything else.",
    )


def loose(path: Path) -> list[str]:
    """The images that lie in a folder itself, sorted, where it has no folders and no table."""
    if not path.is_dir() or (path / TABLE).exists():
        return []
    entries = sorted(entry for entry in os.listdir(path) if not is_hidden(entry))
    if any((path / entry).is_dir() for entry in entries):
        return []
    return [entry for entry in entries if is_image(entry)]


def existing(root: Path) -> Path:
    """The folder; DataError where there is none."""
    if not root.exists():
        raise DataError(f"There is no folder {root}.")
    if not root.is_dir():
        if said := place.advice([root.suffix.lower()]):
            raise DataError(f"{root} is no image nor a folder of images: {said}.")
        if said := advise_by_name(root.name):
            raise DataError(f"{root}: {said}.")
        raise DataError(
            f"{root} is a file. graft reads a folder that holds one folder of images for each class, "
            f"a table (.csv, .tsv, .parquet) or an archive (.zip, .tar, .tar.gz)."
        )
    return root


@dataclass(frozen=True)
class Disk:
    """What is in a folder that was not visited before, hidden things left out, in a fixed order.

    `apart` is a folder that something else is read from: it is passed over wherever it lies.
    """

    root: Path
    ignored: Counter[str]
    apart: Path | None = None
    visits: Visits = field(default_factory=Visits)

    def __call__(self, path: str) -> Iterator[Entry]:
        try:
            entries = self.visits.entries(self.root / path)
        except OSError:
            self.ignored["unreadable folders"] += 1
            return
        if entries is None:
            self.ignored["folders seen before (links)"] += 1
            return
        for entry in entries:
            if LOCK.fullmatch(entry.name):
                continue
            if is_hidden(entry.name):
                self.ignored["hidden files"] += 1
            elif not ((inside := is_folder(entry)) and self.apart and os.path.samefile(entry.path, self.apart)):
                yield Entry(entry.name, os.path.join(path, entry.name), inside)
