"""One class against the rest: images of the class, and images of anything else."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.data.dataset import SPLITS, Dataset, grouped
from graft.data.images import Files
from graft.data.read import foreign
from graft.data.read.folder import Disk, existing
from graft.data.read.layout import class_name, decided, whole
from graft.data.recalled import Several
from graft.errors import DataError, UsageError
from graft.progress import Watch

REST = "not "

Side = Path | Dataset  # a folder, every image below it; or what another reader made of another source


def one_vs_rest(one: Side, rest: Side, name: str, watch: Watch) -> Dataset:
    """The classes `name` and 'not `name`': all images of `one`, then those of `rest`, whatever their own labels are.

    A folder that lies inside the other one belongs to its own side alone. What the rest calls `name` is left out and
    counted. Raises DataError: the same folder twice, no images on a side, or only one side divided into parts.
    """
    folders = [existing(each).absolute() for each in (one, rest) if isinstance(each, Path)]
    if len(folders) == 2 and os.path.samefile(*folders):
        raise DataError(f"{one} cannot be both the class and the rest. Name another folder with --against.")
    root = os.path.commonpath([folder.parent for folder in folders]) if folders else ""
    first = _side(one, name, rest, root, watch)
    second = _without(name, _side(rest, REST + name, one, root, watch), rest)
    for side, data in ((one, first), (rest, second)):
        if not len(data):
            raise DataError(
                f"{_said(side)} holds no images for {data.classes[0]!r}.{_counted(data.ignored)}{_told(side)}"
            )
    _check_parts(_said(one), first, _said(rest), second)
    return _joined(first, second)


def name_of(one: Side, where: str, classes: Sequence[str] = ()) -> str:
    """What the class is called: as in a classifier of one class against the rest, else like its folder or its label."""
    if classes and tuple(classes) == (classes[0], REST + classes[0]):
        return classes[0]
    if isinstance(one, Dataset):
        if len(one.classes) == 1:
            return one.classes[0]
        if not where:
            raise UsageError(f"One class against the rest has one label. Got {len(one.classes)} of them.")
        return class_name(Path(where).name.partition(".")[0])
    return class_name(one.absolute().name)


def _side(side: Side, name: str, other: Side, root: str, watch: Watch) -> Dataset:
    """All images of one side under one name; those of a folder with paths below `root`."""
    if isinstance(side, Dataset):
        return replace(side, labels=np.zeros(len(side), np.int32), classes=(name,))
    ignored: Counter[str] = Counter()
    disk = Disk(side, ignored, other if isinstance(other, Path) else None)
    rows = sorted(watch(whole(name, disk, ignored), "files found", 0), key=lambda row: row.path)
    below = os.path.relpath(side.absolute(), root)
    files = Files.of([os.path.join(below, row.path) for row in rows], root)
    return Dataset(files, np.zeros(len(rows), np.int32), (name,), decided([row.part for row in rows]), dict(ignored))


def _without(name: str, found: Dataset, rest: Side) -> Dataset:
    """The rest without what it calls by the name of the class: in folders, or with labels, of that name."""
    if isinstance(rest, Path):
        paths = (os.path.relpath(os.path.join(found.root, each), rest.absolute()) for each in found.names())
        same = np.array([name in map(_composed, Path(path).parts[:-1]) for path in paths], bool)
    elif name in rest.classes:
        same = rest.targets()[:, rest.classes.index(name)] > 0
    else:
        return found
    ignored = {f"images of {name!r} among the rest": int(same.sum())} if same.any() else {}
    return replace(found.take(~same), ignored=found.ignored | ignored)


def _composed(folder: str) -> str:
    return unicodedata.normalize("NFC", folder)


def _check_parts(one: str, first: Dataset, rest: str, second: Dataset) -> None:
    """Raises DataError where one side alone is divided: no score could be of both classes."""
    parts = [sorted({SPLITS[code] for code in data.split.tolist()} - {""}) for data in (first, second)]
    if bool(parts[0]) != bool(parts[1]):
        divided, other = (one, rest) if parts[0] else (rest, one)
        raise DataError(f"{divided} is divided into {', '.join(parts[0] or parts[1])}, {other} is not: divide both.")


def _joined(first: Dataset, second: Dataset) -> Dataset:
    images = (first.images, second.images)
    files = [each for each in images if isinstance(each, Files)]
    same = len(files) == 2 and files[0].root == files[1].root
    ignored = Counter(first.ignored) + Counter(second.ignored)
    return Dataset(
        Files(np.concatenate([each.names for each in files]), files[0].root) if same else Several.of(images),
        np.repeat(np.arange(2, dtype=np.int32), [len(first), len(second)]),
        (*first.classes, *second.classes),
        np.concatenate([first.split, second.split]),
        dict(ignored),
        grouped(first, second),
    )


def _said(side: Side) -> str:
    return str(side) if isinstance(side, Path) else side.root or "This source"


def _told(side: Side) -> str:
    """What a folder without images holds instead."""
    said = foreign.told(path.name for path in side.rglob("*") if path.is_file()) if isinstance(side, Path) else ""
    return f" {said}" if said else ""


def _counted(ignored: dict[str, int]) -> str:
    listed = ", ".join(f"{what}: {count}" for what, count in ignored.items())
    return f" Left out: {listed}." if listed else ""
