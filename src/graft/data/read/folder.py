"""Class folders on the disk, alone or below ready-made train / val / test folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.dataset import Dataset
from graft.data.images import Files
from graft.data.read import foreign
from graft.data.read.layout import TABLE, Entry, arranged
from graft.errors import DataError
from graft.progress import Watch, unwatched
from graft_runtime.kinds import of_name
from graft_runtime.walk import LOCK, Visits, is_folder, is_hidden, is_image


def read_folder(
    root: str | Path, classes: tuple[str, ...] | None = None, watch: Watch = unwatched, level: str = ""
) -> Dataset:
    """The pictures below `root`, one folder a class, or train/val/test folders with one folder a class in each.

    Folders inside a class folder belong to that class, or are its parts where each class folder has train and test
    folders. Where they have the same names in every class folder, `level` says which are the classes: 'outer' or
    'inner'. Hidden files, files that are no pictures by their ending and
    pictures outside class folders are left out and counted. Each folder is visited once, so that links cannot loop.
    With `classes` given (a trained classifier's), folders are matched to them by name and others follow after.

    Raises DataError: no such folder, no pictures, fewer than two classes, names that cannot be told apart, or folders
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
        if said := foreign.advice([root.suffix.lower()]):
            raise DataError(f"{root} is no image nor a folder of images: {said}.")
        if said := of_name(root.name):
            raise DataError(f"{root}: {said}.")
        raise DataError(
            f"{root} is a file. graft reads a folder that holds one folder of pictures for each class, "
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
