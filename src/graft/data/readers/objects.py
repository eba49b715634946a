"""Objects marked in images: as several labels for each image, or each box as an image of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import UNSPLIT, Dataset
from graft.data.images import Crops, Files
from graft.data.readers.columns import matrix
from graft.data.readers.folder import natural
from graft.errors import DataError

FAR = 10**9  # pixels; whatever lies further out is as good as there, and fits in 32 bits


@dataclass(frozen=True, eq=False)
class Objects:
    """Images, and one row for each object in them: columns, because data sets have millions.

    `names` are the images' files below `root`, `parts` int8 [images] their codes of the split. For each of the m
    objects, `owner` [m] is the row of its image, `kind` [m] the index of its class in `classes`, `boxes` float
    [m, 4] left, top, right and bottom in pixels (right and bottom are the first ones outside), and `unfit` [m] marks
    what is no good image of its class.
    """

    root: Path
    names: Sequence[str]
    parts: NDArray[np.int8]
    owner: NDArray[np.intp]
    kind: NDArray[np.intp]
    boxes: NDArray[np.float64]
    unfit: NDArray[np.bool_]
    classes: list[str]


def as_dataset(found: Objects, ignored: dict[str, int], *, boxes: bool, unfit: str) -> Dataset:
    """The images with the classes of their objects, or with `boxes` the objects one by one.

    `unfit` is what to call the objects that are left out as images of their own. Classes without an object are left
    out. Raises DataError where nothing is left.
    """
    if not len(found.names):
        raise DataError(f"{found.root} holds no images with annotations.{_said(ignored)}")
    data = _crops(found, ignored, unfit) if boxes else _whole(found, ignored)
    if not data.classes:
        raise DataError(f"{found.root} marks no object in any image.{_said(data.ignored)}")
    return data


def _whole(found: Objects, ignored: dict[str, int]) -> Dataset:
    classes, kind = _classes(found.classes, found.kind)
    shown: list[set[str]] = [set() for _ in found.names]
    for owner, at in zip(found.owner.tolist(), kind.tolist(), strict=True):
        shown[owner].add(classes[at])
    labels = matrix([tuple(each) for each in shown], classes)
    return Dataset(Files.of(found.names, str(found.root)), labels, classes, decided(found.parts), ignored)


def _crops(found: Objects, ignored: dict[str, int], called: str) -> Dataset:
    """Each object as an image; those of one image are a group, so that no split divides them."""
    box, unfit = found.boxes, found.unfit
    flat = ~((box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]))  # or not a number
    keep = ~(unfit | flat)
    owner = found.owner[keep]
    classes, kind = _classes(found.classes, found.kind[keep])
    edges = np.concatenate([np.floor(box[keep, :2]), np.ceil(box[keep, 2:])], axis=1).clip(-FAR, FAR)
    counts = {called: int(unfit.sum()), "boxes without an area": int((flat & ~unfit).sum())}
    return Dataset(
        Crops(Files.of(found.names, str(found.root)).take(owner), edges.astype(np.int32)),
        kind.astype(np.int32),
        classes,
        decided(found.parts[owner]),
        ignored | {what: count for what, count in counts.items() if count},
        owner.astype(np.int64),
    )


def _classes(names: list[str], kind: NDArray[np.intp]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The classes that occur, sorted, and the objects' classes as indices into them."""
    seen: list[int] = sorted(map(int, np.unique(kind)), key=lambda index: natural(names[index]))
    order = np.full(len(names), -1, np.intp)
    order[seen] = np.arange(len(seen))
    return tuple(names[index] for index in seen), order[kind]


def decided(parts: NDArray[np.integer]) -> NDArray[np.int8]:
    """A split of a single part decides nothing about the test part: then it is none."""
    split = parts.astype(np.int8)
    return np.full_like(split, UNSPLIT) if len(np.unique(split)) == 1 else split


def _said(ignored: dict[str, int]) -> str:
    parts = [f"{what}: {count:,}" for what, count in ignored.items()]
    return f" Left out: {', '.join(parts)}." if parts else ""
