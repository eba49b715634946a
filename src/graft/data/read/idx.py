"""IDX, the format of MNIST and those after it (Fashion-MNIST, KMNIST, EMNIST): a file of pictures, one of labels."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN, Dataset
from graft.data.images import Pixels
from graft.data.read.objects import decided
from graft.errors import DataError

MOST = 4 * 2**30  # bytes of pixels in one file
PIECE = 2**24  # what is read at once: a header may promise gigabytes that are not there

_NAME = re.compile(r"(?P<of>.*?)(?P<part>train|t10k|test)-images[-.]idx3-ubyte(\.gz)?")


def is_idx(path: Path) -> bool:
    """Whether a folder, or `raw` inside it, has pictures in files as MNIST's."""
    return bool(_images(path))


def read_idx(path: str | Path) -> Dataset:
    """The pictures of train-images-idx3-ubyte and t10k-images-idx3-ubyte, the latter as test part.

    Each may be packed (.gz) and lie in `path` or in a folder `raw` there. The classes are called by their numbers; they
    become names by `dataclasses.replace(data, classes=...)`. All pictures are in memory.

    Raises DataError: no such files, several data sets, a file that is damaged, or another number of labels than
    of pictures.
    Format: LeCun 1998, http://yann.lecun.com/exdb/mnist/
    """
    path = Path(path)
    found = _images(path)
    if not found:
        raise DataError(f"{path} holds no file such as train-images-idx3-ubyte or t10k-images-idx3-ubyte.gz.")
    if len({of for of, _ in found}) > 1:
        names = ", ".join(file.name for file in found.values())
        raise DataError(f"{path} holds several data sets: {names}. Put each into a folder of its own.")
    parts = {file: (TRAIN if part == "train" else TEST) for (_, part), file in found.items()}
    pictures = [_values(file, 3) for file in parts]
    labels = [_labels(file, len(values)) for file, values in zip(parts, pictures, strict=True)]
    if len({values.shape[1:] for values in pictures}) > 1:
        raise DataError(f"{path} holds pictures of several sizes: {[values.shape[1:] for values in pictures]}.")
    pixels = np.concatenate(pictures)[:, None]
    numbers, known = np.unique(np.concatenate(labels), return_inverse=True)
    counts = {file.name: len(values) for file, values in zip(parts, pictures, strict=True)}
    column = Pixels(pixels, np.arange(len(pixels)), counts, str(path))
    split = decided(np.repeat(np.array(list(parts.values())), list(counts.values())))
    return Dataset(column, known.astype(np.int32), tuple(map(str, numbers.tolist())), split)


def _images(path: Path) -> dict[tuple[str, str], Path]:
    """The files of pictures by data set and part; of a packed and an unpacked one the latter."""
    for folder in (path, path / "raw"):
        named = ((file, _NAME.fullmatch(file.name)) for file in sorted(folder.glob("*-images[-.]idx3-ubyte*"))[::-1])
        if found := {(name["of"], name["part"]): file for file, name in named if name}:
            return dict(sorted(found.items(), reverse=True))  # train before test and t10k
    return {}


def _labels(images: Path, count: int) -> NDArray[np.uint8]:
    """The labels beside a file of pictures, packed or not."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    file = next((images.with_name(each) for each in (name, f"{name}.gz") if images.with_name(each).is_file()), None)
    if file is None:
        raise DataError(f"{images} has no labels beside it: there is no {name} and no {name}.gz.")
    labels = _values(file, 1)
    if len(labels) != count:
        raise DataError(f"{file} has {len(labels):,} labels, {images.name} has {count:,} pictures.")
    return labels


def _values(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of a file as an array: magic number, sizes, values. Raises DataError unless it is exactly whole."""
    raw = bytearray()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            shape = _shape(path, file.read(4 + 4 * dimensions), dimensions)
            size = math.prod(shape)
            while piece := file.read(min(PIECE, size + 1 - len(raw))):  # one byte more, to see that it ends there
                raw += piece
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or not complete: {error}. Please fetch it anew.") from error
    if len(raw) != size:
        held = f"more than {size:,}" if len(raw) > size else f"{len(raw):,} of {size:,}"
        raise DataError(f"{path} is damaged or not complete: it holds {held} values. Please fetch it anew.")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, dimensions: int) -> list[int]:
    """The sizes that a file says it has, in the order that they stand in."""
    magic = (0x0800 + dimensions).to_bytes(4)  # bytes without a sign, and how many dimensions
    if head[:4] != magic or len(head) < 4 + 4 * dimensions:
        kind = f"no IDX file of bytes in {dimensions} dimensions"
        raise DataError(f"{path} is {kind}: it begins with {head[:4].hex()!r}, not with {magic.hex()!r}.")
    shape = [int.from_bytes(head[at : at + 4]) for at in range(4, len(head), 4)]
    if not 0 < math.prod(shape) <= MOST:
        sizes = " x ".join(map(str, shape))
        raise DataError(f"{path} says that it holds {sizes} values; at least 1 can be read and at most {MOST:,}.")
    return shape
