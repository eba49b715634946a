"""Columns of images: files, arrays, crops, cached and concatenated images. Archives and tables have their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graft_runtime.image import ImageError, decode, read

Raw = bytes | NDArray[np.uint8]  # an image as stored: the bytes of its file, or its pixels


class ContentDigest(bytes):
    """The digest of an image in place of its bytes: enough where its features are in the cache."""


@runtime_checkable
class Images(Protocol):
    """A column of images, none of them in memory unless it has to be.

    `root` is what a person would call the place where they are; `name` what to call one of them in front of a person.
    `read` may be called from several threads at once; it raises OSError or ImageError.
    """

    @property
    def root(self) -> str: ...

    def __len__(self) -> int: ...

    def take(self, rows: NDArray[np.integer]) -> Self: ...

    def name(self, row: int) -> str: ...

    def read(self, row: int) -> Raw: ...


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Files by their paths, as a column of strings: a million of them are a million short strings."""

    names: NDArray[Any]  # of numpy's StringDType
    root: str = ""

    @classmethod
    def from_names(cls, names: Sequence[str], root: str = "") -> Self:
        """Paths below a folder."""
        return cls(np.array(names, dtype=np.dtypes.StringDType()), root)

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.integer]) -> ImageFiles:
        return ImageFiles(self.names[rows], self.root)

    def name(self, row: int) -> str:
        return str(self.names[row])

    def read(self, row: int) -> bytes:
        return read(Path(self.root) / str(self.names[row]))


@dataclass(frozen=True, eq=False)
class InMemoryImages:
    """Pixels, uint8 [height, width, 3] each; or the bytes of files."""

    images: Sequence[Raw]
    root: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: NDArray[np.integer]) -> InMemoryImages:
        return InMemoryImages([self.images[row] for row in rows], self.root)

    def name(self, row: int) -> str:
        return f"image {row}"

    def read(self, row: int) -> Raw:
        return self.images[row]


@dataclass(frozen=True, eq=False)
class MixedImages:
    """Images in memory and files in one list; `rows` [n] index `items`."""

    items: Sequence[Raw | str]
    rows: NDArray[np.intp]
    root: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> MixedImages:
        return replace(self, rows=self.rows[rows])

    def name(self, row: int) -> str:
        own = self.items[self.rows[row]]
        return own if isinstance(own, str) else f"image {self.rows[row]}"

    def read(self, row: int) -> Raw:
        own = self.items[self.rows[row]]
        return ImageFiles.from_names([own]).read(0) if isinstance(own, str) else own


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size in one array, as data sets of small images are published.

    `pixels` uint8 [images, channels, height, width], 1 or 3 channels; `rows` [n] says which of them this column has.
    `files` says, in front of a person, where they came from: names, and how many images each had, in order.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.intp]
    files: dict[str, int]
    root: str = ""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> ArrayImages:
        return replace(self, rows=self.rows[rows])  # the array itself is shared, not copied

    def name(self, row: int) -> str:
        ends = np.cumsum(list(self.files.values()))
        file = int(np.searchsorted(ends, self.rows[row], side="right"))
        start = int(ends[file - 1]) if file else 0
        return f"{list(self.files)[file]} [{int(self.rows[row]) - start}]"

    def read(self, row: int) -> NDArray[np.uint8]:
        image = self.pixels[self.rows[row]].transpose(1, 2, 0)
        return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


@dataclass(frozen=True, eq=False)
class ImageCrops:
    """Boxes cut out of other images: each is an image of its own.

    `boxes` int32 [n, 4] are left, top, right and bottom in pixels, of the image as it stands upright; what reaches
    over the edge is cut off.
    """

    images: Images
    boxes: NDArray[np.int32]

    @property
    def root(self) -> str:
        """The place of the whole images."""
        return self.images.root

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: NDArray[np.integer]) -> ImageCrops:
        return ImageCrops(self.images.take(rows), self.boxes[rows])

    def name(self, row: int) -> str:
        return f"{self.images.name(row)} [{','.join(map(str, self.boxes[row].tolist()))}]"

    def read(self, row: int) -> NDArray[np.uint8]:
        raw = self.images.read(row)
        pixels = decode(raw) if isinstance(raw, bytes) else raw
        left, top, right, bottom = self.boxes[row].clip(0).tolist()
        crop = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
        if not crop.size:
            raise ImageError("box outside the image")
        return np.ascontiguousarray(crop)


@dataclass(frozen=True, eq=False)
class CachedImages:
    """Images known by name and digest [n, 16]; `positions` [n] are their rows in `source`, -1 where they are not there.

    `read` returns the digest (see `ContentDigest`) of an image that is not at hand.
    """

    names: NDArray[Any]  # of numpy's StringDType
    digests: NDArray[np.uint8]
    positions: NDArray[np.intp]
    source: Images | None = None
    root: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.integer]) -> CachedImages:
        return replace(self, names=self.names[rows], digests=self.digests[rows], positions=self.positions[rows])

    def name(self, row: int) -> str:
        return str(self.names[row])

    def read(self, row: int) -> Raw:
        if self.source is None or self.positions[row] < 0:
            return ContentDigest(self.digests[row].tobytes())
        return self.source.read(int(self.positions[row]))


@dataclass(frozen=True, eq=False)
class ConcatenatedImages:
    """Several columns as one; `column_indices` [n] is the column of each image, `rows` [n] its row there."""

    columns: tuple[Images, ...]
    column_indices: NDArray[np.intp]
    rows: NDArray[np.intp]

    @classmethod
    def from_columns(cls, columns: Sequence[Images]) -> ConcatenatedImages:
        """Concatenate columns."""
        lengths = [len(column) for column in columns]
        rows = np.concatenate([np.arange(length) for length in lengths])
        return cls(tuple(columns), np.repeat(np.arange(len(columns)), lengths), rows)

    @property
    def root(self) -> str:
        """The place of the first."""
        return self.columns[0].root

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> ConcatenatedImages:
        return replace(self, column_indices=self.column_indices[rows], rows=self.rows[rows])

    def name(self, row: int) -> str:
        return self.columns[self.column_indices[row]].name(int(self.rows[row]))

    def read(self, row: int) -> Raw:
        return self.columns[self.column_indices[row]].read(int(self.rows[row]))
