"""Where in the store each row is: sorted columns, 32 bytes for a key, where a dict of Python objects takes 400."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[bytes, int]  # content of a picture, number of a view

ENTRY = np.dtype([("one", "<u8"), ("two", "<u8"), ("view", "<u4"), ("checksum", "<u4")])  # a digest in two halves
FRESH = 2**16  # keys that wait in a dict; sorting all for each that comes would be slow

_COLUMNS = np.dtype([("mixed", "<u8"), ("one", "<u8"), ("view", "<u4"), ("checksum", "<u4"), ("place", "<i8")])
_MULTIPLIERS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)


class Index:
    """Keys with the place and checksum of each; a key that is added again gets the newer ones.

    Threads may ask while one adds.
    """

    def __init__(self) -> None:
        self._known = {name: np.empty(0, _COLUMNS[name]) for name in _COLUMNS.names or ()}
        self._fresh: dict[Key, tuple[int, int]] = {}  # key: (place, checksum)
        self._lost: set[Key] = set()
        self._lock = RLock()

    def __len__(self) -> int:
        with self._lock:
            self._settle()
            return len(self._known["mixed"]) - len(self._lost)

    def load(self, entries: NDArray[Any], places: NDArray[np.int64]) -> None:
        """Add entries of the type ENTRY."""
        with self._lock:
            self._settle()
            self._merge(entries, places)

    def _merge(self, entries: NDArray[Any], places: NDArray[np.int64]) -> None:
        mixed = _mixed(entries["one"], entries["two"], entries["view"])
        added = (mixed, entries["one"], entries["view"], entries["checksum"], places)
        columns = [np.concatenate(pair) for pair in zip(self._known.values(), added, strict=True)]
        order = np.lexsort((np.arange(len(columns[0])), columns[2], columns[1], columns[0]))
        newest = np.ones(len(order), bool)  # not followed by the same key
        newest[:-1] = np.any([column[order[1:]] != column[order[:-1]] for column in columns[:3]], axis=0)
        self._known = dict(zip(self._known, (column[order[newest]] for column in columns), strict=True))

    def add(self, keys: Sequence[Key], first: int, checksums: Sequence[int]) -> None:
        """Add keys whose rows follow each other from this place on."""
        with self._lock:
            self._fresh.update(zip(keys, zip(range(first, first + len(keys)), checksums, strict=True), strict=True))
            self._lost.difference_update(keys)
            if len(self._fresh) > max(FRESH, len(self._known["mixed"]) // 8):
                self._settle()

    def forget(self, key: Key) -> None:
        """Treat a key as if it had never been there."""
        with self._lock:
            self._settle()
            self._lost.add(key)

    def find(self, key: Key) -> tuple[int, int] | None:
        """Place and checksum."""
        with self._lock:
            if key in self._lost:
                return None
            if key in self._fresh:
                return self._fresh[key]
            return self._sorted(key)

    def _sorted(self, key: Key) -> tuple[int, int] | None:
        """As `_rows` finds it, for one key in a fraction of the time."""
        known, halves, view = self._known, np.frombuffer(key[0], "<u8"), key[1]
        mixed = _mixed(halves[:1], halves[1:], np.array([view], "<u4"))
        at = int(known["mixed"].searchsorted(mixed)[0])
        while at < len(known["mixed"]) and known["mixed"][at] == mixed[0]:
            if known["one"][at] == halves[0] and known["view"][at] == view:
                return int(known["place"][at]), int(known["checksum"][at])
            at += 1
        return None

    def places(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """The place of each key; raises KeyError for one that is not there."""
        with self._lock:
            self._settle()
            rows = self._rows(keys)
            for at, key in enumerate(keys) if self._lost else ():
                rows[at] = -1 if key in self._lost else rows[at]
            if (rows < 0).any():
                raise KeyError(keys[int(np.argmax(rows < 0))])
            return self._known["place"][rows]

    def _rows(self, keys: Sequence[Key]) -> NDArray[np.int64]:
        """The row of each key among the known ones, -1 where it is not."""
        halves = np.frombuffer(b"".join(digest for digest, _ in keys), "<u8").reshape(-1, 2)
        one, view = halves[:, 0], np.array([view for _, view in keys], "<u4")
        mixed = _mixed(one, halves[:, 1], view)
        known, at = self._known, np.searchsorted(self._known["mixed"], mixed)
        rows = np.full(len(keys), -1, np.int64)
        waiting = np.arange(len(keys))
        while len(waiting):  # nearly always once: more than one key of the same 64 bits is a rare thing
            inside = waiting[at[waiting] < len(known["mixed"])]
            waiting = inside[known["mixed"][at[inside]] == mixed[inside]]
            found = (known["one"][at[waiting]] == one[waiting]) & (known["view"][at[waiting]] == view[waiting])
            rows[waiting[found]] = at[waiting[found]]
            waiting = waiting[~found]
            at[waiting] += 1
        return rows

    def _settle(self) -> None:
        """Sort the fresh keys in among the others."""
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


def _mixed(one: NDArray[np.uint64], two: NDArray[np.uint64], view: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """64 bits of a key; with one half and the view they give the other half back."""
    return two ^ (one * _MULTIPLIERS[0]) ^ (view.astype(np.uint64) * _MULTIPLIERS[1])
