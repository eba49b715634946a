"""On-disk cache of the outputs of a frozen network, keyed by image content.

One folder for each frozen network (its name is a hash of weights, preprocessing and layers). In it, every run
that computes something writes one pair of files of its own, `ID.rows` (the numbers) and `ID.index` (their keys), so
two concurrent runs cannot corrupt each other, and a run killed at any moment leaves whole rows behind: a row counts
once its index entry is complete, and its checksum is verified before the row is used.
"""

from __future__ import annotations

import errno
import os
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from graft.errors import OutputError
from graft_runtime import safe_files

Key = tuple[bytes, int]  # content of an image, number of a view

ENTRY = np.dtype([("one", "<u8"), ("two", "<u8"), ("view", "<u4"), ("checksum", "<u4")])  # a digest in two halves
MAX_UNSORTED = 2**16  # new keys that wait in a dict; sorting all keys for each new one would be slow

_COLUMNS = np.dtype([("mixed", "<u8"), ("one", "<u8"), ("view", "<u4"), ("checksum", "<u4"), ("place", "<i8")])
_MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_DISK_ENTRY = np.dtype([("digest", "S16"), ("view", "<u4"), ("checksum", "<u4")])  # ENTRY with the digest in one piece
_PART_SHIFT = 40  # bits of a place that number a row; those above number its part
_ROW_MASK = (1 << _PART_SHIFT) - 1


# --- Index ------------------------------------------------------------------------------------------------------------


class StoreIndex:
    """Map from key to place and checksum; a key that is added again gets the newer ones.

    Threads may read while one adds.
    """

    def __init__(self) -> None:
        self._columns = {name: np.empty(0, _COLUMNS[name]) for name in _COLUMNS.names or ()}
        self._fresh: dict[Key, tuple[int, int]] = {}  # key: (place, checksum)
        self._forgotten: set[Key] = set()
        self._lock = RLock()

    def __len__(self) -> int:
        with self._lock:
            self._sort_fresh()
            return len(self._columns["mixed"]) - len(self._forgotten)

    def load(self, entries: NDArray[Any], places: NDArray[np.int64]) -> None:
        """Add entries of the type ENTRY."""
        with self._lock:
            self._sort_fresh()
            self._merge(entries, places)

    def _merge(self, entries: NDArray[Any], places: NDArray[np.int64]) -> None:
        mixed = _hash_keys(entries["one"], entries["two"], entries["view"])
        added = (mixed, entries["one"], entries["view"], entries["checksum"], places)
        columns = [np.concatenate(pair) for pair in zip(self._columns.values(), added, strict=True)]
        order = np.lexsort((np.arange(len(columns[0])), columns[2], columns[1], columns[0]))
        newest = np.ones(len(order), bool)  # not followed by the same key
        newest[:-1] = np.any([column[order[1:]] != column[order[:-1]] for column in columns[:3]], axis=0)
        self._columns = dict(zip(self._columns, (column[order[newest]] for column in columns), strict=True))

    def add(self, keys: Sequence[Key], first: int, checksums: Sequence[int]) -> None:
        """Add keys whose rows follow each other from this place on."""
        with self._lock:
            self._fresh.update(zip(keys, zip(range(first, first + len(keys)), checksums, strict=True), strict=True))
            self._forgotten.difference_update(keys)
            if len(self._fresh) > max(MAX_UNSORTED, len(self._columns["mixed"]) // 8):
                self._sort_fresh()

    def forget(self, key: Key) -> None:
        """Remove a key."""
        with self._lock:
            self._sort_fresh()
            self._forgotten.add(key)

    def find(self, key: Key) -> tuple[int, int] | None:
        """Return the place and checksum of a key; None where it is missing."""
        with self._lock:
            if key in self._forgotten:
                return None
            if key in self._fresh:
                return self._fresh[key]
            return self._find_sorted(key)

    def _find_sorted(self, key: Key) -> tuple[int, int] | None:
        """Find one key as `_find_rows` does, in a fraction of the time."""
        known, halves, view = self._columns, np.frombuffer(key[0], "<u8"), key[1]
        mixed = _hash_keys(halves[:1], halves[1:], np.array([view], "<u4"))
        at = int(known["mixed"].searchsorted(mixed)[0])
        while at < len(known["mixed"]) and known["mixed"][at] == mixed[0]:
            if known["one"][at] == halves[0] and known["view"][at] == view:
                return int(known["place"][at]), int(known["checksum"][at])
            at += 1
        return None

    def places(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Return the place of each key; raises KeyError for a missing one."""
        with self._lock:
            self._sort_fresh()
            rows = self._find_rows(keys)
            for at, key in enumerate(keys) if self._forgotten else ():
                rows[at] = -1 if key in self._forgotten else rows[at]
            if (rows < 0).any():
                raise KeyError(keys[int(np.argmax(rows < 0))])
            return self._columns["place"][rows]

    def _find_rows(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """Return the row of each key among the sorted columns, -1 where it is missing."""
        halves = np.frombuffer(b"".join(digest for digest, _ in keys), "<u8").reshape(-1, 2)
        one, view = halves[:, 0], np.array([view for _, view in keys], "<u4")
        mixed = _hash_keys(one, halves[:, 1], view)
        known, at = self._columns, np.searchsorted(self._columns["mixed"], mixed)
        rows = np.full(len(keys), -1, np.int64)
        waiting = np.arange(len(keys))
        while len(waiting):  # nearly always once: two keys with the same 64 bits are rare
            inside = waiting[at[waiting] < len(known["mixed"])]
            waiting = inside[known["mixed"][at[inside]] == mixed[inside]]
            found = (known["one"][at[waiting]] == one[waiting]) & (known["view"][at[waiting]] == view[waiting])
            rows[waiting[found]] = at[waiting[found]]
            waiting = waiting[~found]
            at[waiting] += 1
        return rows

    def _sort_fresh(self) -> None:
        """Merge the fresh keys into the sorted columns."""
        if not self._fresh:
            return
        entries = np.empty(len(self._fresh), ENTRY)
        halves = np.frombuffer(b"".join(digest for digest, _ in self._fresh), "<u8").reshape(-1, 2)
        entries["one"], entries["two"] = halves.T
        entries["view"] = [view for _, view in self._fresh]
        entries["checksum"] = [checksum for _, checksum in self._fresh.values()]
        places = np.array([place for place, _ in self._fresh.values()], np.int64)
        self._fresh = {}
        self._merge(entries, places)


def _hash_keys(one: NDArray[np.uint64], two: NDArray[np.uint64], view: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Hash keys to 64 bits; with one half and the view the hash gives the other half back."""
    return two ^ (one * _MULTIPLIERS[0]) ^ (view.astype(np.uint64) * _MULTIPLIERS[1])


# --- Store ------------------------------------------------------------------------------------------------------------


class Store:
    """The cached rows of one frozen network, all of one type and shape; a context manager.

    Raises OutputError when the disk is full or the folder cannot be created.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: type[np.floating] = np.float32) -> None:
        self.folder, self.shape, self.dtype = folder, tuple(shape), dtype
        self.width = int(np.prod(self.shape))
        self._index = StoreIndex()
        self._parts: list[NDArray[np.floating]] = []
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._files: tuple[BinaryIO, BinaryIO] | None = None
        self._written = 0
        _make_folder(folder)
        entries = [np.empty(0, ENTRY)]
        for index in _list_indexes_by_age(folder):  # a row computed anew replaces the damaged one
            try:
                entries.append(self._read_entries(index))
            except (OSError, ValueError):  # another user's, or no file at all: what it may hold is computed again
                continue
        places = [(part << _PART_SHIFT) + np.arange(len(each)) for part, each in enumerate(entries[1:])]
        self._index.load(np.concatenate(entries), np.concatenate([np.empty(0, np.int64), *places]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: Key) -> bool:
        """Whether the row is stored and its checksum right; a damaged one is forgotten, to be computed again."""
        found = self._index.find(key)
        if found is None:
            return False
        place, checksum = found
        sound = zlib.crc32(self._read_part(place >> _PART_SHIFT)[place & _ROW_MASK].tobytes()) == checksum
        if not sound:
            self._index.forget(key)
        return sound

    def __len__(self) -> int:
        return len(self._index)

    def add(self, keys: Sequence[Key], rows: NDArray[np.floating]) -> None:
        """Append rows [n, *shape]; the numbers are written before the index, so that indexed rows are complete."""
        numbers, index = self._files or self._open_files()
        limits = np.finfo(self.dtype)
        flat = np.ascontiguousarray(rows.reshape(len(keys), self.width).clip(limits.min, limits.max), self.dtype)
        entries = [(*key, zlib.crc32(row.tobytes())) for key, row in zip(keys, flat, strict=True)]
        try:
            numbers.write(flat.tobytes())
            numbers.flush()
            index.write(np.array(entries, _DISK_ENTRY).tobytes())
            index.flush()
        except OSError as error:
            raise self._write_error(error) from error
        first = (len(self._parts) - 1 << _PART_SHIFT) + self._written
        self._index.add(keys, first, [checksum for _, _, checksum in entries])
        self._written += len(keys)

    def read(self, keys: Sequence[Key]) -> NDArray[np.float32]:
        """Read the rows of these keys, [n, *shape], from disk; raises KeyError for a missing one."""
        out = np.empty((len(keys), self.width), np.float32)  # whatever the type on disk
        places = self._index.places(keys)
        for part in np.unique(places >> _PART_SHIFT).tolist():
            rows = np.flatnonzero(places >> _PART_SHIFT == part)
            out[rows] = self._read_part(part)[places[rows] & _ROW_MASK]
        return out.reshape(len(keys), *self.shape)

    def close(self) -> None:
        """Flush everything written to the disk, and close the files."""
        try:
            for file in self._files or ():
                file.flush()
                os.fsync(file.fileno())
                file.close()
        except OSError as error:  # what a full disk did not take before, it does not take now
            raise self._write_error(error) from error
        if self._files:
            self._parts[-1] = self._map_file(self.folder / f"{self._name}.rows")
        self._files = None

    def _read_entries(self, index: Path) -> NDArray[Any]:
        """Read the complete entries of a part and add it to the parts. Raises OSError where it cannot be read."""
        numbers = self._map_file(index.with_suffix(".rows"))
        with safe_files.open_regular(index) as file:
            raw = file.read(len(numbers) * ENTRY.itemsize)
        self._parts.append(numbers)
        return np.frombuffer(raw, ENTRY, count=len(raw) // ENTRY.itemsize)

    def _open_files(self) -> tuple[BinaryIO, BinaryIO]:
        rows, index = (self.folder / f"{self._name}{end}" for end in (".rows", ".index"))
        try:
            files = rows.open("xb"), index.open("xb")
        except OSError as error:
            raise self._write_error(error) from error
        self._files = files
        self._parts.append(np.empty((0, self.width), self.dtype))
        return files

    def _read_part(self, part: int) -> NDArray[np.floating]:
        """Return the numbers of one part; the one being written is mapped again when it has grown."""
        if self._files and part == len(self._parts) - 1 and len(self._parts[part]) < self._written:
            self._parts[part] = self._map_file(self.folder / f"{self._name}.rows")
        return self._parts[part]

    def _map_file(self, path: Path) -> NDArray[np.floating]:
        size = np.dtype(self.dtype).itemsize * self.width
        with safe_files.open_regular(path) as file:
            rows = os.fstat(file.fileno()).st_size // size
            shape = (rows, self.width)
            return np.memmap(file, self.dtype, "r", shape=shape) if rows else np.empty((0, self.width), self.dtype)

    def _write_error(self, error: OSError) -> OutputError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "The disk is full" if full else f"Writing failed ({error.strerror})"
        return OutputError(
            f"{what}: features could not be cached in {self.folder}. {len(self):,} are kept there and will be used "
            f"next time. Free some space, or set GRAFT_CACHE to a folder on another disk."
        )


def _list_indexes_by_age(folder: Path) -> list[Path]:
    """Return the index files in a folder, the oldest first, without broken links."""
    ages = dict[Path, tuple[int, str]]()
    for path in folder.glob("*.index"):
        with suppress(OSError):
            ages[path] = path.stat().st_mtime_ns, path.name
    return sorted(ages, key=lambda path: ages[path])


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"The cache folder {folder} cannot be made ({error.strerror}). Set GRAFT_CACHE to a folder of yours."
        ) from error
