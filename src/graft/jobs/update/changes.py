"""Changes of classes and labels: correct, rename, merge, remove, add, always in this order."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.classes import join_names
from graft.data.dataset import Labels, compute_digest
from graft.data.images import ImageFiles, normalise_name
from graft.data.readers.tables import parse_cells, read_table_bytes
from graft.errors import DataError, UsageError
from graft.model.memory import EvaluationRecord, ImageRecords
from graft.progress import ProgressWrapper
from graft_runtime.image import ImageError

NameMap = dict[str, str | None]  # the new name of each class; None: it is removed


@dataclass(frozen=True)
class Changes:
    """Changes of one update. `rename` is {old: new}, `merge` is {new: the classes that become it}."""

    rename: Mapping[str, str] = field(default_factory=dict)
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remove: Sequence[str] = ()
    correct: Any = None
    add: Sequence[Any] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing changes."""
        return self.is_rename_only and not self.rename

    @property
    def is_rename_only(self) -> bool:
        """Whether only names change: images of one class stay one class, and none are added."""
        return not (self.merge or len(self.remove) or self.correct or self.add)

    def map_names(self, classes: Sequence[str]) -> NameMap:
        """Return the new name of each class. Raises UsageError for unknown classes, and for new names that exist."""
        names: NameMap = {name: name for name in classes}
        for old in self.rename:
            check_known(old, classes, "rename")
        names |= self.rename
        called = [name for name in names.values() if name is not None]
        for new in self.rename.values():
            _check_name(new)
            if called.count(new) > 1:
                raise UsageError(
                    f"There would be two classes {new!r} after renaming. To make one of both, merge them: "
                    f"--merge '{'+'.join(old for old, name in names.items() if name == new)}={new}'."
                )
        for new, parts in self.merge.items():
            names = _merge_names(names, new, parts)
        for name in self.remove:
            check_known(name, [each for each in names.values() if each is not None], "remove")
            names = {old: None if each == name else each for old, each in names.items()}
        return names


def check_known(name: str, classes: Sequence[str], what: str) -> None:
    """Raise UsageError, with similar names, for an unknown class."""
    if name not in classes:
        near = get_close_matches(name, classes, n=3)
        there = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {join_names(classes, 12)}."
        raise UsageError(f"There is no class {name!r} to {what}. {there}")


def _merge_names(names: NameMap, new: str, parts: Sequence[str]) -> NameMap:
    there = [each for each in names.values() if each is not None]
    _check_name(new)
    for part in parts:
        check_known(part, there, "merge")
    if new in there and new not in parts:
        raise UsageError(
            f"There is a class {new!r} already. To put {', '.join(parts)} into it, name it among those that are "
            f"merged: --merge '{'+'.join([*parts, new])}={new}'."
        )
    if len(set(parts)) < 2:
        raise UsageError(f"A merge takes two classes or more, as in --merge 'a+b=c'. Got {'+'.join(parts)}={new}.")
    return {old: new if each in parts else each for old, each in names.items()}


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable():
        raise UsageError(f"A class name has letters that can be printed. Got {name!r}.")


# --- labels and predictions in the new classes ------------------------------------------------------------------------


def remaining_classes(names: NameMap) -> tuple[str, ...]:
    """Return the new classes, each at the position of the first old one that becomes it."""
    return tuple(dict.fromkeys(name for name in names.values() if name is not None))


def build_index_map(names: NameMap, classes: Sequence[str]) -> NDArray[np.int32]:
    """Return the index of each old class in the new `classes`; -1 where it is removed."""
    place = {name: at for at, name in enumerate(classes)}
    return np.array([-1 if name is None else place[name] for name in names.values()], np.int32)


def remap_labels(labels: NDArray[np.integer], index_map: NDArray[np.int32], count: int) -> Labels:
    """Return labels in the new classes; -1 for an image of a removed class. Multilabel columns are merged by OR."""
    if labels.ndim == 1:
        return index_map[labels]
    found = np.zeros((len(labels), count), np.uint8)
    for old, new in enumerate(index_map.tolist()):
        if new >= 0:
            found[:, new] |= labels[:, old] > 0
    return found


def remap_predictions(
    exam: EvaluationRecord, labels: NDArray[Any], index_map: NDArray[np.int32], count: int
) -> EvaluationRecord:
    """Return the old predictions on the remaining test images, in the new classes.

    Probabilities of merged classes are added; a removed class keeps a column of its own, after the new ones. For
    multilabel, where each label has its own probability, a merged one gets the largest.
    """
    places = index_map.copy()
    places[index_map < 0] = np.arange(count, count + int((index_map < 0).sum()))
    rows = np.flatnonzero(labels >= 0) if labels.ndim == 1 else np.arange(len(labels))
    labels, probs, columns = labels[rows], exam.chances[rows], places[exam.columns[rows]]
    table = np.zeros((len(rows), int(places.max(initial=0)) + 1), np.float32)
    combine = np.add if labels.ndim == 1 else np.maximum
    combine.at(table, (np.arange(len(rows))[:, None], columns), probs)
    label_probs = table[np.arange(len(rows)), labels] if labels.ndim == 1 else np.empty(0, np.float32)
    targets = np.zeros((len(rows), table.shape[1]), np.uint8)
    if labels.ndim == 2:
        targets[:, : labels.shape[1]] = labels
    return EvaluationRecord(
        digests=exam.digests[rows],
        names=tuple(exam.names[row] for row in rows.tolist()),
        labels=labels if labels.ndim == 1 else targets,
        chances=table,
        columns=np.broadcast_to(np.arange(table.shape[1], dtype=np.int32), table.shape),
        own=label_probs,
        strange=exam.strange[rows] if len(exam.strange) else exam.strange,
    )


# --- corrections ------------------------------------------------------------------------------------------------------


def apply_corrections(
    images: ImageRecords, classes: Sequence[str], path: Path, watch: ProgressWrapper
) -> tuple[NDArray[np.integer], int]:
    """Apply a table with the columns file and label; return (labels, how many changed). Other images keep theirs.

    An image is found by its content where the file exists, relative to the table's folder, else by its name. Raises
    DataError for files that are none of the images, and UsageError for labels that are no class.
    """
    cells, labels = parse_cells(str(path), read_table_bytes(path)), images.labels.copy()
    find = _Finder(images, path.parent)
    missing, rows_of = list[str](), dict[int, tuple[str, ...]]()
    pairs = list(zip(cells.column("file"), cells.labels, strict=True))
    for file, label_names in watch(pairs, "labels", len(pairs)):
        for name in label_names:
            check_known(name, classes, f"correct {file} to")
        if labels.ndim == 1 and len(label_names) != 1:
            raise DataError(f"{path} gives {file} {len(label_names)} labels, and this classifier gives each image one.")
        rows = find(file)
        if not rows:
            missing.append(file)
        for row in rows:
            if rows_of.setdefault(row, label_names) != label_names:
                raise DataError(
                    f"{path} gives {file} two labels: {', '.join(rows_of[row])} and {', '.join(label_names)}."
                )
            given = [classes.index(name) for name in label_names]
            labels[row] = given[0] if labels.ndim == 1 else np.isin(np.arange(len(classes)), given)
    if missing:
        more = f", and {len(missing) - 5:,} more" if len(missing) > 5 else ""
        raise DataError(
            f"{path} names {len(missing):,} images that this classifier was neither trained nor tested on: "
            f"{', '.join(missing[:5])}{more}. Take these rows out, or add the images with --add."
        )
    differs = labels != images.labels
    return labels, int((differs if labels.ndim == 1 else differs.any(axis=1)).sum())


class _Finder:
    """Find the rows of images by file."""

    def __init__(self, images: ImageRecords, folder: Path) -> None:
        self._folder = folder
        self._contents: dict[bytes, list[int]] = {}
        self._names: dict[str, list[int]] = {}
        for row, (own, name) in enumerate(zip(images.digests, images.names, strict=True)):
            self._contents.setdefault(own.tobytes(), []).append(row)
            self._names.setdefault(normalise_name(os.path.normpath(name)), []).append(row)

    def __call__(self, file: str) -> list[int]:
        """Return the rows with the file's content; where it cannot be read, those whose name ends its path."""
        plain = os.path.normpath(file.replace("\\", "/"))
        try:
            return self._contents.get(compute_digest(ImageFiles.from_names([plain], str(self._folder)).read(0)), [])
        except (OSError, ImageError):
            parts = normalise_name(plain).split("/")
            endings = ("/".join(parts[at:]) for at in range(len(parts)))
            return next((self._names[ending] for ending in endings if ending in self._names), [])
