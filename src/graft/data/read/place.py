"""Where a table's files lie, on the disk or in an archive, whichever way their names are spelt."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from graft.data.images import Files, Images
from graft.progress import Watch, unwatched


def composed(name: str) -> str:
    """A name with each accented letter as one."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class Place:
    """A folder with a table, and what lies beside it."""

    name: str  # what to call it
    has: Callable[[str], bool]  # whether a file is there
    names: Callable[[str], Iterable[str]]  # what a folder holds
    column: Callable[[list[str]], Images]
    read: Callable[[str], bytes]  # a file beside the table
    watch: Watch = unwatched  # over the files that are looked for
    known: dict[str, dict[str, str]] = field(default_factory=dict)  # of folders: names as stored, by composed ones

    @classmethod
    def of(cls, folder: Path, watch: Watch = unwatched) -> Place:
        """A folder on the disk."""

        def names(path: str) -> list[str]:
            with suppress(OSError, ValueError):
                return os.listdir(folder / path)
            return []

        return cls(
            str(folder),
            lambda name: os.path.isfile(folder / name),  # of a name that cannot be it says no, as Path does not
            names,
            lambda names: Files.of(names, str(folder)),
            lambda name: (folder / name).read_bytes(),
            watch,
        )

    def find(self, name: str) -> str:
        """The name that a file is stored by; '' where there is none.

        The same letters can be stored in two ways (é as one letter, or as e and an accent: macOS does that), and a
        table may have the other one.
        """
        if self.has(name):
            return name
        if name.isascii():
            return ""
        path = "/" if name.startswith("/") else ""
        for step in filter(None, name.split("/")):
            own = step if step in (".", "..") else self._stored(path).get(composed(step), "")
            if not own:
                return ""
            path = posixpath.join(path, own)
        return path if self.has(path) else ""

    def _stored(self, folder: str) -> dict[str, str]:
        if folder not in self.known:
            self.known[folder] = {composed(name): name for name in self.names(folder)}
        return self.known[folder]
