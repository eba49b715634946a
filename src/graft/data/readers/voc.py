"""Pascal VOC: JPEGImages, an XML of objects for each image in Annotations, lists of the parts in ImageSets/Main."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.images import normalise_name
from graft.data.readers.objects import AnnotatedObjects, objects_to_dataset
from graft.errors import DataError
from graft_runtime.formats import SUFFIXES
from graft_runtime.walk import is_hidden

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
SPLIT_LISTS = {"trainval": TRAIN, "train": TRAIN, "val": VALID, "test": TEST}  # a later list overrules an earlier one
DIFFICULT_LABEL = "difficult objects"
BOX_FIELDS = ("xmin", "ymin", "xmax", "ymax")


def is_voc(path: Path) -> bool:
    """Whether a folder, or one inside it, is laid out as Pascal VOC."""
    return bool(_find_roots(path))


def read_voc(path: str | Path, *, boxes: bool = False) -> Dataset:
    """Read images with the classes of their objects, several an image; with `boxes` each object by itself.

    `path` is VOC2012, or the VOCdevkit that it lies in. train, val and test are taken from ImageSets/Main, and an
    image that is in no list there is left out: VOC2012 marks in those only some of the objects. Without Annotations,
    CLASS_train.txt and so on say which images show a class (1, or 0 for difficult ones) and which do not (-1).
    A difficult object counts for its image, as it is there; as an image of its own it is left out.

    Raises DataError: no VOC folder or several, no images, an XML that cannot be read, or that declares entities.
    Format: Everingham et al. 2010, https://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html
    """
    root = _find_root(Path(path))
    ignored: Counter[str] = Counter()
    marks, parts = _files_by_stem(root / ANNOTATIONS, (".xml",)), _read_split(root)
    if boxes and not marks:
        raise DataError(f"{root / ANNOTATIONS} holds no XML files, so there are no boxes to cut out.")
    files = _select_images(_files_by_stem(root / IMAGES, SUFFIXES), marks, parts, ignored)
    split = np.array([parts.get(stem, UNSPLIT) for stem in files], np.int8)
    found = _from_annotations(root, files, split, marks) if marks else _from_lists(root, files, split)
    return objects_to_dataset(found, dict(ignored), boxes=boxes, unfit=DIFFICULT_LABEL)


def _find_roots(path: Path) -> list[Path]:
    places = [path, *sorted(path.glob("VOC*")), *sorted(path.glob("VOCdevkit/VOC*"))]
    candidates = [each for each in places if (each / ANNOTATIONS).is_dir() or (each / LISTS).is_dir()]
    return [each for each in candidates if (each / IMAGES).is_dir()]


def _find_root(path: Path) -> Path:
    roots = _find_roots(path)
    if not roots:
        raise DataError(f"{path} is not laid out as Pascal VOC: it needs folders {IMAGES} and {ANNOTATIONS}.")
    if len(roots) > 1:
        raise DataError(f"{path} holds several data sets: {', '.join(map(str, roots))}. Please name one of them.")
    return roots[0]


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """File names by their stems, sorted."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    seen = [name for name in names if name.lower().endswith(suffixes) and not is_hidden(name)]
    return {normalise_name(Path(name).stem): name for name in seen}


def _normalise_stem(listed: str) -> str:
    """Return the stem by which a list names an image: mostly without its ending and folder, but some have these."""
    name = normalise_name(listed.strip().replace("\\", "/").rpartition("/")[2])
    return Path(name).stem if name.lower().endswith((*SUFFIXES, ".xml")) else name


def _read_split(root: Path) -> dict[str, int]:
    """The part of each image that a list names; empty where there are no lists."""
    parts: dict[str, int] = {}
    for name, code in SPLIT_LISTS.items():
        plain = root / LISTS / f"{name}.txt"
        if plain.is_file():
            parts |= dict.fromkeys(filter(None, map(_normalise_stem, _read_lines(plain))), code)
        else:
            for path in _class_lists(root, name):
                parts |= {stem: code for stem, _ in _read_flags(path)}
    return parts


def _class_lists(root: Path, part: str) -> list[Path]:
    """The lists of one part that are about one class each: dog_train.txt."""
    return sorted((root / LISTS).glob(f"*_{part}.txt"))


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {path} cannot be read: {error}.") from error


def _read_flags(path: Path) -> Iterator[tuple[str, int]]:
    """(image, -1, 0 or 1) of each line."""
    for number, line in enumerate(_read_lines(path), 1):
        stem, *flag = line.strip().rsplit(maxsplit=1) or [""]
        if stem and (not flag or flag[0] not in ("-1", "0", "1")):
            raise DataError(f"Line {number} of {path} is not an image and -1, 0 or 1: {line!r}.")
        if stem:
            yield _normalise_stem(stem), int(flag[0])


def _select_images(
    files: dict[str, str], xml_by_stem: dict[str, str], parts: dict[str, int], ignored: Counter[str]
) -> dict[str, str]:
    """The images that are there, annotated, and listed where there are lists; the others are counted."""
    known = xml_by_stem or parts
    listed = {stem: name for stem, name in files.items() if not parts or stem in parts}
    chosen = {stem: name for stem, name in listed.items() if stem in known}
    absent = sum(stem not in files and (not parts or stem in parts) for stem in known)
    ignored += Counter(
        {
            f"images in no list of {LISTS}": len(files) - len(listed),
            "images without an annotation": len(listed) - len(chosen),
            "annotations without their image": absent,
        }
    )
    return chosen


def _from_annotations(
    root: Path, files: dict[str, str], split: NDArray[np.int8], marks: dict[str, str]
) -> AnnotatedObjects:
    """The objects in the XML of each image."""
    owner, kind, boxes, unfit, classes = array("q"), array("q"), array("d"), array("b"), dict[str, int]()
    for row, stem in enumerate(files):
        for name, box, difficult in _read_objects(root / ANNOTATIONS / marks[stem]):
            owner.append(row)
            kind.append(classes.setdefault(name, len(classes)))
            boxes.extend(box)
            unfit.append(difficult)
    return AnnotatedObjects(
        root,
        _image_paths(files),
        split,
        np.array(owner, np.intp),
        np.array(kind, np.intp),
        np.array(boxes).reshape(-1, 4),
        np.array(unfit, bool),
        list(classes),
    )


def _from_lists(root: Path, files: dict[str, str], split: NDArray[np.int8]) -> AnnotatedObjects:
    """The classes that lists say an image shows; they have no boxes."""
    rows = {stem: row for row, stem in enumerate(files)}
    owner, kind, classes = array("q"), array("q"), dict[str, int]()
    for part in SPLIT_LISTS:
        for path in _class_lists(root, part):
            index = classes.setdefault(path.stem.removesuffix(f"_{part}"), len(classes))
            shown = [rows[stem] for stem, flag in _read_flags(path) if flag >= 0 and stem in rows]
            owner.extend(shown)
            kind.extend([index] * len(shown))
    boxes, unfit = np.zeros((len(owner), 4)), np.zeros(len(owner), bool)
    owners, kinds = np.array(owner, np.intp), np.array(kind, np.intp)
    return AnnotatedObjects(root, _image_paths(files), split, owners, kinds, boxes, unfit, list(classes))


def _image_paths(files: dict[str, str]) -> list[str]:
    return [f"{IMAGES}/{name}" for name in files.values()]


def _read_objects(path: Path) -> Iterator[tuple[str, list[float], bool]]:
    """(class, box, whether difficult) of each object in an annotation."""
    for each in _parse_xml(path).iterfind("object"):
        name = (each.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{path} has an object without a name.")
        box = each.find("bndbox")
        try:
            left, top, right, bottom = (
                float(box.findtext(edge, "0")) if box is not None else 0.0 for edge in BOX_FIELDS
            )
        except ValueError as error:
            raise DataError(f"{path} has a box of {name!r} that is not four numbers: {error}.") from error
        difficult = each.findtext("difficult", "0").strip() == "1"
        yield name, [left - 1, top - 1, right, bottom], difficult  # VOC counts pixels from 1 and includes the last


class _SafeTreeBuilder(ElementTree.TreeBuilder):
    """Refuses a document type, the one place where entities are declared, before anything is expanded."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a DOCTYPE, which may hide endless entities; an annotation needs none")


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path, ElementTree.XMLParser(target=_SafeTreeBuilder())).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path} is not an XML that can be read: {error}.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
