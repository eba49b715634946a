"""Wherever labelled images come from: what lies at a path, or what an object can do, decides who reads it."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.classes import match_classes
from graft.data.dataset import NO_LABEL, SPLITS, UNLABELLED, Dataset, concatenate_groups
from graft.data.images import ConcatenatedImages, ImageCrops, ImageFiles, describe_foreign_files
from graft.data.readers import archive, folder, tables, webdataset
from graft.data.readers.archive import index_archive
from graft.data.readers.coco import is_coco, read_coco
from graft.data.readers.folder import (
    FolderListing,
    check_folder,
    class_name,
    find_all_images,
    normalise_split,
    read_folder,
)
from graft.data.readers.library import read_object
from graft.data.readers.published import is_cifar, is_idx, is_imagenet, read_cifar, read_idx, read_imagenet
from graft.data.readers.voc import is_voc, read_voc
from graft.errors import DataError, UsageError
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.card import MULTICLASS

REST_PREFIX = "not "

OneVsRestSource = Path | Dataset  # a folder, every image below it; or what another reader made of another source


def one_vs_rest(one: OneVsRestSource, rest: OneVsRestSource, name: str, watch: ProgressWrapper) -> Dataset:
    """The classes `name` and 'not `name`': all images of `one`, then those of `rest`, whatever their own labels are.

    A folder that lies inside the other one belongs to its own side alone. What the rest calls `name` is left out and
    counted. Raises DataError: the same folder twice, no images on a side, or only one side divided into parts.
    """
    folders = [check_folder(each).absolute() for each in (one, rest) if isinstance(each, Path)]
    if len(folders) == 2 and os.path.samefile(*folders):
        raise DataError(f"{one} cannot be both the class and the rest. Name another folder with --against.")
    root = os.path.commonpath([folder.parent for folder in folders]) if folders else ""
    first = _read_side(one, name, rest, root, watch)
    second = _drop_class(name, _read_side(rest, REST_PREFIX + name, one, root, watch), rest)
    for side, data in ((one, first), (rest, second)):
        if not len(data):
            raise DataError(
                f"{_describe_side(side)} holds no images for {data.classes[0]!r}.{_format_ignored(data.ignored)}"
                f"{_describe_other_files(side)}"
            )
    _check_parts(_describe_side(one), first, _describe_side(rest), second)
    return _concatenate(first, second)


def infer_class_name(one: OneVsRestSource, where: str, classes: Sequence[str] = ()) -> str:
    """What the class is called: as in a classifier of one class against the rest, else like its folder or its label."""
    if classes and tuple(classes) == (classes[0], REST_PREFIX + classes[0]):
        return classes[0]
    if isinstance(one, Dataset):
        if len(one.classes) == 1:
            return one.classes[0]
        if not where:
            raise UsageError(f"One class against the rest has one label. Got {len(one.classes)} of them.")
        return class_name(Path(where).name.partition(".")[0])
    return class_name(one.absolute().name)


def _read_side(side: OneVsRestSource, name: str, other: OneVsRestSource, root: str, watch: ProgressWrapper) -> Dataset:
    """All images of one side under one name; those of a folder with paths below `root`."""
    if isinstance(side, Dataset):
        return replace(side, labels=np.zeros(len(side), np.int32), classes=(name,))
    ignored: Counter[str] = Counter()
    disk = FolderListing(side, ignored, other if isinstance(other, Path) else None)
    rows = sorted(watch(find_all_images(name, disk, ignored), "files found", 0), key=lambda row: row.path)
    below = os.path.relpath(side.absolute(), root)
    files = ImageFiles.from_names([os.path.join(below, row.path) for row in rows], root)
    return Dataset(
        files, np.zeros(len(rows), np.int32), (name,), normalise_split([row.split for row in rows]), dict(ignored)
    )


def _drop_class(name: str, found: Dataset, rest: OneVsRestSource) -> Dataset:
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


def _concatenate(first: Dataset, second: Dataset) -> Dataset:
    images = (first.images, second.images)
    files = [each for each in images if isinstance(each, ImageFiles)]
    same = len(files) == 2 and files[0].root == files[1].root
    ignored = Counter(first.ignored) + Counter(second.ignored)
    return Dataset(
        ImageFiles(np.concatenate([each.names for each in files]), files[0].root)
        if same
        else ConcatenatedImages.from_columns(images),
        np.repeat(np.arange(2, dtype=np.int32), [len(first), len(second)]),
        (*first.classes, *second.classes),
        np.concatenate([first.split, second.split]),
        dict(ignored),
        concatenate_groups(first, second),
    )


def _describe_side(side: OneVsRestSource) -> str:
    return str(side) if isinstance(side, Path) else side.root or "This source"


def _describe_other_files(side: OneVsRestSource) -> str:
    """What a folder without images holds instead."""
    message = (
        describe_foreign_files(path.name for path in side.rglob("*") if path.is_file())
        if isinstance(side, Path)
        else ""
    )
    return f" {message}" if message else ""


def _format_ignored(ignored: dict[str, int]) -> str:
    listed = ", ".join(f"{what}: {count}" for what, count in ignored.items())
    return f" Left out: {listed}." if listed else ""


TABLE = folder.TABLE_NAME


def read_source(
    source: Any,
    classes: tuple[str, ...] | None = None,
    columns: str = "",
    *,
    strict: bool = False,
    boxes: bool = False,
    against: Any = None,
    several: bool = False,
    watch: ProgressWrapper = no_progress,
) -> Dataset:
    """Read labelled images from a path, or from an object of another library.

    A path is a folder with one folder for each class, a table of files and labels (CSV, TSV, Parquet) or a folder that
    holds a labels.csv, a zip or tar archive of either, a folder of WebDataset shards or a pattern of their names; or
    Pascal VOC, COCO, CIFAR, MNIST and what has its format, or ImageNet's folders as they are published. An object is a
    Dataset, one of Hugging Face `datasets`, a map-style dataset as torch has them, or (images, labels).

    With `classes` given (a trained classifier's), labels are matched to them by name; classes that are not among them
    follow after, and names that are only spelt in another way are an error. `columns` names the columns of a
    table, as in 'file=path,label=species,group=patient'; those left out are guessed. Files that a table lists and that
    are not there are named with the images that cannot be read; with `strict` they are an error. With `boxes` each
    object that VOC or COCO marks is an image with one label, instead of each image with several. `watch` shows how
    far the search for files is.

    An image whose label is missing is left out and counted, unless any image has several labels: then one without
    shows none of them. `several` says that this is so whatever there is here, as for a classifier of several labels.

    With `against`, another source, there are two classes: all images of `source`, a folder with or without folders in
    it whose name is the class, perhaps 'cats'; and all images of `against`, which are 'not cats'.

    Raises DataError for images that make no data set, and UsageError for what is no source of images.

    >>> read_source("VOCdevkit/VOC2012", boxes=True).task  # doctest: +SKIP
    'multiclass'
    """
    if against is not None:
        _check_no_label_options(columns, boxes)
        one, rest = (_open_side(each, strict, watch) for each in (source, against))
        name = infer_class_name(one, str(source) if isinstance(source, str | PathLike) else "", classes or ())
        return _match_classes(one_vs_rest(one, rest, name, watch), classes)
    if isinstance(source, str | PathLike):
        path = Path(source)
        if "\0" in str(path):
            raise DataError(f"There is no folder or file {str(path)!a}: a name has no null character.")
        data = _read_published(path, classes, boxes, watch) or _read_path(path, classes, columns, strict, watch)
    else:
        data = source if isinstance(source, Dataset) else read_object(source, classes, columns)
    if columns and (data is source or not data.columns):
        raise UsageError(f"--columns names the columns of a table, and {data.root or 'this source'} is none.")
    if boxes and not isinstance(data.images, ImageCrops):
        raise UsageError(
            f"{data.root or 'This source'} marks no boxes; only Pascal VOC and COCO do. Leave --boxes out."
        )
    return data if several else _drop_unlabelled(data)


def _drop_unlabelled(data: Dataset) -> Dataset:
    """The images whose label is known, where each has one; all of them where none is known."""
    unlabelled = data.labels == UNLABELLED if data.task == MULTICLASS else np.zeros(len(data), bool)
    if not unlabelled.any() or unlabelled.all():
        return data
    left = data.take(~unlabelled)
    ignored = data.ignored | {NO_LABEL: int(unlabelled.sum())}
    return dataclasses.replace(left, split=folder.normalise_split(left.split.tolist()), ignored=ignored)


def _check_no_label_options(columns: str, boxes: bool) -> None:
    """Raises UsageError for options about labels, which one class against the rest does not read."""
    if columns or boxes:
        option = "--columns" if columns else "--boxes"
        raise UsageError(f"{option} says where labels are, and with --against the two sources are the labels.")


def _open_side(source: Any, strict: bool, watch: ProgressWrapper) -> Path | Dataset:
    """A folder as it is, and what lies in anything else."""
    if isinstance(source, str | PathLike):
        path = Path(source)
        plain = path.is_dir() and not (path / TABLE).is_file() and not webdataset.find_shards(path)
        if (plain or not path.exists()) and not _is_published(path):
            return path
    return read_source(source, (), strict=strict, watch=watch)


def _is_published(path: Path) -> bool:
    return any(tells(path) for tells in (is_voc, is_coco, is_cifar, is_idx))


def _read_published(path: Path, classes: tuple[str, ...] | None, boxes: bool, watch: ProgressWrapper) -> Dataset | None:
    """A data set in the form that it is published in."""
    if (path / TABLE).is_file():
        return None
    if is_voc(path):
        return _match_classes(read_voc(path, boxes=boxes), classes)
    if is_coco(path):
        return _match_classes(read_coco(path, boxes=boxes), classes)
    if is_cifar(path):
        return _match_classes(read_cifar(path), classes)
    if is_idx(path):
        return _match_classes(read_idx(path), classes)
    return read_imagenet(path, classes, watch) if is_imagenet(path) else None


def _read_path(
    path: Path, classes: tuple[str, ...] | None, columns: str, strict: bool, watch: ProgressWrapper
) -> Dataset:
    """A table, an archive, shards or class folders."""
    name = path.name.lower()
    if (not path.is_dir() and name.endswith(tables.TEXT_SUFFIXES)) or tables.is_list(path):
        return tables.read_table(path, classes, columns, strict=strict, watch=watch)
    if not path.is_dir() and name.endswith(tables.PARQUET_SUFFIXES):
        return tables.read_parquet(path, classes, columns, strict=strict, watch=watch)
    if (path / TABLE).is_file():
        return tables.read_table(path / TABLE, classes, columns, strict=strict, watch=watch)
    if webdataset.find_shards(path):
        return webdataset.read_shards(path, classes)
    if not path.is_dir() and name.endswith(archive.SUFFIXES):
        found = index_archive(path)
        if webdataset.is_shard(found):
            return webdataset.from_indices(str(path), [found], classes)
        return archive.from_index(found, classes, columns, strict=strict)
    return read_folder(path, classes, watch, folder.parse_level(columns))


def _match_classes(data: Dataset, classes: tuple[str, ...] | None) -> Dataset:
    """The same images with labels that count in these classes, by name."""
    if classes is None:
        return data
    known = match_classes(data.root, data.classes, classes)
    order = np.array([known.index(name) for name in data.classes], np.int32)
    if data.labels.ndim == 1:
        return dataclasses.replace(
            data, classes=known, labels=np.where(data.labels < 0, UNLABELLED, order[data.labels])
        )
    labels = np.zeros((len(data), len(known)), np.uint8)
    labels[:, order] = data.labels
    return dataclasses.replace(data, classes=known, labels=labels)
