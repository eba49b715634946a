"""Labels put right: a table of files and labels, as `graft check --fix` writes one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import digest
from graft.data.images import Files
from graft.data.read.place import composed
from graft.data.read.table import cells_of, content
from graft.errors import DataError
from graft.jobs.update.changes import check_known
from graft.model.memory import Pictures
from graft.progress import Watch
from graft_runtime.image import ImageError


def corrected(pictures: Pictures, classes: Sequence[str], path: Path, watch: Watch) -> tuple[NDArray[np.integer], int]:
    """(labels, how many changed) after a table with the columns file and label; pictures that it leaves out stay.

    A picture is found by its content where the file is there, seen from the table's folder, else by its name. Raises
    DataError for files that are none of the pictures, and UsageError for labels that are no class.
    """
    cells, labels = cells_of(str(path), content(path)), pictures.labels.copy()
    find = _Finder(pictures, path.parent)
    lost, rows_of = list[str](), dict[int, tuple[str, ...]]()
    pairs = list(zip(cells.column("file"), cells.labels, strict=True))
    for file, said in watch(pairs, "labels", len(pairs)):
        for name in said:
            check_known(name, classes, f"correct {file} to")
        if labels.ndim == 1 and len(said) != 1:
            raise DataError(f"{path} gives {file} {len(said)} labels, and this classifier gives each picture one.")
        rows = find(file)
        if not rows:
            lost.append(file)
        for row in rows:
            if rows_of.setdefault(row, said) != said:
                raise DataError(f"{path} gives {file} two labels: {', '.join(rows_of[row])} and {', '.join(said)}.")
            given = [classes.index(name) for name in said]
            labels[row] = given[0] if labels.ndim == 1 else np.isin(np.arange(len(classes)), given)
    if lost:
        more = f", and {len(lost) - 5:,} more" if len(lost) > 5 else ""
        raise DataError(
            f"{path} names {len(lost):,} pictures that this classifier was neither trained nor tested on: "
            f"{', '.join(lost[:5])}{more}. Take these rows out, or add the pictures with --add."
        )
    differs = labels != pictures.labels
    return labels, int((differs if labels.ndim == 1 else differs.any(axis=1)).sum())


class _Finder:
    """Rows of the pictures by their file."""

    def __init__(self, pictures: Pictures, folder: Path) -> None:
        self._folder = folder
        self._contents: dict[bytes, list[int]] = {}
        self._names: dict[str, list[int]] = {}
        for row, (own, name) in enumerate(zip(pictures.digests, pictures.names, strict=True)):
            self._contents.setdefault(own.tobytes(), []).append(row)
            self._names.setdefault(composed(os.path.normpath(name)), []).append(row)

    def __call__(self, file: str) -> list[int]:
        """Those with its content; where it is not there, those whose name ends its path."""
        plain = os.path.normpath(file.replace("\\", "/"))
        try:
            return self._contents.get(digest(Files.of([plain], str(self._folder)).read(0)), [])
        except (OSError, ImageError):
            steps = composed(plain).split("/")
            ways = ("/".join(steps[at:]) for at in range(len(steps)))
            return next((self._names[way] for way in ways if way in self._names), [])
