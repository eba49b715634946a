"""COCO: one JSON with lists of images, annotations and categories for each part, beside folders of images."""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import UNSPLIT, Dataset
from graft.data.readers.folder import PARTS
from graft.data.readers.objects import Objects, as_dataset
from graft.data.readers.place import Place
from graft.errors import DataError

SUFFIX = ".json"
PLACES = ("annotations/instances_*.json", "instances_*.json", "_annotations.coco.json", "[tv]*/_annotations.coco.json")
UNFIT = "crowds"
TEXTS = -(2**62)  # from here on down, the numbers of ids that are texts

_BETWEEN = re.compile(r"[\s,:]*")
_PART = re.compile("(?<![a-z])(training|train|validation|valid|val|testing|test)")


@dataclass
class _Columns:
    """What one JSON says, in columns: a list of names, and numbers."""

    path: Path
    names: list[str] = field(default_factory=list)
    ids: array = field(default_factory=lambda: array("q"))  # of the images
    images: array = field(default_factory=lambda: array("q"))  # for each object the id of its image,
    kinds: array = field(default_factory=lambda: array("q"))  # that of its class,
    boxes: array = field(default_factory=lambda: array("d"))  # and left, top, width, height
    crowds: array = field(default_factory=lambda: array("b"))
    classes: dict[int, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)  # of ids that are texts

    def number(self, given: Any) -> int:
        """An id as a number: exports have texts too, and '7' there is 7 here."""
        if isinstance(given, str) and not re.fullmatch(r"-?[0-9]{1,18}", given):
            return self.numbers.setdefault(given, TEXTS - len(self.numbers))
        if isinstance(given, bool) or not isinstance(given, int | str):
            raise TypeError(f"the id {given!r} is neither a whole number nor a text")
        return int(given)


def is_coco(path: Path) -> bool:
    """Whether a path is a JSON, or a folder with annotations as COCO has them."""
    return (path.suffix.lower() == SUFFIX and not path.is_dir()) or bool(_annotations(path))


def read_coco(path: str | Path, *, boxes: bool = False) -> Dataset:
    """Images with the categories of the objects in each, several an image; with `boxes` each object by itself.

    `path` is a JSON, or the folder with annotations/instances_*.json; several of them are the parts that their names
    say (train, val, test). Images lie in the folder that the JSON is named after (train2017), in `images`, or beside
    the JSON. Those that are listed but not there are left out and counted. A crowd (`iscrowd`) counts for its image;
    as an image of its own it is left out.

    The file is read entry by entry: in memory are its text and a few numbers for each object, not its polygons.

    Raises DataError: no such file, one of another shape, or not one image that is there.
    Format: Lin et al. 2014, https://cocodataset.org/#format-data
    """
    path = Path(path)
    files = _annotations(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no annotations of COCO: there is no {' and no '.join(PLACES[:2])} in it.")
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    ignored: Counter[str] = Counter()
    found = [_objects(root, _columns(file), ignored) for file in files]
    return as_dataset(_joined(root, found), dict(ignored), boxes=boxes, unfit=UNFIT)


def _annotations(folder: Path) -> list[Path]:
    found = (sorted(folder.glob(pattern)) for pattern in PLACES)
    return next((files for files in found if files), [])


def _columns(path: Path) -> _Columns:
    columns = _Columns(path)
    take = {"images": _image, "annotations": _annotation, "categories": _category}
    counts: Counter[str] = Counter()
    for name, entry in _entries(path, take.keys()):
        try:
            if not isinstance(entry, dict):
                raise TypeError("it is no object of names and values")
            take[name](columns, entry)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"Entry {counts[name]} of '{name}' in {path} is not as COCO has it: {why}.") from error
        counts[name] += 1
    if lacking := sorted(take.keys() - counts.keys()):
        raise DataError(f"{path} is no annotation of COCO: it has no entries in a list '{lacking[0]}'.")
    return columns


def _image(columns: _Columns, entry: dict[str, Any]) -> None:
    if not isinstance(entry["file_name"], str):
        raise TypeError("'file_name' is not a text")
    entry["file_name"].encode()  # a lone surrogate is no name of a file
    columns.ids.append(columns.number(entry["id"]))
    columns.names.append(entry["file_name"].replace("\\", "/"))


def _annotation(columns: _Columns, entry: dict[str, Any]) -> None:
    box = [float(number) for number in entry.get("bbox") or (0, 0, 0, 0)]
    if len(box) != 4:
        raise ValueError(f"'bbox' has {len(box)} numbers, not 4")
    columns.images.append(columns.number(entry["image_id"]))
    columns.kinds.append(columns.number(entry["category_id"]))
    columns.boxes.extend(box)
    columns.crowds.append(bool(entry.get("iscrowd")))


def _category(columns: _Columns, entry: dict[str, Any]) -> None:
    if not isinstance(entry["name"], str):
        raise TypeError("'name' is not a text")
    columns.classes[columns.number(entry["id"])] = entry["name"]


def _entries(path: Path, wanted: Any) -> Iterator[tuple[str, Any]]:
    """(name of the list, entry) for each entry of the wanted lists of a JSON object, one after another.

    A whole tree in memory would be ten times the text: COCO's own file has 450 MB, nearly all of it polygons.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        yield from _walked(text, path, wanted)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except DataError:
        raise
    except (ValueError, IndexError, RecursionError) as error:
        why = "it ends too early" if isinstance(error, IndexError) else str(error)
        raise DataError(f"{path} is not a JSON that can be read: {why}.") from error


def _walked(text: str, path: Path, wanted: Any) -> Iterator[tuple[str, Any]]:
    decode = json.JSONDecoder().raw_decode
    at = _past(text, 0)
    if text[at] != "{":
        raise DataError(f"{path} is no annotation of COCO: it should be an object with lists {', '.join(wanted)}.")
    at = _past(text, at + 1)
    while text[at] != "}":
        name, at = decode(text, at)
        if not isinstance(name, str):
            raise json.JSONDecodeError("a name should stand here", text, at)
        at = _past(text, at)
        if name in wanted and text[at] == "[":
            at = _past(text, at + 1)
            while text[at] != "]":
                entry, at = decode(text, at)
                yield name, entry
                at = _past(text, at)
            at = _past(text, at + 1)
        else:
            at = _past(text, decode(text, at)[1])


def _past(text: str, at: int) -> int:
    """Where the next value begins."""
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


def _objects(root: Path, columns: _Columns, ignored: Counter[str]) -> Objects:
    """The images of one JSON that are there, and the objects in them."""
    places = _places(root, columns)
    there = np.array([bool(place) for place in places], bool)
    image, listed = _rows(np.array(columns.ids), np.array(columns.images))
    keep = listed & there[image]
    ignored += Counter(
        {
            "images that are listed but not there": int((~there).sum()),
            "annotations of images that are not listed": int((~listed).sum()),
        }
    )
    kind, names = _kinds(columns)
    corners = np.array(columns.boxes).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Objects(
        root,
        [place for place in places if place],
        np.full(int(there.sum()), _part(columns.path), np.int8),
        (np.cumsum(there) - 1)[image[keep]],
        kind[keep],
        corners[keep],
        np.array(columns.crowds, bool)[keep],
        names,
    )


def _kinds(columns: _Columns) -> tuple[NDArray[np.intp], list[str]]:
    """The class of each object as an index into the names of the classes, each name once."""
    rows, known = _rows(np.array(list(columns.classes)), np.array(columns.kinds))
    if not known.all():
        number = columns.kinds[int(np.flatnonzero(~known)[0])]
        number = next((repr(name) for name, own in columns.numbers.items() if own == number), number)
        raise DataError(f"{columns.path} has an annotation of category {number}, which 'categories' does not list.")
    names = list(dict.fromkeys(columns.classes.values()))
    index = {name: at for at, name in enumerate(names)}
    return np.array([index[name] for name in columns.classes.values()], np.intp)[rows], names


def _rows(ids: NDArray[np.integer], wanted: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The row of each wanted id, and whether it has one."""
    order = np.argsort(ids, kind="stable")
    rows = order[np.searchsorted(ids[order], wanted).clip(max=len(ids) - 1)]
    return rows, ids[rows] == wanted


def _places(root: Path, columns: _Columns) -> list[str]:
    """Where each image lies, seen from `root`; empty where it is not there."""
    called = columns.path.stem.removeprefix("instances_")
    beside = columns.path.parent.relative_to(root).as_posix()
    folders = dict.fromkeys([called, f"images/{called}", "images", beside, ".", f"../{called}", "../images"])
    prefixes = ["" if folder == "." else f"{folder}/" for folder in folders]
    ways = ([prefix + name for prefix in prefixes] for name in columns.names)
    place = Place.of(root)
    return [next(filter(None, map(place.find, tried)), "") for tried in ways]


def _part(path: Path) -> int:
    """The part of the split that a JSON is named after, or the folder that it lies in."""
    said = _PART.search((path.parent.name if path.name[0] == "_" else path.stem).lower())
    return PARTS[said[0]] if said else UNSPLIT


def _joined(root: Path, found: list[Objects]) -> Objects:
    """Several parts as one, categories matched by name."""
    classes = list(dict.fromkeys(name for part in found for name in part.classes))
    starts = np.cumsum([0, *(len(part.names) for part in found)])
    return Objects(
        root,
        [name for part in found for name in part.names],
        np.concatenate([part.parts for part in found]),
        np.concatenate([part.owner + start for part, start in zip(found, starts, strict=False)]),
        np.concatenate([_renumbered(part, classes) for part in found]),
        np.concatenate([part.boxes for part in found]),
        np.concatenate([part.unfit for part in found]),
        classes,
    )


def _renumbered(part: Objects, classes: list[str]) -> NDArray[np.intp]:
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[name] for name in part.classes], np.intp)[part.kind]
