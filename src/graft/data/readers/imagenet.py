"""ImageNet: class folders named by WordNet ids (n01440764), mapped to readable names (tench)."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from graft import extras
from graft.data.dataset import Dataset
from graft.data.readers.folder import SPLIT_FOLDERS, read_folder
from graft.errors import DataError
from graft.progress import ProgressWrapper, no_progress

_ID = re.compile("n[0-9]{8}")
_SUBFOLDERS = (".", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")  # as ILSVRC's archive has it


def is_imagenet(path: Path) -> bool:
    """Whether all class folders at a path, or in its train, val or test folder, are called by WordNet ids."""
    return _find_root(path) is not None


def read_imagenet(
    path: str | Path, classes: tuple[str, ...] | None = None, watch: ProgressWrapper = no_progress
) -> Dataset:
    """Read class folders as `read_folder` does, with names for WordNet ids, in the order of the ids.

    A class is called by the first of its synonyms, and by its id as well where that says two things: ImageNet has
    'crane (n02012849)', a bird, and 'crane (n03126707)', a machine. An id that ImageNet has not stays as it is.
    `path` may also be the folder that ILSVRC/Data/CLS-LOC lies in. With `classes` given (a trained classifier's),
    folders are matched to them by name or id, and others follow after.

    Raises DataError as `read_folder` does.
    """
    root = _find_root(Path(path))
    if root is None:
        raise DataError(f"{path} has no folders that are called by WordNet ids, such as n01440764.")
    if classes is None:
        data = read_folder(root, watch=watch)
        return dataclasses.replace(data, classes=tuple(_wordnet_names().get(each, each) for each in data.classes))
    ids = {name: each for each, name in _wordnet_names().items()}
    data = read_folder(root, tuple(ids.get(name, name) for name in classes), watch)
    others = (_wordnet_names().get(each, each) for each in data.classes[len(classes) :])
    return dataclasses.replace(data, classes=(*classes, *others))


def _find_root(path: Path) -> Path | None:
    for root in (path / inside for inside in _SUBFOLDERS):
        parts = (root / name for name in _list_folders(root) if name.lower() in SPLIT_FOLDERS)
        if any(_has_only_ids(folder) for folder in (root, *parts)):
            return root
    return None


def _list_folders(path: Path) -> list[str]:
    """The folders inside one; none where it is not there or may not be read, of which the reader will tell."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."]
    except OSError:
        return []


def _has_only_ids(path: Path) -> bool:
    names = _list_folders(path)
    return bool(names) and all(map(_ID.fullmatch, names))


@functools.cache
def _wordnet_names() -> Mapping[str, str]:
    """Return a unique name for each WordNet id.

    Of ILSVRC's thousand classes those are told apart by id that share a name among the thousand; of all others those
    that share one with any.
    """
    extras.require_package("timm", "To name WordNet ids")
    from timm.data.imagenet_info import ImageNetInfo  # timm imports torch, which takes seconds

    few, many = (
        {each: info.label_name_to_description(each).split(", ")[0] for each in info.label_names()}
        for info in (ImageNetInfo("imagenet-1k"), ImageNetInfo("imagenet-22k"))
    )
    all_names = many | few
    among = {True: Counter(map(str.casefold, few.values())), False: Counter(map(str.casefold, all_names.values()))}
    shared = {each for each, name in all_names.items() if among[each in few][name.casefold()] > 1}
    return {each: f"{name} ({each})" if each in shared else name for each, name in all_names.items()}
