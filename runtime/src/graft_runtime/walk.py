"""Walk folders, by one rule for all commands: hidden entries are left out, links are followed once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from graft_runtime.formats import IMAGE_SUFFIXES

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
    """Whether a name is that of a hidden or system file: dot files, thumbnails, recycle bins.

    >>> is_hidden("@eaDir"), is_hidden("cat.jpg")
    (True, False)
    """
    return name.startswith(".") or name.lower() in _HIDDEN


def is_image(name: str) -> bool:
    """Whether a file is an image by its suffix: of any format, also those that are not decoded."""
    return name.lower().endswith(IMAGE_SUFFIXES)


class Visits:
    """Visit folders, each once, however many links lead there."""

    def __init__(self) -> None:
        self._seen = set[tuple[int, int]]()

    def entries(self, folder: str | os.PathLike[str]) -> list[os.DirEntry[str]] | None:
        """Return the entries of a folder, sorted by name; None if it was visited before. Raises OSError."""
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in self._seen:
            return None
        listed = sorted(os.scandir(folder), key=lambda entry: entry.name)
        self._seen.add((status.st_dev, status.st_ino))
        return listed


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a folder, or a link to one that can be reached."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be entered
        return False


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Return all images below a folder, sorted. A subfolder that cannot be opened is in the list itself, as a fault.

    Raises OSError if `folder` itself cannot be opened.
    """
    visits, found = Visits(), list[Path]()
    found += _walk(visits, visits.entries(folder) or [])
    return sorted(found)


def _walk(visits: Visits, first: list[os.DirEntry[str]]) -> Iterator[Path]:
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
