"""Pictures that an update adds: class folders, or a folder of loose pictures that is one class, or any other source."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Dataset, Labels, grouped
from graft.data.images import Files
from graft.data.lookalikes import followers
from graft.data.read.folder import loose
from graft.data.read.source import read_source
from graft.data.recalled import Several
from graft.errors import DataError
from graft.progress import Watch
from graft_runtime.card import MULTILABEL


def joined(old: Dataset, source: Any, watch: Watch) -> Dataset:
    """The pictures of a classifier, and after them those of a source; classes that it does not have follow its own.

    Raises DataError for a source without pictures, with classes that are only spelt in another way, or with labels of
    the other kind; and for new labels where a picture may have several, as nobody has said who of the old ones do.
    """
    new = _read(source, watch)
    where = new.root or "what is added"
    classes = (*old.classes, *followers(where, new.classes, old.classes))
    several = old.task == MULTILABEL
    if several and len(classes) > len(old.classes):
        raise DataError(
            f"{where} has the label {classes[len(old.classes)]!r}, which is new, and where a picture may have several "
            "nobody has said which of the old ones show it too. Label all of them, and run `graft fit`."
        )
    if new.task == MULTILABEL and not several:
        raise DataError(f"{where} gives pictures several labels, and this classifier gives each picture one.")
    order = np.array([classes.index(name) for name in new.classes], np.int32)
    added = _labels(new, order, len(classes)) if several else order[new.labels]
    labels: Labels = np.concatenate([old.labels, added])  # pyright: ignore[reportAssignmentType]  # both of one kind
    return Dataset(
        Several.of((old.images, new.images)),
        labels,
        classes,
        np.concatenate([old.split, new.split]),
        {what: old.ignored.get(what, 0) + new.ignored.get(what, 0) for what in (*old.ignored, *new.ignored)},
        grouped(old, new),
        new.columns or old.columns,
    )


def _read(source: Any, watch: Watch) -> Dataset:
    if isinstance(source, str | Path) and (names := loose(Path(source))):
        folder = Path(source).absolute()
        files = Files.of([f"{folder.name}/{name}" for name in names], str(folder.parent))
        one = np.zeros(len(names), np.int32)
        return Dataset(files, one, (unicodedata.normalize("NFC", folder.name),), one.astype(np.int8))
    return read_source(source, (), watch=watch)


def _labels(new: Dataset, order: NDArray[np.int32], count: int) -> NDArray[np.uint8]:
    """Several labels for each picture, in the numbers of all classes."""
    found = np.zeros((len(new), count), np.uint8)
    found[:, order] = new.targets()
    return found
