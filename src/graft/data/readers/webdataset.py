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
from graft.data.readers.archive import Index, index, joined
from graft.data.readers.columns import MISSING, Cells, is_missing, labelled, plain, texts
from graft.data.readers.folder import PARTS, natural
from graft.errors import DataError
from graft_runtime.formats import SUFFIXES
from graft_runtime.walk import is_hidden, is_image

TARS = (".tar", *archive.PACKED_SUFFIXES)
SAYING = ("cls", "json", "txt")  # what may say the label, the first that is there
FIELDS = ("label", "cls")  # where in a KEY.json
SMALL = 1 << 20  # bytes of such a file


def shards(path: str | Path) -> list[Path]:
    """The shards that a folder of nothing but tars holds, or that a pattern names; none where it is neither.

    A pattern may have *, ?, [0-9] and braces: 'train-{000000..000007}.tar'.
    """
    if Path(path).is_dir():
        seen = [each for each in Path(path).iterdir() if not is_hidden(each.name)]
        return [] if any(each.is_dir() for each in seen) else _sorted(each for each in seen if _is_tar(each))
    if Path(path).exists():
        return []
    found = [name for each in _braces(str(path)) for name in (glob.glob(each) if glob.has_magic(each) else [each])]
    named = [name for name in found if not is_image(name) and not Path(name).is_dir()]
    return _sorted(map(Path, named)) if len(named) > 1 or glob.has_magic(str(path)) else []


def _sorted(paths: Any) -> list[Path]:
    return sorted(set(paths), key=lambda path: natural(str(path)))


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(TARS)


def _braces(pattern: str) -> list[str]:
    """'a{00..02}' -> a00, a01, a02; 'a{x,y}' -> ax, ay."""
    if not (found := re.search(r"\{([^{}]*)\}", pattern)):
        return [pattern]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", found[1]):
        names = [str(at).zfill(len(span[1])) for at in range(int(span[1]), int(span[2]) + 1)]
    else:
        names = found[1].split(",")
    return [each for name in names for each in _braces(pattern[: found.start()] + name + pattern[found.end() :])]


def is_shard(found: Index) -> bool:
    """Whether an archive is a shard: it has a KEY.cls, or all images stand in one folder beside their words."""
    if any(name.lower().endswith(".cls") for name in found.row):
        return True
    keys = {_key(name) for name in found.row if name.lower().endswith(SUFFIXES)}
    beside = any(name.endswith((".json", ".txt")) and _key(name) in keys for name in found.row)
    return beside and len({posixpath.dirname(key) for key in keys}) == 1


def read_shards(path: str | Path, classes: tuple[str, ...] | None = None) -> Dataset:
    """The samples of the shards in a folder, or that a pattern names; see `shards`.

    A sample is an image with its label in KEY.cls, in 'label' or 'cls' of KEY.json, or in KEY.txt; a list in the JSON
    is several labels. Words like train or val in a shard's name say its part of the split. Samples without an image
    or a label are left out and counted. Raises DataError: no shard, a damaged one, or no two classes.
    """
    return of_indices(str(path), [index(each) for each in shards(path)], classes)


def of_indices(where: str, found: Sequence[Index], classes: tuple[str, ...] | None = None) -> Dataset:
    """The same of archives that were looked through already."""
    if not found:
        raise DataError(f"There is no shard {where}.")
    ignored: Counter[str] = sum((each.ignored for each in found), Counter())
    samples = [_samples(each, ignored) for each in found]
    labels = texts([value for said in samples for value in said.values()])
    parts = [_part(each.path) for each, said in zip(found, samples, strict=True) for _ in said]
    rows = [list(row) for row in zip(labels, parts, strict=True)]
    left_out = {what: count for what, count in ignored.items() if count}
    if not rows:
        raise DataError(f"{where} has no sample of an image and a label. Left out: {left_out}.")
    images = joined([each.column(list(said)) for each, said in zip(found, samples, strict=True)], where)
    cells = Cells(where, ["label", "split"], rows, whole=frozenset({"label"}))
    data = labelled(images.take, cells, np.arange(len(rows)), classes, ignored=left_out)
    return replace(data, columns="")  # nothing was guessed


def _samples(found: Index, ignored: Counter[str]) -> dict[str, Any]:
    """The label or labels of each sample, by the name of its image: of a kind that is decoded, if it has one."""
    files: dict[str, dict[str, str]] = {}  # of each key: its files by their endings
    for name in found.row:
        key = _key(name)
        files.setdefault(key, {})[name[len(key) + 1 :].lower()] = name
    samples: dict[str, Any] = {}
    for each in files.values():
        images = [name for ending, name in each.items() if is_image(f".{ending}")]
        usable = [name for name in images if name.lower().endswith(SUFFIXES)] or images[:1]
        labels = _labels(found, each) if usable else None
        if labels is None:
            ignored["samples without a label" if usable else "samples without an image"] += 1
        else:
            ignored["further images of a sample"] += len(usable) - 1
            samples[usable[0]] = labels
    return samples


def _key(name: str) -> str:
    """What the files of a sample have in common: all before the first dot of the file name."""
    return posixpath.join(posixpath.dirname(name), posixpath.basename(name).partition(".")[0])


def _labels(found: Index, files: dict[str, str]) -> Any:
    for ending in SAYING:
        if ending in files and (labels := _said(files[ending], _text(found, files[ending]))) is not None:
            return labels
    return None


def _text(found: Index, name: str) -> str:
    if found.spans[found.row[name]]["size"] > SMALL:
        raise DataError(f"{name} in {found.path} is too large to hold a label.")
    try:
        return found.read(name).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} in {found.path} is not text in UTF-8.") from error


def _said(name: str, text: str) -> Any:
    """The label or labels in a small file; None where it has none."""
    if not name.lower().endswith(".json"):
        return None if text in ("", *MISSING) else text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {error}.") from error
    if isinstance(value, dict):
        value = next((value[field] for field in FIELDS if field in value), None)
    value = plain(value)
    return None if is_missing(value) or isinstance(value, dict) or value in ("", *MISSING) else value


def _part(shard: Path) -> str:
    """The part of the split that a shard's name has among its words."""
    return next((word for word in re.split("[^a-z]+", shard.name.lower()) if word in PARTS), "")
