"""Columns of images: files, arrays, crops, cached images, files beside a table; advice on files that are no images."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graft.progress import ProgressWrapper, no_progress
from graft_runtime.formatting import join_with_and
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


# --- files that are no images -----------------------------------------------------------------------------------------

AUDIO = (".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".wma", ".aiff", ".mid")
TEXT = (".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".html", ".md", ".doc", ".docx")
VIDEO = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".3gp")
PDF = (".pdf",)
TEXT_COLUMNS = (
    "text",
    "texts",
    "sentence",
    "sentences",
    "review",
    "comment",
    "message",
    "document",
    "utterance",
)  # columns

OTHER_JOB = "not this program's job, which classifies images"
VIDEO_ADVICE = "extract frames of a video as images first, as with ffmpeg -i clip.mp4 -vf fps=1 frame-%05d.jpg"
PDF_ADVICE = "convert the pages of a PDF to images first, as with pdftoppm -jpeg -r 100 file.pdf page"


def describe_foreign_files(names: Iterable[str]) -> str:
    """Return a sentence about those of these files that are audio, text, video or PDF; empty where none is.

    >>> describe_foreign_files(["a.wav", "b.WAV"])
    "It holds 2 .wav files: audio is not this program's job, which classifies images."
    """
    endings = Counter(PurePosixPath(name).suffix.lower() for name in names)
    most_first = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    found = [(ending, count) for ending, count in most_first if ending in (*AUDIO, *TEXT, *VIDEO, *PDF)]
    if not found:
        return ""
    counts = [f"{count:,} {ending} file{'s' * (count != 1)}" for ending, count in found]
    return f"It holds {join_with_and(counts)}: {format_advice([ending for ending, _ in found])}."


def format_advice(endings: Iterable[str]) -> str:
    """Return advice on these kinds of files, without a full stop; empty for none of them."""
    known = set(endings)
    kinds = [name for name, kind in (("audio", AUDIO), ("text", TEXT)) if known & set(kind)]
    clauses = [f"{join_with_and(kinds)} {'are' if len(kinds) > 1 else 'is'} {OTHER_JOB}"] if kinds else []
    clauses += [clause for clause, kind in ((VIDEO_ADVICE, VIDEO), (PDF_ADVICE, PDF)) if known & set(kind)]
    return "; ".join(clauses)


def describe_text_column(header: Iterable[str]) -> str:
    """A sentence about a table that has texts in place of images; empty where no column is called so."""
    name = next((name for name in header if name.lower() in TEXT_COLUMNS), "")
    return f"Its column {name!r} seems to hold text, which is {OTHER_JOB}. " if name else ""


def normalise_name(name: str) -> str:
    """Normalise a name to NFC: each accented letter as one."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class TableFolder:
    """A folder with a table, and what lies beside it."""

    name: str  # what to call it
    has_file: Callable[[str], bool]  # whether a file is there
    list_names: Callable[[str], Iterable[str]]  # what a folder holds
    open_images: Callable[[list[str]], Images]
    read: Callable[[str], bytes]  # a file beside the table
    watch: ProgressWrapper = no_progress  # over the files that are looked for
    stored_names: dict[str, dict[str, str]] = field(
        default_factory=dict
    )  # of folders: names as stored, by composed ones

    @classmethod
    def from_folder(cls, folder: Path, watch: ProgressWrapper = no_progress) -> TableFolder:
        """A folder on the disk."""

        def names(path: str) -> list[str]:
            with suppress(OSError, ValueError):
                return os.listdir(folder / path)
            return []

        return cls(
            str(folder),
            lambda name: os.path.isfile(folder / name),  # of a name that cannot be it says no, as Path does not
            names,
            lambda names: ImageFiles.from_names(names, str(folder)),
            lambda name: (folder / name).read_bytes(),
            watch,
        )

    def find(self, name: str) -> str:
        """Return the name that a file is stored by; '' where there is none.

        The same letters can be stored in two ways (é as one letter, or as e and an accent: macOS does that), and a
        table may have the other one.
        """
        if self.has_file(name):
            return name
        if name.isascii():
            return ""
        path = "/" if name.startswith("/") else ""
        for step in filter(None, name.split("/")):
            own = step if step in (".", "..") else self._names_in(path).get(normalise_name(step), "")
            if not own:
                return ""
            path = posixpath.join(path, own)
        return path if self.has_file(path) else ""

    def _names_in(self, folder: str) -> dict[str, str]:
        if folder not in self.stored_names:
            self.stored_names[folder] = {normalise_name(name): name for name in self.list_names(folder)}
        return self.stored_names[folder]
