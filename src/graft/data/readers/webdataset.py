"""WebDataset shards: tar archives in which KEY.jpg and KEY.cls, KEY.json or KEY.txt are one sample."""

from __future__ import annotations

import glob
import json
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from graft.data.dataset import Dataset
from graft.data.readers import archive
from graft.data.readers.archive import ArchiveIndex, concatenate_archives, index_archive
from graft.data.readers.columns import MISSING, TableCells, build_dataset, is_missing, labels_to_texts, to_plain
from graft.data.readers.folder import SPLIT_FOLDERS, natural_key
from graft.errors import DataError
from graft_runtime.formats import SUFFIXES
from graft_runtime.walk import is_hidden, is_image

TARS = (".tar", *archive.PACKED_SUFFIXES)
LABEL_SUFFIXES = ("cls", "json", "txt")  # what may say the label, the first that is there
LABEL_FIELDS = ("label", "cls")  # where in a KEY.json
MAX_LABEL_BYTES = 1 << 20  # bytes of such a file


def find_shards(path: str | Path) -> list[Path]:
    """Find the shards in a folder of nothing but tars, or that a pattern names; none where it is neither.

    A pattern may have *, ?, [0-9] and braces: 'train-{000000..000007}.tar'.
    """
    if Path(path).is_dir():
        seen = [each for each in Path(path).iterdir() if not is_hidden(each.name)]
        return [] if any(each.is_dir() for each in seen) else _sort_shards(each for each in seen if _is_tar(each))
    if Path(path).exists():
        return []
    found = [
        name for each in _expand_braces(str(path)) for name in (glob.glob(each) if glob.has_magic(each) else [each])
    ]
    named = [name for name in found if not is_image(name) and not Path(name).is_dir()]
    return _sort_shards(map(Path, named)) if len(named) > 1 or glob.has_magic(str(path)) else []


def _sort_shards(paths: Any) -> list[Path]:
    return sorted(set(paths), key=lambda path: natural_key(str(path)))


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(TARS)


def _expand_braces(pattern: str) -> list[str]:
    """'a{00..02}' -> a00, a01, a02; 'a{x,y}' -> ax, ay."""
    if not (found := re.search(r"\{([^{}]*)\}", pattern)):
        return [pattern]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        names = [str(at).zfill(len(span[1])) for at in range(int(span[1]), int(span[2]) + 1)]
    else:
        names = found[1].split(",")
    return [each for name in names for each in _expand_braces(pattern[: found.start()] + name + pattern[found.end() :])]


def is_shard(found: ArchiveIndex) -> bool:
    """Whether an archive is a shard: it has a KEY.cls, or all images stand in one folder beside their words."""
    if any(name.lower().endswith(".cls") for name in found.row_by_name):
        return True
    keys = {_sample_key(name) for name in found.row_by_name if name.lower().endswith(SUFFIXES)}
    beside = any(name.endswith((".json", ".txt")) and _sample_key(name) in keys for name in found.row_by_name)
    return beside and len({posixpath.dirname(key) for key in keys}) == 1


def read_shards(path: str | Path, classes: tuple[str, ...] | None = None) -> Dataset:
    """Read the samples of the shards in a folder, or that a pattern names; see `find_shards`.

    A sample is an image with its label in KEY.cls, in 'label' or 'cls' of KEY.json, or in KEY.txt; a list in the JSON
    is several labels. Words like train or val in a shard's name say its part of the split. Samples without an image
    or a label are left out and counted. Raises DataError: no shard, a damaged one, or no two classes.
    """
    return from_indices(str(path), [index_archive(each) for each in find_shards(path)], classes)


def from_indices(where: str, found: Sequence[ArchiveIndex], classes: tuple[str, ...] | None = None) -> Dataset:
    """Read shards that are indexed already; see `read_shards`."""
    if not found:
        raise DataError(f"There is no shard {where}.")
    ignored: Counter[str] = sum((each.ignored for each in found), Counter())
    samples = [_read_samples(each, ignored) for each in found]
    labels = labels_to_texts([value for labels_by_name in samples for value in labels_by_name.values()])
    parts = [_split_from_name(each.path) for each, said in zip(found, samples, strict=True) for _ in said]
    rows = [list(row) for row in zip(labels, parts, strict=True)]
    left_out = {what: count for what, count in ignored.items() if count}
    if not rows:
        raise DataError(f"{where} has no sample of an image and a label. Left out: {left_out}.")
    images = concatenate_archives(
        [each.select_images(list(said)) for each, said in zip(found, samples, strict=True)], where
    )
    cells = TableCells(where, ["label", "split"], rows, single_columns=frozenset({"label"}))
    data = build_dataset(images.take, cells, np.arange(len(rows)), classes, ignored=left_out)
    return replace(data, columns="")  # nothing was guessed


def _read_samples(found: ArchiveIndex, ignored: Counter[str]) -> dict[str, Any]:
    """Read the label or labels of each sample, by the name of its image: of a kind that is decoded, if it has one."""
    files: dict[str, dict[str, str]] = {}  # of each key: its files by their endings
    for name in found.row_by_name:
        key = _sample_key(name)
        files.setdefault(key, {})[name[len(key) + 1 :].lower()] = name
    samples: dict[str, Any] = {}
    for each in files.values():
        candidates = [name for ending, name in each.items() if is_image(f".{ending}")]
        usable = [name for name in candidates if name.lower().endswith(SUFFIXES)] or candidates[:1]
        labels = _read_labels(found, each) if usable else None
        if labels is None:
            ignored["samples without a label" if usable else "samples without an image"] += 1
        else:
            ignored["further images of a sample"] += len(usable) - 1
            samples[usable[0]] = labels
    return samples


def _sample_key(name: str) -> str:
    """Return the key of a sample: all before the first dot of the file name."""
    return posixpath.join(posixpath.dirname(name), posixpath.basename(name).partition(".")[0])


def _read_labels(found: ArchiveIndex, files: dict[str, str]) -> Any:
    for ending in LABEL_SUFFIXES:
        if ending in files and (labels := _parse_label(files[ending], _read_text(found, files[ending]))) is not None:
            return labels
    return None


def _read_text(found: ArchiveIndex, name: str) -> str:
    if found.spans[found.row_by_name[name]]["size"] > MAX_LABEL_BYTES:
        raise DataError(f"{name} in {found.path} is too large to hold a label.")
    try:
        return found.read(name).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} in {found.path} is not text in UTF-8.") from error


def _parse_label(name: str, text: str) -> Any:
    """Parse the label or labels in a small file; None where it has none."""
    if not name.lower().endswith(".json"):
        return None if text in ("", *MISSING) else text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {error}.") from error
    if isinstance(value, dict):
        value = next((value[field] for field in LABEL_FIELDS if field in value), None)
    value = to_plain(value)
    return None if is_missing(value) or isinstance(value, dict) or value in ("", *MISSING) else value


def _split_from_name(shard: Path) -> str:
    """The part of the split that a shard's name has among its words."""
    return next((word for word in re.split("[^a-z]+", shard.name.lower()) if word in SPLIT_FOLDERS), "")
