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
from graft.data.images import TableFolder
from graft.data.readers.folder import SPLIT_FOLDERS
from graft.data.readers.objects import AnnotatedObjects, objects_to_dataset
from graft.errors import DataError

SUFFIX = ".json"
ANNOTATION_PATTERNS = (
    "annotations/instances_*.json",
    "instances_*.json",
    "_annotations.coco.json",
    "[tv]*/_annotations.coco.json",
)
CROWDS_LABEL = "crowds"
TEXT_ID_BASE = -(2**62)  # from here on down, the numbers of ids that are texts

_SEPARATORS = re.compile(r"[\s,:]*")
_SPLIT_WORD = re.compile("(?<![a-z])(training|train|validation|valid|val|testing|test)")


@dataclass
class _CocoColumns:
    """The content of one JSON as columns: a list of names, and numbers."""

    path: Path
    names: list[str] = field(default_factory=list)
    ids: array = field(default_factory=lambda: array("q"))  # of the images
    image_ids: array = field(default_factory=lambda: array("q"))  # for each object the id of its image,
    category_ids: array = field(default_factory=lambda: array("q"))  # that of its class,
    boxes: array = field(default_factory=lambda: array("d"))  # and left, top, width, height
    crowds: array = field(default_factory=lambda: array("b"))
    classes: dict[int, str] = field(default_factory=dict)
    text_ids: dict[str, int] = field(default_factory=dict)  # of ids that are texts

    def to_number(self, given: Any) -> int:
        """Return an id as a number: exports have texts too, and '7' there is 7 here."""
        if isinstance(given, str) and not re.fullmatch(r"-?[0-9]{1,18}", given):
            return self.text_ids.setdefault(given, TEXT_ID_BASE - len(self.text_ids))
        if isinstance(given, bool) or not isinstance(given, int | str):
            raise TypeError(f"the id {given!r} is neither a whole number nor a text")
        return int(given)


def is_coco(path: Path) -> bool:
    """Whether a path is a JSON, or a folder with annotations as COCO has them."""
    return (path.suffix.lower() == SUFFIX and not path.is_dir()) or bool(_find_annotations(path))


def read_coco(path: str | Path, *, boxes: bool = False) -> Dataset:
    """Read images with the categories of their objects, several an image; with `boxes` each object by itself.

    `path` is a JSON, or the folder with annotations/instances_*.json; several of them are the parts that their names
    say (train, val, test). Images lie in the folder that the JSON is named after (train2017), in `images`, or beside
    the JSON. Those that are listed but not there are left out and counted. A crowd (`iscrowd`) counts for its image;
    as an image of its own it is left out.

    The file is read entry by entry: in memory are its text and a few numbers for each object, not its polygons.

    Raises DataError: no such file, one of another shape, or not one image that is there.
    Format: Lin et al. 2014, https://cocodataset.org/#format-data
    """
    path = Path(path)
    files = _find_annotations(path) if path.is_dir() else [path]
    if not files:
        raise DataError(
            f"{path} holds no annotations of COCO: there is no {' and no '.join(ANNOTATION_PATTERNS[:2])} in it."
        )
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    ignored: Counter[str] = Counter()
    found = [_build_objects(root, _read_columns(file), ignored) for file in files]
    return objects_to_dataset(_concatenate(root, found), dict(ignored), boxes=boxes, unfit=CROWDS_LABEL)


def _find_annotations(folder: Path) -> list[Path]:
    found = (sorted(folder.glob(pattern)) for pattern in ANNOTATION_PATTERNS)
    return next((files for files in found if files), [])


def _read_columns(path: Path) -> _CocoColumns:
    columns = _CocoColumns(path)
    parsers = {"images": _parse_image, "annotations": _parse_annotation, "categories": _parse_category}
    counts: Counter[str] = Counter()
    for name, entry in _read_entries(path, parsers.keys()):
        try:
            if not isinstance(entry, dict):
                raise TypeError("it is no object of names and values")
            parsers[name](columns, entry)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(f"Entry {counts[name]} of '{name}' in {path} is not as COCO has it: {why}.") from error
        counts[name] += 1
    if lacking := sorted(parsers.keys() - counts.keys()):
        raise DataError(f"{path} is no annotation of COCO: it has no entries in a list '{lacking[0]}'.")
    return columns


def _parse_image(columns: _CocoColumns, entry: dict[str, Any]) -> None:
    if not isinstance(entry["file_name"], str):
        raise TypeError("'file_name' is not a text")
    entry["file_name"].encode()  # a lone surrogate is no name of a file
    columns.ids.append(columns.to_number(entry["id"]))
    columns.names.append(entry["file_name"].replace("\\", "/"))


def _parse_annotation(columns: _CocoColumns, entry: dict[str, Any]) -> None:
    box = [float(number) for number in entry.get("bbox") or (0, 0, 0, 0)]
    if len(box) != 4:
        raise ValueError(f"'bbox' has {len(box)} numbers, not 4")
    columns.image_ids.append(columns.to_number(entry["image_id"]))
    columns.category_ids.append(columns.to_number(entry["category_id"]))
    columns.boxes.extend(box)
    columns.crowds.append(bool(entry.get("iscrowd")))


def _parse_category(columns: _CocoColumns, entry: dict[str, Any]) -> None:
    if not isinstance(entry["name"], str):
        raise TypeError("'name' is not a text")
    columns.classes[columns.to_number(entry["id"])] = entry["name"]


def _read_entries(path: Path, wanted: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name of the list, entry) for each entry of the wanted lists of a JSON object, one after another.

    A whole tree in memory would be ten times the text: COCO's own file has 450 MB, nearly all of it polygons.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        yield from _iterate_entries(text, path, wanted)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except DataError:
        raise
    except (ValueError, IndexError, RecursionError) as error:
        why = "it ends too early" if isinstance(error, IndexError) else str(error)
        raise DataError(f"{path} is not a JSON that can be read: {why}.") from error


def _iterate_entries(text: str, path: Path, wanted: Any) -> Iterator[tuple[str, Any]]:
    decode = json.JSONDecoder().raw_decode
    at = _skip_separators(text, 0)
    if text[at] != "{":
        raise DataError(f"{path} is no annotation of COCO: it should be an object with lists {', '.join(wanted)}.")
    at = _skip_separators(text, at + 1)
    while text[at] != "}":
        name, at = decode(text, at)
        if not isinstance(name, str):
            raise json.JSONDecodeError("a name should stand here", text, at)
        at = _skip_separators(text, at)
        if name in wanted and text[at] == "[":
            at = _skip_separators(text, at + 1)
            while text[at] != "]":
                entry, at = decode(text, at)
                yield name, entry
                at = _skip_separators(text, at)
            at = _skip_separators(text, at + 1)
        else:
            at = _skip_separators(text, decode(text, at)[1])


def _skip_separators(text: str, at: int) -> int:
    """Return where the next value begins."""
    found = _SEPARATORS.match(text, at)
    return found.end() if found else at


def _build_objects(root: Path, columns: _CocoColumns, ignored: Counter[str]) -> AnnotatedObjects:
    """Build the images of one JSON that exist, and the objects in them."""
    places = _find_files(root, columns)
    exists = np.array([bool(place) for place in places], bool)
    image_rows, listed = _find_rows(np.array(columns.ids), np.array(columns.image_ids))
    keep = listed & exists[image_rows]
    ignored += Counter(
        {
            "images that are listed but not there": int((~exists).sum()),
            "annotations of images that are not listed": int((~listed).sum()),
        }
    )
    kind, names = _class_indices(columns)
    corners = np.array(columns.boxes).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return AnnotatedObjects(
        root,
        [place for place in places if place],
        np.full(int(exists.sum()), _split_of_file(columns.path), np.int8),
        (np.cumsum(exists) - 1)[image_rows[keep]],
        kind[keep],
        corners[keep],
        np.array(columns.crowds, bool)[keep],
        names,
    )


def _class_indices(columns: _CocoColumns) -> tuple[NDArray[np.intp], list[str]]:
    """Return the class of each object as an index into the names of the classes, each name once."""
    rows, known = _find_rows(np.array(list(columns.classes)), np.array(columns.category_ids))
    if not known.all():
        number = columns.category_ids[int(np.flatnonzero(~known)[0])]
        number = next((repr(name) for name, own in columns.text_ids.items() if own == number), number)
        raise DataError(f"{columns.path} has an annotation of category {number}, which 'categories' does not list.")
    names = list(dict.fromkeys(columns.classes.values()))
    index = {name: at for at, name in enumerate(names)}
    return np.array([index[name] for name in columns.classes.values()], np.intp)[rows], names


def _find_rows(ids: NDArray[np.integer], wanted: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the row of each wanted id, and whether it has one."""
    order = np.argsort(ids, kind="stable")
    rows = order[np.searchsorted(ids[order], wanted).clip(max=len(ids) - 1)]
    return rows, ids[rows] == wanted


def _find_files(root: Path, columns: _CocoColumns) -> list[str]:
    """Return the path of each image relative to `root`; empty where it is not there."""
    called = columns.path.stem.removeprefix("instances_")
    beside = columns.path.parent.relative_to(root).as_posix()
    folders = dict.fromkeys([called, f"images/{called}", "images", beside, ".", f"../{called}", "../images"])
    prefixes = ["" if folder == "." else f"{folder}/" for folder in folders]
    ways = ([prefix + name for prefix in prefixes] for name in columns.names)
    place = TableFolder.from_folder(root)
    return [next(filter(None, map(place.find, tried)), "") for tried in ways]


def _split_of_file(path: Path) -> int:
    """Return the part of the split that a JSON is named after, or the folder that it lies in."""
    said = _SPLIT_WORD.search((path.parent.name if path.name[0] == "_" else path.stem).lower())
    return SPLIT_FOLDERS[said[0]] if said else UNSPLIT


def _concatenate(root: Path, found: list[AnnotatedObjects]) -> AnnotatedObjects:
    """Concatenate several parts; categories are matched by name."""
    classes = list(dict.fromkeys(name for part in found for name in part.classes))
    starts = np.cumsum([0, *(len(part.names) for part in found)])
    return AnnotatedObjects(
        root,
        [name for part in found for name in part.names],
        np.concatenate([part.parts for part in found]),
        np.concatenate([part.image_rows + start for part, start in zip(found, starts, strict=False)]),
        np.concatenate([_renumber_classes(part, classes) for part in found]),
        np.concatenate([part.boxes for part in found]),
        np.concatenate([part.excluded for part in found]),
        classes,
    )


def _renumber_classes(part: AnnotatedObjects, classes: list[str]) -> NDArray[np.intp]:
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number[name] for name in part.classes], np.intp)[part.class_indices]
