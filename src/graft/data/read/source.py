"""Wherever labelled pictures come from: what lies at a path decides who reads it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from graft.data.dataset import Dataset
from graft.data.read.cifar import is_cifar, read_cifar
from graft.data.read.coco import is_coco, read_coco
from graft.data.read.folder import read_folder
from graft.data.read.idx import is_idx, read_idx
from graft.data.read.imagenet import is_imagenet, read_imagenet
from graft.data.read.table import SUFFIXES, read_table
from graft.data.read.voc import is_voc, read_voc
from graft.errors import DataError, UsageError

TABLE = "labels.csv"  # what makes a folder a table's folder


def read_source(path: str | Path, classes: tuple[str, ...] | None = None, *, boxes: bool = False) -> Dataset:
    """The labelled pictures at a path, whichever way they are laid out.

    A table of files and labels (CSV), or a folder that holds a labels.csv; Pascal VOC; COCO; CIFAR-10 and CIFAR-100;
    MNIST and what has its format; ImageNet's folders; else a folder with one folder for each class. With `boxes` each
    object that VOC or COCO marks is a picture with one label, instead of each picture with several.

    With `classes` given (a trained classifier's), labels are matched to them by name. Raises DataError.

    >>> read_source("VOCdevkit/VOC2012", boxes=True).task  # doctest: +SKIP
    'multiclass'
    """
    path = Path(path)
    table = _table(path)
    if table is None and is_voc(path):
        return _matched(read_voc(path, boxes=boxes), classes)
    if table is None and is_coco(path):
        return _matched(read_coco(path, boxes=boxes), classes)
    if boxes:
        raise DataError(f"{path} marks no boxes; only Pascal VOC and COCO do. Leave --boxes (boxes=True) out.")
    if table is not None:
        return read_table(table, classes)
    if is_cifar(path):
        return _matched(read_cifar(path), classes)
    if is_idx(path):
        return _matched(read_idx(path), classes)
    return (read_imagenet if is_imagenet(path) else read_folder)(path, classes)


def labelled(source: str | Path | Dataset, *, boxes: bool = False) -> Dataset:
    """Labelled pictures as they were given, or read from where they lie. Raises DataError, and UsageError for `boxes`
    of what is read already.
    """
    if not isinstance(source, Dataset):
        return read_source(source, boxes=boxes)
    if boxes:
        raise UsageError("boxes=True is for a path. Read the boxes with read_source(path, boxes=True) instead.")
    return source


def _table(path: Path) -> Path | None:
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        return path
    return path / TABLE if (path / TABLE).is_file() else None


def _matched(data: Dataset, classes: tuple[str, ...] | None) -> Dataset:
    """The same pictures with labels that count in these classes, by name."""
    if classes is None:
        return data
    if unknown := sorted(set(data.classes) - set(classes)):
        raise DataError(
            f"{data.root} has labels that the classifier does not know: {', '.join(map(repr, unknown))}. "
            f"It knows {', '.join(map(repr, classes))}."
        )
    order = np.array([classes.index(name) for name in data.classes], np.int32)
    if data.labels.ndim == 1:
        return dataclasses.replace(data, classes=classes, labels=order[data.labels])
    labels = np.zeros((len(data), len(classes)), np.uint8)
    labels[:, order] = data.labels
    return dataclasses.replace(data, classes=classes, labels=labels)
