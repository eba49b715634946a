"""Outputs of a frozen network, on disk, named by content: computed once, read ever after.

One folder for each frozen network (its weights, preprocessing and layers make the folder's name). In it, every run
that computes something writes one pair of files of its own, `ID.rows` (the numbers) and `ID.index` (whose they are),
so two runs at once cannot harm each other, and a run killed at any moment leaves whole rows behind: a row counts once
its index entry is complete, and its checksum is verified before the row is used.
"""

from __future__ import annotations

import errno
import os
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from graft.errors import OutputError
from graft.training.index import ENTRY, Index, Key
from graft_runtime import regular

_ENTRY = np.dtype([("digest", "S16"), ("view", "<u4"), ("checksum", "<u4")])  # ENTRY with the digest in one piece
_PART = 40  # bits of a place that number a row; those above number its part
_ROW = (1 << _PART) - 1


class Store:
    """The rows of one frozen network, numbers of the same type and shape.

    A context manager. Raises OutputError when the disk is full or the folder cannot be made.
    """

    def __init__(self, folder: Path, shape: Sequence[int], kind: type[np.floating] = np.float32) -> None:
        self.folder, self.shape, self.kind = folder, tuple(shape), kind
        self.width = int(np.prod(self.shape))
        self._index = Index()
        self._parts: list[NDArray[np.floating]] = []
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._written = 0
        _make(folder)
        entries = [np.empty(0, ENTRY)]
        for index in _by_age(folder):  # a row computed anew replaces the damaged one
            try:
                entries.append(self._entries(index))
            except (OSError, ValueError):  # another user's, or no file at all: what it may hold is computed again
                continue
        places = [(part << _PART) + np.arange(len(each)) for part, each in enumerate(entries[1:])]
        self._index.load(np.concatenate(entries), np.concatenate([np.empty(0, np.int64), *places]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: Key) -> bool:
        """Whether the row is there and sound; a damaged one is forgotten, so that it gets computed again."""
        found = self._index.find(key)
        if found is None:
            return False
        place, checksum = found
        sound = zlib.crc32(self._part(place >> _PART)[place & _ROW].tobytes()) == checksum
        if not sound:
            self._index.forget(key)
        return sound

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: Sequence[Key], rows: NDArray[np.floating]) -> None:
        """Append rows [n, *shape]; numbers first, index second, so that what is indexed is whole."""
        numbers, index = self._files or self._open()
        limits = np.finfo(self.kind)
        flat = np.ascontiguousarray(rows.reshape(len(keys), self.width).clip(limits.min, limits.max), self.kind)
        entries = [(*key, zlib.crc32(row.tobytes())) for key, row in zip(keys, flat, strict=True)]
        try:
            numbers.write(flat.tobytes())
            numbers.flush()
            index.write(np.array(entries, _ENTRY).tobytes())
            index.flush()
        except OSError as error:
            raise self._full(error) from error
        first = (len(self._parts) - 1 << _PART) + self._written
        self._index.add(keys, first, [checksum for _, _, checksum in entries])
        self._written += len(keys)

    def read(self, keys: Sequence[Key]) -> NDArray[np.float32]:
        """The rows of these keys, [n, *shape], from disk; raises KeyError for one that is not there."""
        out = np.empty((len(keys), self.width), np.float32)  # whatever the type on disk
        places = self._index.places(keys)
        for part in np.unique(places >> _PART).tolist():
            asked = np.flatnonzero(places >> _PART == part)
            out[asked] = self._part(part)[places[asked] & _ROW]
        return out.reshape(len(keys), *self.shape)

    def close(self) -> None:
        """Hand everything written to the disk."""
        try:
            for file in self._files or ():
                file.flush()
                os.fsync(file.fileno())
                file.close()
        except OSError as error:  # what a full disk did not take before, it does not take now
            raise self._full(error) from error
        if self._files:
            self._parts[-1] = self._mapped(self.folder / f"{self._name}.rows")
        self._files = None

    def _entries(self, index: Path) -> NDArray[Any]:
        """The whole entries of a part, which becomes one of ours. Raises OSError for one that cannot be read."""
        numbers = self._mapped(index.with_suffix(".rows"))
        with regular.opened(index) as file:
            raw = file.read(len(numbers) * ENTRY.itemsize)
        self._parts.append(numbers)
        return np.frombuffer(raw, ENTRY, count=len(raw) // ENTRY.itemsize)

    def _open(self) -> tuple[BinaryIO, BinaryIO]:
        rows, index = (self.folder / f"{self._name}{end}" for end in (".rows", ".index"))
        try:
            files = rows.open("xb"), index.open("xb")
        except OSError as error:
            raise self._full(error) from error
        self._files = files
        self._parts.append(np.empty((0, self.width), self.kind))
        return files

    def _part(self, part: int) -> NDArray[np.floating]:
        """The numbers of one part; the one being written is mapped anew when it has grown."""
        if self._files and part == len(self._parts) - 1 and len(self._parts[part]) < self._written:
            self._parts[part] = self._mapped(self.folder / f"{self._name}.rows")
        return self._parts[part]

    def _mapped(self, path: Path) -> NDArray[np.floating]:
        size = np.dtype(self.kind).itemsize * self.width
        with regular.opened(path) as file:
            rows = os.fstat(file.fileno()).st_size // size
            shape = (rows, self.width)
            return np.memmap(file, self.kind, "r", shape=shape) if rows else np.empty((0, self.width), self.kind)

    def _full(self, error: OSError) -> OutputError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "The disk is full" if full else f"Writing failed ({error.strerror})"
        return OutputError(
            f"{what}: features could not be cached in {self.folder}. {len(self):,} are kept there and will be used "
            f"next time. Free some space, or set GRAFT_CACHE to a folder on another disk."
        )


def _by_age(folder: Path) -> list[Path]:
    """The indexes in a folder, the oldest first; links that lead nowhere are none."""
    ages = dict[Path, tuple[int, str]]()
    for path in folder.glob("*.index"):
        with suppress(OSError):
            ages[path] = path.stat().st_mtime_ns, path.name
    return sorted(ages, key=lambda path: ages[path])


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The cache folder {folder} cannot be made ({error.strerror}). Set GRAFT_CACHE to a folder of yours."
        ) from error
