"""Class folders, alone or below train / val / test folders."""

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

from graft.data.classes import join_names, match_classes
from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.images import ImageFiles, Images, describe_foreign_files, format_advice
from graft.errors import DataError
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.formats import advise_by_name
from graft_runtime.walk import LOCK, Visits, is_folder, is_hidden, is_image

OUTER, INNER = "outer", "inner"  # as in --columns label=inner
MAX_LOOSE_SHARE = 0.05  # share of the images that lie in a class folder itself, beside folders that may be classes


class LabelledFile(NamedTuple):
    """An image: its class, its part of the split, its path below the root, the folders between it and the class's."""

    label: str
    split: int
    path: str
    subfolders: tuple[str, ...] = ()


def parse_level(columns: str) -> str:
    """'inner' or 'outer' where these options say nothing else than which folders are the classes; else ''."""
    said = columns.replace(" ", "").removeprefix("label=")
    return said if said in (OUTER, INNER) and columns.strip().startswith("label") else ""


def resolve_levels(
    where: str, rows: Sequence[LabelledFile], parts: Mapping[str, int], classes: tuple[str, ...] | None, level: str
) -> list[LabelledFile]:
    """Apply splits found inside class folders, and use the inner folders as classes where these are meant.

    Where every class folder has folders of the same names, `level` or a classifier's `classes` say which of the two
    are the classes. Raises DataError where nothing does.
    """
    rows = _apply_inner_split(rows, parts)
    if level == INNER:
        if lost := next((row for row in rows if not row.subfolders), None):
            raise DataError(f"{lost.path} in {where} lies in no inner folder, which label=inner takes for the class.")
        return _use_inner_classes(rows)
    shared_names = _shared_names(rows)
    if not shared_names or level == OUTER:
        return list(rows)
    outer = sorted({row.label for row in rows})
    if classes and set(outer) <= set(classes):
        return list(rows)
    if classes and shared_names <= {name.casefold() for name in classes}:
        return _use_inner_classes(rows)
    inner = sorted({row.subfolders[0] for row in rows if row.subfolders})
    raise DataError(
        f"{where} has folders of the same names inside each of its folders, so it can be read in two ways: "
        f"{len(outer)} classes {join_names(outer, 5)}, with --columns label={OUTER}; or {len(inner)} classes "
        f"{join_names(inner, 5)}, with --columns label={INNER}. In Python columns='label={INNER}'. "
        f"Or name one of the folders, as in {where}/{outer[0]}."
    )


def _apply_inner_split(rows: Sequence[LabelledFile], parts: Mapping[str, int]) -> Sequence[LabelledFile]:
    """Rows whose class folders each hold train and test folders, with these as the parts."""
    first = [parts.get(row.subfolders[0].lower(), UNSPLIT) if row.subfolders else UNSPLIT for row in rows]
    whole = {row.label for row, part in zip(rows, first, strict=True) if part == TRAIN} == {row.label for row in rows}
    if UNSPLIT in first or len(set(first)) < 2 or not whole or any(row.split != UNSPLIT for row in rows):
        return rows
    return [row._replace(split=part, subfolders=row.subfolders[1:]) for row, part in zip(rows, first, strict=True)]


def _shared_names(rows: Sequence[LabelledFile]) -> set[str]:
    """The names, without capitals, that folders inside every class folder have; none unless that is a sign."""
    inside: dict[str, set[str]] = {row.label: set() for row in rows}
    for row in rows:
        inside[row.label].update(row.subfolders[:1])
    names = [{name.casefold() for name in each} for each in inside.values()]
    if len(names) < 2 or sum(not row.subfolders for row in rows) > MAX_LOOSE_SHARE * len(rows):
        return set()
    common, every = set.intersection(*names), set.union(*names)
    return common if len(common) > 1 and 2 * len(common) >= len(every) else set()


def _use_inner_classes(rows: Sequence[LabelledFile]) -> list[LabelledFile]:
    return [row._replace(label=row.subfolders[0], subfolders=row.subfolders[1:]) for row in rows]


SPLIT_FOLDERS = {"train": TRAIN, "training": TRAIN, "val": VALID, "valid": VALID, "validation": VALID} | {
    "test": TEST,
    "testing": TEST,
}

TABLE_NAME = "labels.csv"  # what makes a folder a table's folder
OUTSIDE_CLASSES = "images outside class folders"
OTHER_FILES = "other files"
EMPTY_FOLDERS = "folders without images"


class FolderEntry(NamedTuple):
    """An entry of a folder: its name, its path below the root, and whether it is a folder itself."""

    name: str
    path: str
    is_folder: bool


ListFolder = Callable[[str], Iterable[FolderEntry]]  # what is in a folder, by its path below the root, in a fixed order


def read_class_folders(
    where: str,
    listing: ListFolder,
    column: Callable[[list[str]], Images],
    classes: tuple[str, ...] | None,
    ignored: Counter[str],
    root: str = "",
    watch: ProgressWrapper = no_progress,
    advice: str = "",
    level: str = "",
) -> Dataset:
    """Read the class folders of a listing, in the order of their paths; `column` opens images by path.

    `where` is what to call the place in an error, and `advice` ends one about too few classes; `ignored` counts what
    the listing left out, and goes on counting; `level` says which folders are the classes where these lie in others
    (see `resolve_levels`). Raises DataError: no images, fewer than two classes, or names that
    cannot be told apart.
    """
    others: list[str] = []
    noted = _record_other_files(listing, others)
    rows = sorted(watch(_find_images(root, noted, ignored), "files found", 0), key=lambda row: row.path)
    rows = resolve_levels(where, rows, SPLIT_FOLDERS, classes, level)
    found = tuple(sorted({row.label for row in rows}, key=natural_key))
    if classes is None:
        _check_classes(where, found, ignored, advice)
    if not rows:
        message = describe_foreign_files(others)
        advice = advice if ignored[OUTSIDE_CLASSES] else f" {message}" if message else ""
        raise DataError(f"{where} holds no images in class folders.{_format_ignored(ignored)}{advice}")
    known = found if classes is None else match_classes(where, found, classes)
    order = {name: index for index, name in enumerate(known)}
    labels = np.array([order[row.label] for row in rows], np.int32)
    split = normalise_split([row.split for row in rows])
    message = f"label={level}" if level else ""
    return Dataset(column([row.path for row in rows]), labels, known, split, dict(ignored), columns=message)


def normalise_split(parts: list[int]) -> NDArray[np.int8]:
    """Return the split column; if all is TRAIN, UNSPLIT: training alone does not define the test part."""
    split = np.array(parts, np.int8)
    if (split == TRAIN).all():
        split[:] = UNSPLIT
    return split


def _find_images(root: str, listing: ListFolder, ignored: Counter[str]) -> Iterator[LabelledFile]:
    empty = list[str]()
    top_folders = list(_list_folders(root, listing, ignored))
    if parts := _split_folders(top_folders):
        for top in top_folders:
            if parts[top.name] == UNSPLIT:
                ignored["folders beside train and test"] += 1
                continue
            inside = list(_list_folders(top.path, listing, ignored))
            yield from _walk_classes(inside, parts[top.name], listing, ignored, empty)
    else:
        yield from _walk_classes(top_folders, UNSPLIT, listing, ignored, empty)
    _count_empty(empty, root, ignored)


def _count_empty(empty: list[str], root: str, ignored: Counter[str]) -> None:
    """Names the class folders without an image, for their class is missing in what is learnt."""
    if empty:
        names = sorted((posixpath.relpath(path, root or ".") for path in empty), key=natural_key)
        ignored[f"{EMPTY_FOLDERS} ({join_names(names)})"] = len(empty)


def _record_other_files(listing: ListFolder, others: list[str]) -> ListFolder:
    """The same listing, which notes the files in it that are no images."""

    def listing_with_record(folder: str) -> Iterator[FolderEntry]:
        for entry in listing(folder):
            if not entry.is_folder and not is_image(entry.name):
                others.append(entry.name)
            yield entry

    return listing_with_record


def _split_folders(tops: list[FolderEntry]) -> dict[str, int]:
    """The part of the split that each of these folders is; empty where they are no train / val / test folders."""
    parts = {top.name: SPLIT_FOLDERS.get(top.name.lower(), UNSPLIT) for top in tops}
    divided = TRAIN in parts.values() and (len({*parts.values()} - {UNSPLIT}) > 1 or len(tops) == 1)
    return parts if divided else {}


def find_all_images(name: str, listing: ListFolder, ignored: Counter[str]) -> Iterator[LabelledFile]:
    """Yield every image of a listing as one class, in any folder; train / val / test folders are its parts."""
    entries, empty = list(listing("")), list[str]()
    parts = _split_folders([entry for entry in entries if entry.is_folder])
    for entry in entries:
        if entry.is_folder and parts.get(entry.name) == UNSPLIT:
            ignored["folders beside train and test"] += 1
        elif entry.is_folder:
            yield from _walk_class(name, entry, parts.get(entry.name, UNSPLIT), listing, ignored, empty)
        elif not is_image(entry.name):
            ignored[OTHER_FILES] += 1
        elif parts:
            ignored[OUTSIDE_CLASSES] += 1
        else:
            yield LabelledFile(name, UNSPLIT, entry.path)
    _count_empty(empty, "", ignored)


def _list_folders(folder: str, listing: ListFolder, ignored: Counter[str]) -> Iterator[FolderEntry]:
    """The sub-folders; what lies beside them is counted as outside any class."""
    for entry in listing(folder):
        if entry.is_folder:
            yield entry
        else:
            ignored[OUTSIDE_CLASSES if is_image(entry.name) else OTHER_FILES] += 1


def _walk_classes(
    folders: list[FolderEntry], part: int, listing: ListFolder, ignored: Counter[str], empty: list[str]
) -> Iterator[LabelledFile]:
    """What the folders that stand side by side hold, each the class that it is called."""
    names = [class_name(folder.name) for folder in folders]
    if twin := next((name for name, count in Counter(names).items() if count > 1), None):
        raise DataError(f"Two folders are both called {twin!r} (accents stored in two ways). Please merge them.")
    for name, folder in zip(names, folders, strict=True):
        yield from _walk_class(name, folder, part, listing, ignored, empty)


def _walk_class(
    name: str, folder: FolderEntry, part: int, listing: ListFolder, ignored: Counter[str], empty: list[str]
) -> Iterator[LabelledFile]:
    waiting, found = [(folder.path, tuple[str, ...]())], False
    while waiting:
        path, inside = waiting.pop()
        for entry in listing(path):
            if not is_unicode(entry.name):
                ignored["names that are not Unicode"] += 1
            elif entry.is_folder:
                waiting.append((entry.path, (*inside, class_name(entry.name))))
            elif is_image(entry.name):
                found = True
                yield LabelledFile(name, part, entry.path, inside)
            else:
                ignored[OTHER_FILES] += 1
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


def natural_key(name: str) -> tuple[list[str | tuple[int, str]], str]:
    """Return a natural sort key: 'class 2' before 'class 10', and 'class' before both.

    >>> sorted(["dog10", "dog", "Dog2"], key=natural_key)
    ['dog', 'Dog2', 'dog10']
    """
    pieces = re.split(r"([0-9]+)", name)
    return [_number_key(piece) if index % 2 else piece.casefold() for index, piece in enumerate(pieces)], name


def _number_key(digits: str) -> tuple[int, str]:
    """Sorts as the number does, of any length: Python reads 4,300 digits at most."""
    bare = digits.lstrip("0")
    return len(bare), bare


def build_tree(names: Iterable[str]) -> dict[str, dict[str, bool]]:
    """Build the folder tree of these paths: what each holds, and whether that is a folder. An empty one ends in '/'.

    >>> build_tree(["cat/1.jpg", "dog/"])
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
            f"Put each class into a folder of its own below {where}.{_format_ignored(ignored)}{advice}"
        )


def _format_ignored(ignored: Counter[str]) -> str:
    parts = [f"{what}: {count}" for what, count in ignored.items()]
    outside = ignored[OUTSIDE_CLASSES]
    advice = " Sort them into one folder for each class." if outside else ""
    return f" Left out: {', '.join(parts)}.{advice}" if parts else ""


def read_folder(
    root: str | Path, classes: tuple[str, ...] | None = None, watch: ProgressWrapper = no_progress, level: str = ""
) -> Dataset:
    """Read the images below `root`, one folder a class, or train/val/test folders with one folder a class in each.

    Folders inside a class folder belong to that class, or are its parts where each class folder has train and test
    folders. Where they have the same names in every class folder, `level` says which are the classes: 'outer' or
    'inner'. Hidden files, files that are no images by their ending and
    images outside class folders are left out and counted. Each folder is visited once, so that links cannot loop.
    With `classes` given (a trained classifier's), folders are matched to them by name and others follow after.

    Raises DataError: no such folder, no images, fewer than two classes, names that cannot be told apart, or folders
    that can be read in two ways.
    """
    root = check_folder(Path(root))
    ignored: Counter[str] = Counter()
    return read_class_folders(
        str(root),
        FolderListing(root, ignored),
        lambda paths: ImageFiles.from_names(paths, str(root)),
        classes=classes,
        ignored=ignored,
        watch=watch,
        level=level,
        advice=" Or, for one class against the rest, add --against OTHERS, a folder of images of anything else.",
    )


def list_loose_images(path: Path) -> list[str]:
    """The images that lie in a folder itself, sorted, where it has no folders and no table."""
    if not path.is_dir() or (path / TABLE_NAME).exists():
        return []
    entries = sorted(entry for entry in os.listdir(path) if not is_hidden(entry))
    if any((path / entry).is_dir() for entry in entries):
        return []
    return [entry for entry in entries if is_image(entry)]


def check_folder(root: Path) -> Path:
    """The folder; DataError where there is none."""
    if not root.exists():
        raise DataError(f"There is no folder {root}.")
    if not root.is_dir():
        if reason := format_advice([root.suffix.lower()]):
            raise DataError(f"{root} is no image nor a folder of images: {reason}.")
        if reason := advise_by_name(root.name):
            raise DataError(f"{root}: {reason}.")
        raise DataError(
            f"{root} is a file. graft reads a folder that holds one folder of images for each class, "
            f"a table (.csv, .tsv, .parquet) or an archive (.zip, .tar, .tar.gz)."
        )
    return root


@dataclass(frozen=True)
class FolderListing:
    """Lists folders that were not visited before, without hidden entries, in a fixed order.

    `excluded` is a folder that something else is read from: it is skipped wherever it lies.
    """

    root: Path
    ignored: Counter[str]
    excluded: Path | None = None
    visits: Visits = field(default_factory=Visits)

    def __call__(self, path: str) -> Iterator[FolderEntry]:
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
            elif not ((inside := is_folder(entry)) and self.excluded and os.path.samefile(entry.path, self.excluded)):
                yield FolderEntry(entry.name, os.path.join(path, entry.name), inside)
