"""CIFAR-10, CIFAR-100, IDX files (MNIST) and ImageNet as they are published: archives, files or class folders.

CIFAR's Python version is pickled, and a pickle can run any program. Here none of it is executed: the few names that the
files need are given stand-ins that only keep what they were called with, and any other name is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import math
import os
import pickle
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft import extras
from graft.data.dataset import TEST, TRAIN, Dataset
from graft.data.images import ArrayImages
from graft.data.readers.folder import SPLIT_FOLDERS, read_folder
from graft.data.readers.objects import drop_single_split
from graft.errors import DataError
from graft.progress import ProgressWrapper, no_progress

ARCHIVES = (".tar.gz", ".tgz")
SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32  # bytes
CHECK_BYTES = 2**20
MAX_FILE_BYTES = 256 * 2**20  # bytes of one file; the largest that is published has 156 MB

_CIFAR10_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
_CIFAR100_FILES = ("train", "test")
_NAME_FILES = ("batches.meta", "batches.meta.txt", "meta", "fine_label_names.txt", "coarse_label_names.txt")
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-100-python", "cifar-100-binary")
_PUBLISHED = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz")


@dataclass(frozen=True, eq=False)
class _Batch:
    """One file of images, uint8 [n, 3, 32, 32], and their labels [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def is_cifar(path: Path) -> bool:
    """Whether an archive, or a folder with what came out of one, lies at a path."""
    return _first_folder(path) in _FOLDERS if path.is_file() else bool(_find_sources(path))


def _first_folder(path: Path) -> str:
    """The folder that the first member of an archive is in; nothing where there is none."""
    try:
        with tarfile.open(path, "r|gz") as members:
            first = members.next()
            return first.name.partition("/")[0] if first else ""
    except (tarfile.TarError, EOFError, zlib.error, OSError):
        return ""  # what is wrong with it, its reader will tell


def read_cifar(path: str | Path, *, coarse: bool = False) -> Dataset:
    """Read CIFAR-10, or CIFAR-100 with its 100 fine classes or its 20 coarse ones.

    `path` is the archive (.tar.gz), the folder that was in it, or the folder that this lies in. The published test
    images are the test part. All images are in memory, 3 kB each.

    Raises DataError: nothing of CIFAR there, a file that is damaged, or a pickle that asks for anything but numbers
    and texts, of which nothing is executed.
    Format: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html
    """
    path = Path(path)
    places = _find_sources(path)
    if len(places) != 1:
        held = f"several versions: {', '.join(map(str, places))}. Please name one" if places else "no files of CIFAR"
        raise DataError(f"{path} holds {held}.")
    files = dict(_read_archive(places[0]) if places[0].is_file() else _read_files(places[0]))
    order = _find_batches(places[0], files)
    names = _read_class_names(places[0], files, coarse)
    batches = {name: _parse_batch(places[0], name, files.pop(name), coarse) for name in order}
    labels = np.concatenate([batch.labels for batch in batches.values()])
    if not 0 <= labels.min() <= labels.max() < len(names):
        raise DataError(f"{places[0]} has labels from {labels.min()} to {labels.max()}, and {len(names)} classes.")
    counts = {name: len(batch.labels) for name, batch in batches.items()}
    pixels = np.concatenate([batch.pixels for batch in batches.values()])
    codes = [TEST if name.startswith("test") else TRAIN for name in counts]
    split = drop_single_split(np.repeat(np.array(codes), list(counts.values())))
    column = ArrayImages(pixels, np.arange(len(pixels)), counts, str(path))
    return Dataset(column, labels.astype(np.int32), names, split)


def _find_sources(path: Path) -> list[Path]:
    """The folders with batches, or else the archives, at a path."""
    if path.is_file():
        return [path] if path.name.endswith(ARCHIVES) else []
    folders = [folder for folder in (path, *(path / name for name in _FOLDERS)) if _has_batches(folder)]
    return folders or [path / name for name in _PUBLISHED if (path / name).is_file()]


def _has_batches(folder: Path) -> bool:
    return any(
        all((folder / name).is_file() for name in names)
        for names in (
            _CIFAR10_FILES[:1],
            ("data_batch_1.bin",),
            ("meta", "train"),
            ("fine_label_names.txt", "train.bin"),
        )
    )


def _is_needed(name: str) -> bool:
    return name in _NAME_FILES or name.removesuffix(".bin") in (*_CIFAR10_FILES, *_CIFAR100_FILES)


def _read_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for each in sorted(folder.iterdir()):
        if _is_needed(each.name) and each.is_file():
            _check_size(each, each.stat().st_size)
            yield each.name, each.read_bytes()


def _read_archive(archive: Path) -> Iterator[tuple[str, bytes]]:
    """What is wanted of an archive, read one after another; nothing is unpacked onto the disk."""
    try:
        with gzip.open(archive) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as members:
            for member in members:
                name = Path(member.name).name
                if _is_needed(name) and member.isfile() and (file := members.extractfile(member)):
                    _check_size(archive / name, member.size)
                    yield name, file.read()
            while unpacked.read(CHECK_BYTES):  # to the end, where the checksum is
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"The archive {archive} is damaged or not complete: {error}. Please fetch it anew.") from error


def _check_size(file: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise DataError(f"{file} has {size:,} bytes; no file of CIFAR has more than {MAX_FILE_BYTES:,}.")


def _find_batches(place: Path, files: dict[str, bytes]) -> list[str]:
    found = [
        f"{name}{end}"
        for name in (*_CIFAR10_FILES, *_CIFAR100_FILES)
        for end in ("", ".bin")
        if f"{name}{end}" in files
    ]
    if not found:
        raise DataError(f"{place} holds no files of CIFAR such as data_batch_1, train or train.bin.")
    return found


def _is_cifar100(files: dict[str, bytes]) -> bool:
    return "train" in files or "train.bin" in files


def _read_class_names(place: Path, files: dict[str, bytes], coarse: bool) -> tuple[str, ...]:
    if coarse and not _is_cifar100(files):
        raise DataError(f"{place} is CIFAR-10, which has no coarse classes; CIFAR-100 has.")
    kind = ("coarse" if coarse else "fine") + "_label_names" if _is_cifar100(files) else "label_names"
    text = f"{kind}.txt" if _is_cifar100(files) else "batches.meta.txt"
    pickled = "meta" if _is_cifar100(files) else "batches.meta"
    if text in files:
        return tuple(files[text].decode("utf-8", "replace").split())
    if pickled in files:
        names = _unpickle(place / pickled, files[pickled]).get(kind)
        if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
        raise DataError(f"{place / pickled} has no list {kind!r} with names of classes.")
    raise DataError(f"{place} has no file {pickled} or {text}, which say what the classes are called.")


def _parse_batch(place: Path, name: str, raw: bytes, coarse: bool) -> _Batch:
    if name.endswith(".bin"):
        return _parse_binary(place / name, raw, int(name in ("train.bin", "test.bin")), coarse)
    return _parse_pickle(place / name, _unpickle(place / name, raw), coarse)


def _parse_binary(file: Path, raw: bytes, fine: int, coarse: bool) -> _Batch:
    """Rows of one or two labels, coarse then fine, and the pixels."""
    width = IMAGE_BYTES + 1 + fine
    if not raw or len(raw) % width:
        raise DataError(f"{file} is damaged or not complete: {len(raw):,} bytes are no multiple of {width:,}.")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, width)
    column = 0 if coarse else fine
    return _Batch(rows[:, 1 + fine :].reshape(-1, *SHAPE), rows[:, column].astype(np.int64))


def _parse_pickle(file: Path, found: dict[Any, Any], coarse: bool) -> _Batch:
    labels = found.get("coarse_labels") if coarse else found.get("labels", found.get("fine_labels"))
    if (
        not isinstance(labels, list)
        or not labels
        or not all(type(label) is int and 0 <= label < 256 for label in labels)
    ):
        raise DataError(f"{file} has no list of labels as CIFAR has.")
    data = found.get("data")
    raw = data.content((len(labels), IMAGE_BYTES)) if isinstance(data, _PickledArray) else None
    if raw is None or len(raw) != len(labels) * IMAGE_BYTES:
        raise DataError(f"{file} has {len(labels):,} labels and not an array of as many images of 32 x 32 pixels.")
    return _Batch(np.frombuffer(raw, np.uint8).reshape(-1, *SHAPE), np.array(labels, np.int64))


class _PickledArray:
    """Stands where a pickle asks numpy for an array or a dtype: keeps the bytes, and does nothing with them."""

    def __init__(self, *arguments: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def content(self, shape: tuple[int, ...]) -> bytes | None:
        """The bytes of an array of this shape, the last of (version, shape, dtype, whether by columns, bytes)."""
        if not isinstance(self.state, tuple) or len(self.state) != 5 or self.state[3] or self.state[1] != shape:
            return None
        last = self.state[4]
        return last.encode("latin-1", "replace") if isinstance(last, str) else last if type(last) is bytes else None


class _PickledBytes:
    """What stands for bytes in a pickle of protocol 2 that Python 3 wrote."""

    __slots__ = ()  # so that a pickle can change nothing about it

    def __call__(self, text: str, encoding: str) -> bytes:
        return text.encode("latin-1")


_STAND_INS: dict[str, Callable[..., Any]] = {
    "numpy.core.multiarray._reconstruct": _PickledArray,
    "numpy._core.multiarray._reconstruct": _PickledArray,
    "numpy.ndarray": _PickledArray,
    "numpy.dtype": _PickledArray,
    "_codecs.encode": _PickledBytes(),
}


class _Unpickler(pickle._Unpickler):
    """Knows no name but the stand-ins.

    Of the two that Python has this one is written in Python: the other can be told to take 64 GB of memory by a pickle
    of ten bytes (the operation LONG_BINPUT).
    """

    def find_class(self, module: str, name: str, /) -> Any:
        if stand_in := _STAND_INS.get(f"{module}.{name}"):
            return stand_in
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no file of CIFAR needs; nothing was executed")


def _unpickle(file: Path, raw: bytes) -> dict[Any, Any]:
    try:
        found = _Unpickler(io.BytesIO(raw), encoding="latin-1").load()
    except Exception as error:  # hostile bytes raise nearly everything: KeyError, IndexError, struct.error
        raise DataError(f"{file} is no pickle of CIFAR: {str(error) or type(error).__name__}.") from error
    if not isinstance(found, dict):
        raise DataError(f"{file} is no pickle of CIFAR: it holds no dictionary.")
    return found


MAX_PIXEL_BYTES = 4 * 2**30  # bytes of pixels in one file
CHUNK_BYTES = 2**24  # what is read at once: a header may promise gigabytes that are not there

_NAME = re.compile(r"(?P<of>.*?)(?P<part>train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")


def is_idx(path: Path) -> bool:
    """Whether a folder, or `raw` inside it, has images in files as MNIST's."""
    return bool(_find_image_files(path))


def read_idx(path: str | Path) -> Dataset:
    """Read the images of train-images-idx3-ubyte and t10k-images-idx3-ubyte, the latter as test part.

    Each may be packed (.gz) and lie in `path` or in a folder `raw` there. The classes are called by their numbers; they
    become names by `dataclasses.replace(data, classes=...)`. All images are in memory.

    Raises DataError: no such files, several data sets, a file that is damaged, or another number of labels than
    of images.
    Format: LeCun 1998, http://yann.lecun.com/exdb/mnist/
    """
    path = Path(path)
    found = _find_image_files(path)
    if not found:
        raise DataError(f"{path} holds no file such as train-images-idx3-ubyte or t10k-images-idx3-ubyte.gz.")
    if len({of for of, _ in found}) > 1:
        names = ", ".join(file.name for file in found.values())
        raise DataError(f"{path} holds several data sets: {names}. Put each into a folder of its own.")
    parts = {file: (TRAIN if part == "train" else TEST) for (_, part), file in found.items()}
    images = [_read_array(file, 3) for file in parts]
    labels = [_read_labels(file, len(values)) for file, values in zip(parts, images, strict=True)]
    if len({values.shape[1:] for values in images}) > 1:
        raise DataError(f"{path} holds images of several sizes: {[values.shape[1:] for values in images]}.")
    pixels = np.concatenate(images)[:, None]
    numbers, known = np.unique(np.concatenate(labels), return_inverse=True)
    counts = {file.name: len(values) for file, values in zip(parts, images, strict=True)}
    column = ArrayImages(pixels, np.arange(len(pixels)), counts, str(path))
    split = drop_single_split(np.repeat(np.array(list(parts.values())), list(counts.values())))
    return Dataset(column, known.astype(np.int32), tuple(map(str, numbers.tolist())), split)


def _find_image_files(path: Path) -> dict[tuple[str, str], Path]:
    """The files of images by data set and part; of a packed and an unpacked one the latter."""
    for folder in (path, path / "raw"):
        named = ((file, _NAME.fullmatch(file.name)) for file in sorted(folder.glob("*-images[-.]idx3-ubyte*"))[::-1])
        if found := {(name["of"], name["part"]): file for file, name in named if name}:
            return dict(sorted(found.items(), reverse=True))  # train before test and t10k
    return {}


def _read_labels(images: Path, count: int) -> NDArray[np.uint8]:
    """The labels beside a file of images, packed or not."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    file = next((images.with_name(each) for each in (name, f"{name}.gz") if images.with_name(each).is_file()), None)
    if file is None:
        raise DataError(f"{images} has no labels beside it: there is no {name} and no {name}.gz.")
    labels = _read_array(file, 1)
    if len(labels) != count:
        raise DataError(f"{file} has {len(labels):,} labels, {images.name} has {count:,} images.")
    return labels


def _read_array(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of a file as an array: magic number, sizes, values. Raises DataError unless it is exactly whole."""
    raw = bytearray()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _parse_shape(path, file.read(4 + 4 * dimensions), dimensions)
            size = math.prod(shape)
            while piece := file.read(min(CHUNK_BYTES, size + 1 - len(raw))):  # one byte more, to see that it ends there
                raw += piece
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or not complete: {error}. Please fetch it anew.") from error
    if len(raw) != size:
        held = f"more than {size:,}" if len(raw) > size else f"{len(raw):,} of {size:,}"
        raise DataError(f"{path} is damaged or not complete: it holds {held} values. Please fetch it anew.")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _parse_shape(path: Path, head: bytes, dimensions: int) -> list[int]:
    """The sizes that a file says it has, in the order that they stand in."""
    magic = (0x0800 + dimensions).to_bytes(4)  # bytes without a sign, and how many dimensions
    if head[:4] != magic or len(head) < 4 + 4 * dimensions:
        kind = f"no IDX file of bytes in {dimensions} dimensions"
        raise DataError(f"{path} is {kind}: it begins with {head[:4].hex()!r}, not with {magic.hex()!r}.")
    shape = [int.from_bytes(head[at : at + 4]) for at in range(4, len(head), 4)]
    if not 0 < math.prod(shape) <= MAX_PIXEL_BYTES:
        sizes = " x ".join(map(str, shape))
        raise DataError(
            f"{path} says that it holds {sizes} values; at least 1 can be read and at most {MAX_PIXEL_BYTES:,}."
        )
    return shape


# --- ImageNet ---------------------------------------------------------------------------------------------------------

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
