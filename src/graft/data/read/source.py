"""Wherever labelled pictures come from: what lies at a path, or what an object can do, decides who reads it."""

from __future__ import annotations

import dataclasses
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from graft.data import lookalikes
from graft.data.dataset import NO_LABEL, UNLABELLED, Dataset
from graft.data.images import Crops
from graft.data.read import archive, layout, nested, parquet, table, webdataset
from graft.data.read.cifar import is_cifar, read_cifar
from graft.data.read.coco import is_coco, read_coco
from graft.data.read.folder import read_folder
from graft.data.read.idx import is_idx, read_idx
from graft.data.read.imagenet import is_imagenet, read_imagenet
from graft.data.read.library import read_object
from graft.data.read.members import index
from graft.data.read.one_vs_rest import name_of, one_vs_rest
from graft.data.read.voc import is_voc, read_voc
from graft.errors import DataError, UsageError
from graft.progress import Watch, unwatched
from graft_runtime.card import MULTICLASS

TABLE = layout.TABLE


def read_source(
    source: Any,
    classes: tuple[str, ...] | None = None,
    columns: str = "",
    *,
    strict: bool = False,
    boxes: bool = False,
    against: Any = None,
    several: bool = False,
    watch: Watch = unwatched,
) -> Dataset:
    """Labelled pictures from a path or from an object of another library.

    A path is a folder with one folder for each class, a table of files and labels (CSV, TSV, Parquet) or a folder that
    holds a labels.csv, a zip or tar archive of either, a folder of WebDataset shards or a pattern of their names; or
    Pascal VOC, COCO, CIFAR, MNIST and what has its format, or ImageNet's folders as they are published. An object is a
    Dataset, one of Hugging Face `datasets`, a map-style dataset as torch has them, or (pictures, labels).

    With `classes` given (a trained classifier's), labels are matched to them by name; classes that are not among them
    follow after, and names that are only spelt in another way are an error. `columns` names the columns of a
    table, as in 'file=path,label=species,group=patient'; those left out are guessed. Files that a table lists and that
    are not there are named with the pictures that cannot be read; with `strict` they are an error. With `boxes` each
    object that VOC or COCO marks is a picture with one label, instead of each picture with several. `watch` shows how
    far the search for files is.

    An image whose label is missing is left out and counted, unless any image has several labels: then one without
    shows none of them. `several` says that this is so whatever there is here, as for a classifier of several labels.

    With `against`, another source, there are two classes: all images of `source`, a folder with or without folders in
    it whose name is the class, perhaps 'cats'; and all images of `against`, which are 'not cats'.

    Raises DataError for pictures that make no data set, and UsageError for what is no source of pictures.

    >>> read_source("VOCdevkit/VOC2012", boxes=True).task  # doctest: +SKIP
    'multiclass'
    """
    if against is not None:
        _check_alone(columns, boxes)
        one, rest = (_side(each, strict, watch) for each in (source, against))
        name = name_of(one, str(source) if isinstance(source, str | PathLike) else "", classes or ())
        return _matched(one_vs_rest(one, rest, name, watch), classes)
    if isinstance(source, str | PathLike):
        path = Path(source)
        if "\0" in str(path):
            raise DataError(f"There is no folder or file {str(path)!a}: a name has no null character.")
        data = _published(path, classes, boxes, watch) or _at(path, classes, columns, strict, watch)
    else:
        data = source if isinstance(source, Dataset) else read_object(source, classes, columns)
    if columns and (data is source or not data.columns):
        raise UsageError(f"--columns names the columns of a table, and {data.root or 'this source'} is none.")
    if boxes and not isinstance(data.images, Crops):
        raise UsageError(
            f"{data.root or 'This source'} marks no boxes; only Pascal VOC and COCO do. Leave --boxes out."
        )
    return data if several else _with_labels(data)


def _with_labels(data: Dataset) -> Dataset:
    """The images whose label is known, where each has one; all of them where none is known."""
    lacking = data.labels == UNLABELLED if data.task == MULTICLASS else np.zeros(len(data), bool)
    if not lacking.any() or lacking.all():
        return data
    left = data.take(~lacking)
    ignored = data.ignored | {NO_LABEL: int(lacking.sum())}
    return dataclasses.replace(left, split=layout.decided(left.split.tolist()), ignored=ignored)


def _check_alone(columns: str, boxes: bool) -> None:
    """Raises UsageError for options about labels, which one class against the rest does not read."""
    if columns or boxes:
        option = "--columns" if columns else "--boxes"
        raise UsageError(f"{option} says where labels are, and with --against the two sources are the labels.")


def _side(source: Any, strict: bool, watch: Watch) -> Path | Dataset:
    """A folder as it is, and what lies in anything else."""
    if isinstance(source, str | PathLike):
        path = Path(source)
        plain = path.is_dir() and not (path / TABLE).is_file() and not webdataset.shards(path)
        if (plain or not path.exists()) and not _is_published(path):
            return path
    return read_source(source, (), strict=strict, watch=watch)


def _is_published(path: Path) -> bool:
    return any(tells(path) for tells in (is_voc, is_coco, is_cifar, is_idx))


def _published(path: Path, classes: tuple[str, ...] | None, boxes: bool, watch: Watch) -> Dataset | None:
    """A data set in the form that it is published in."""
    if (path / TABLE).is_file():
        return None
    if is_voc(path):
        return _matched(read_voc(path, boxes=boxes), classes)
    if is_coco(path):
        return _matched(read_coco(path, boxes=boxes), classes)
    if is_cifar(path):
        return _matched(read_cifar(path), classes)
    if is_idx(path):
        return _matched(read_idx(path), classes)
    return read_imagenet(path, classes, watch) if is_imagenet(path) else None


def _at(path: Path, classes: tuple[str, ...] | None, columns: str, strict: bool, watch: Watch) -> Dataset:
    """A table, an archive, shards or class folders."""
    name = path.name.lower()
    if (not path.is_dir() and name.endswith(table.SUFFIXES)) or table.is_list(path):
        return table.read_table(path, classes, columns, strict=strict, watch=watch)
    if not path.is_dir() and name.endswith(parquet.SUFFIXES):
        return parquet.read_parquet(path, classes, columns, strict=strict, watch=watch)
    if (path / TABLE).is_file():
        return table.read_table(path / TABLE, classes, columns, strict=strict, watch=watch)
    if webdataset.shards(path):
        return webdataset.read_shards(path, classes)
    if not path.is_dir() and name.endswith(archive.SUFFIXES):
        found = index(path)
        if webdataset.is_shard(found):
            return webdataset.of_indices(str(path), [found], classes)
        return archive.of_index(found, classes, columns, strict=strict)
    return read_folder(path, classes, watch, nested.level_of(columns))


def _matched(data: Dataset, classes: tuple[str, ...] | None) -> Dataset:
    """The same pictures with labels that count in these classes, by name."""
    if classes is None:
        return data
    known = lookalikes.matched(data.root, data.classes, classes)
    order = np.array([known.index(name) for name in data.classes], np.int32)
    if data.labels.ndim == 1:
        return dataclasses.replace(
            data, classes=known, labels=np.where(data.labels < 0, UNLABELLED, order[data.labels])
        )
    labels = np.zeros((len(data), len(known)), np.uint8)
    labels[:, order] = data.labels
    return dataclasses.replace(data, classes=known, labels=labels)
