"""Objects marked in images: as several labels for each image, or each box as an image of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import UNSPLIT, Dataset
from graft.data.images import ImageCrops, ImageFiles
from graft.data.readers.columns import encode_labels
from graft.data.readers.folder import natural_key
from graft.errors import DataError

MAX_COORDINATE = 10**9  # pixels; whatever lies further out is as good as there, and fits in 32 bits


@dataclass(frozen=True, eq=False)
class AnnotatedObjects:
    """Images, and one row for each object in them: columns, because data sets have millions.

    `names` are the images' files below `root`, `parts` int8 [images] their codes of the split. For each of the m
    objects, `image_rows` [m] is the row of its image, `class_indices` [m] the index of its class in `classes`, `boxes`
    float [m, 4] left, top, right and bottom in pixels (right and bottom are the first ones outside), and `excluded` [m]
    marks what is no good image of its class.
    """

    root: Path
    names: Sequence[str]
    parts: NDArray[np.int8]
    image_rows: NDArray[np.intp]
    class_indices: NDArray[np.intp]
    boxes: NDArray[np.float64]
    excluded: NDArray[np.bool_]
    classes: list[str]


def objects_to_dataset(found: AnnotatedObjects, ignored: dict[str, int], *, boxes: bool, unfit: str) -> Dataset:
    """The images with the classes of their objects, or with `boxes` the objects one by one.

    `unfit` is what to call the objects that are left out as images of their own. Classes without an object are left
    out. Raises DataError where nothing is left.
    """
    if not len(found.names):
        raise DataError(f"{found.root} holds no images with annotations.{_format_ignored(ignored)}")
    data = _build_crops(found, ignored, unfit) if boxes else _build_multilabel(found, ignored)
    if not data.classes:
        raise DataError(f"{found.root} marks no object in any image.{_format_ignored(data.ignored)}")
    return data


def _build_multilabel(found: AnnotatedObjects, ignored: dict[str, int]) -> Dataset:
    classes, kind = _used_classes(found.classes, found.class_indices)
    class_names: list[set[str]] = [set() for _ in found.names]
    for owner, at in zip(found.image_rows.tolist(), kind.tolist(), strict=True):
        class_names[owner].add(classes[at])
    labels = encode_labels([tuple(each) for each in class_names], classes)
    return Dataset(
        ImageFiles.from_names(found.names, str(found.root)), labels, classes, drop_single_split(found.parts), ignored
    )


def _build_crops(found: AnnotatedObjects, ignored: dict[str, int], excluded_label: str) -> Dataset:
    """Each object as an image; those of one image are a group, so that no split divides them."""
    box, unfit = found.boxes, found.excluded
    flat = ~((box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]))  # or not a number
    keep = ~(unfit | flat)
    owner = found.image_rows[keep]
    classes, kind = _used_classes(found.classes, found.class_indices[keep])
    edges = np.concatenate([np.floor(box[keep, :2]), np.ceil(box[keep, 2:])], axis=1).clip(
        -MAX_COORDINATE, MAX_COORDINATE
    )
    counts = {excluded_label: int(unfit.sum()), "boxes without an area": int((flat & ~unfit).sum())}
    return Dataset(
        ImageCrops(ImageFiles.from_names(found.names, str(found.root)).take(owner), edges.astype(np.int32)),
        kind.astype(np.int32),
        classes,
        drop_single_split(found.parts[owner]),
        ignored | {what: count for what, count in counts.items() if count},
        owner.astype(np.int64),
    )


def _used_classes(names: list[str], kind: NDArray[np.intp]) -> tuple[tuple[str, ...], NDArray[np.intp]]:
    """The classes that occur, sorted, and the objects' classes as indices into them."""
    seen: list[int] = sorted(map(int, np.unique(kind)), key=lambda index: natural_key(names[index]))
    order = np.full(len(names), -1, np.intp)
    order[seen] = np.arange(len(seen))
    return tuple(names[index] for index in seen), order[kind]


def drop_single_split(parts: NDArray[np.integer]) -> NDArray[np.int8]:
    """Return the split column; UNSPLIT throughout if there is only one part."""
    split = parts.astype(np.int8)
    return np.full_like(split, UNSPLIT) if len(np.unique(split)) == 1 else split


def _format_ignored(ignored: dict[str, int]) -> str:
    parts = [f"{what}: {count:,}" for what, count in ignored.items()]
    return f" Left out: {', '.join(parts)}." if parts else ""
