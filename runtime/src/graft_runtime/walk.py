"""What lies in folders, by one rule for all commands: hidden things are left out, links are followed, once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from graft_runtime.kinds import IMAGES

# Left by systems and disks, never put there by a person: the second row by network disks, the third by trash bins.
_HIDDEN: Final = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "__pycache__", "icon\r"),
        *("@eadir", "@tmp", "@synoeastream", "@__thumb", "@recently-snapshot", "@sharebin", "@transcode", "#snapshot"),
        *("~snapshot", "$recycle.bin", "recycler", "@recycle", "#recycle", "lost+found", "system volume information"),
        *("network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("found.000", "_vti_cnf"),
    )
)


LOCK: Final = re.compile(r"\..+\.lock")  # graft's own, while it writes a folder of that name: nobody has to hear of it


def is_hidden(name: str) -> bool:
    """What no person put there, by its name alone: dot files, thumbnails, recycle bins.

    >>> is_hidden("@eaDir"), is_hidden("cat.jpg")
    (True, False)
    """
    return name.startswith(".") or name.lower() in _HIDDEN


def is_image(name: str) -> bool:
    """Whether a file is looked at, by its ending: images of any kind, also those that nothing here can decode."""
    return name.lower().endswith(IMAGES)


class Visits:
    """Folders one after the other, each once, however many links lead there."""

    def __init__(self) -> None:
        self._seen = set[tuple[int, int]]()

    def entries(self, folder: str | os.PathLike[str]) -> list[os.DirEntry[str]] | None:
        """What is in a folder, by name; None where it was visited before. Raises OSError."""
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in self._seen:
            return None
        listed = sorted(os.scandir(folder), key=lambda entry: entry.name)
        self._seen.add((status.st_dev, status.st_ino))
        return listed


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one that can be reached."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def images(folder: str | os.PathLike[str]) -> list[Path]:
    """All images below a folder, sorted. A folder that cannot be opened stands there itself, to be told as a fault.

    Raises OSError where that is so of `folder`.
    """
    visits, found = Visits(), list[Path]()
    found += _below(visits, visits.entries(folder) or [])
    return sorted(found)


def _below(visits: Visits, first: list[os.DirEntry[str]]) -> Iterator[Path]:
    waiting = first
    while waiting:
        entry = waiting.pop()
        if is_hidden(entry.name):
            continue
        if not is_folder(entry):
            if is_image(entry.name):
                yield Path(entry.path)
            continue
        try:
            waiting += visits.entries(entry.path) or []
        except OSError:
            yield Path(entry.path)
