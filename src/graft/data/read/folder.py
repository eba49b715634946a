"""Class folders, alone or below ready-made train / val / test folders."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.images import Files
from graft.errors import DataError
from graft.progress import Watch, unwatched
from graft_runtime.image import SUFFIXES

PARTS = {"train": TRAIN, "training": TRAIN, "val": VALID, "valid": VALID, "validation": VALID} | {
    "test": TEST,
    "testing": TEST,
}

_UNREAD = (".heic", ".heif", ".avif", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")


def read_folder(root: str | Path, classes: tuple[str, ...] | None = None, watch: Watch = unwatched) -> Dataset:
    """The pictures below `root`, one folder a class, or train/val/test folders with one folder a class in each.

    Folders inside a class folder belong to that class. Hidden files, files that are no pictures by their ending and
    pictures outside class folders are left out and counted. Each folder is visited once, so that links cannot loop.
    With `classes` given (a trained classifier's), folders are matched to them by name and others are an error.
    `watch` sees the class folders go by.

    Raises DataError: no such folder, no pictures, fewer than two classes, or names that cannot be told apart.
    """
    root = _existing(Path(root))
    ignored: Counter[str] = Counter()
    rows = sorted(_pictures(root, ignored, watch), key=lambda row: row[2])
    found = tuple(sorted({name for name, _, _ in rows}, key=natural))
    if classes is None:
        _check_classes(root, found, ignored)
    elif unknown := sorted(set(found) - set(classes)):
        raise DataError(
            f"{root} has folders that the classifier does not know: {_listed(unknown)}. It knows {_listed(classes)}."
        )
    if not rows:
        raise DataError(f"{root} holds no pictures in class folders.{_hint(ignored)}")
    order = {name: index for index, name in enumerate(classes or found)}
    paths = Files.of([path for _, _, path in rows], str(root))
    labels = np.array([order[name] for name, _, _ in rows], np.int32)
    split = np.array([part for _, part, _ in rows], np.int8)
    if (split == TRAIN).all():  # a lone train folder is not a decision about the test part
        split[:] = UNSPLIT
    return Dataset(paths, labels, classes or found, split, dict(ignored))


def _existing(root: Path) -> Path:
    if not root.exists():
        raise DataError(f"There is no folder {root}.")
    if not root.is_dir():
        raise DataError(f"{root} is a file. graft reads a folder that holds one folder of pictures for each class.")
    return root


def _pictures(root: Path, ignored: Counter[str], watch: Watch) -> Iterator[tuple[str, int, str]]:
    """(class, part of the split, path relative to root) of each picture."""
    seen: set[tuple[int, int]] = set()
    folders = _class_folders(root, seen, ignored)
    for folder, part in watch(folders, "class folders", len(folders)):
        yield from _of_class(folder, part, root, seen, ignored)


def _class_folders(root: Path, seen: set[tuple[int, int]], ignored: Counter[str]) -> list[tuple[os.DirEntry[str], int]]:
    """The folder of each class with its part of the split."""
    tops = list(_folders(root, seen, ignored))
    parts = {top.name: PARTS.get(top.name.lower(), UNSPLIT) for top in tops}
    if TRAIN not in parts.values() or (len({*parts.values()} - {UNSPLIT}) == 1 and len(tops) > 1):
        return [(top, UNSPLIT) for top in tops]
    parted = [top for top in tops if parts[top.name] != UNSPLIT]
    if len(parted) < len(tops):
        ignored["folders beside train and test"] += len(tops) - len(parted)
    return [(folder, parts[top.name]) for top in parted for folder in _folders(Path(top.path), seen, ignored)]


def _folders(folder: Path, seen: set[tuple[int, int]], ignored: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """The sub-folders; what lies beside them is counted as outside any class."""
    for entry in _entries(folder, seen, ignored):
        if _is_folder(entry):
            yield entry
        else:
            ignored["pictures outside class folders" if _is_picture(entry.name) else _kind(entry.name)] += 1


def _of_class(
    folder: os.DirEntry[str], part: int, root: Path, seen: set[tuple[int, int]], ignored: Counter[str]
) -> Iterator[tuple[str, int, str]]:
    name = _class_name(folder)
    waiting, empty = [Path(folder.path)], True
    while waiting:
        inside = waiting.pop()
        place = os.path.relpath(inside, root)  # once for a folder: it takes as long as all the rest for a picture
        for entry in _entries(inside, seen, ignored):
            if not _is_unicode(entry.name):
                ignored["names that are not Unicode"] += 1
            elif _is_folder(entry):
                waiting.append(Path(entry.path))
            elif _is_picture(entry.name):
                empty = False
                yield name, part, os.path.join(place, entry.name)
            else:
                ignored[_kind(entry.name)] += 1
    if empty:
        ignored["folders without pictures"] += 1


def _entries(folder: Path, seen: set[tuple[int, int]], ignored: Counter[str]) -> Iterator[os.DirEntry[str]]:
    """What is in a folder that was not visited before, hidden things left out, in a fixed order."""
    try:
        status = folder.stat()
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        ignored["unreadable folders"] += 1
        return
    if (status.st_dev, status.st_ino) in seen:
        ignored["folders seen before (links)"] += 1
        return
    seen.add((status.st_dev, status.st_ino))
    for entry in entries:
        if entry.name.startswith(".") or entry.name in ("Thumbs.db", "desktop.ini", "__MACOSX"):
            ignored["hidden files"] += 1
        else:
            yield entry


def _is_unicode(name: str) -> bool:
    stray = "Cs"  # Python's stand-in for a byte that is no text
    return name.isascii() or not any(unicodedata.category(letter) == stray for letter in name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _kind(name: str) -> str:
    """What to call a file that is left out."""
    return "pictures to convert to JPEG first (HEIC, AVIF, raw)" if name.lower().endswith(_UNREAD) else "other files"


def _class_name(folder: os.DirEntry[str]) -> str:
    name = unicodedata.normalize("NFC", folder.name)
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise DataError(f"The folder name {folder.name!r} has control characters or is not Unicode. Please rename it.")
    twin = Path(folder.path).parent / name
    if name != folder.name and twin.exists() and not twin.samefile(folder.path):  # macOS has both names for one
        raise DataError(f"Two folders are both called {name!r} (accents stored in two ways). Please merge them.")
    return name


def natural(name: str) -> list[str | int]:
    """Sorts 'class 2' before 'class 10'."""
    pieces = re.split(r"([0-9]+)", name)
    return [int(piece) if index % 2 else piece.casefold() for index, piece in enumerate(pieces)] + [name]


def _check_classes(root: Path, found: tuple[str, ...], ignored: Counter[str]) -> None:
    if len(found) == 1:
        raise DataError(
            f"{root} has pictures of one class only ({found[0]!r}); a classifier needs at least two. "
            f"Put each class into a folder of its own below {root}.{_hint(ignored)}"
        )


def _hint(ignored: Counter[str]) -> str:
    parts = [f"{what}: {count}" for what, count in ignored.items()]
    outside = ignored["pictures outside class folders"]
    advice = " Sort them into one folder for each class." if outside else ""
    return f" Left out: {', '.join(parts)}.{advice}" if parts else ""


def _listed(names: tuple[str, ...] | list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
