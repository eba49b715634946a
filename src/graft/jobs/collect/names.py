"""Labels to the names of class folders that every file system takes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from graft.errors import DataError

RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # on Windows
SKIPPED = ("thumbs.db", "desktop.ini", "__macosx")  # by the reader of class folders
LONGEST = 200  # bytes; file systems take 255


def folders(labels: Iterable[str]) -> dict[str, str]:
    """The folder of each label; the label itself wherever that can be.

    Raises DataError: two labels for one folder (also where only capitals differ: macOS and Windows make them one), or
    a label that is too long.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        folder = _safe(label)
        if len(folder.encode()) > LONGEST:
            raise DataError(
                f"The label {label[:40]!r}... is too long for the name of a folder. Shorten it in the list."
            )
        other = taken.setdefault(folder.casefold(), label)
        if other != label:
            raise DataError(
                f"The labels {other!r} and {label!r} would fall on one folder, {folder!r}. "
                f"Write them alike in the list if they mean the same, or tell them further apart."
            )
        found[label] = folder
    return found


def _safe(label: str) -> str:
    text = unicodedata.normalize("NFC", label)
    text = "".join("_" if _is_odd(letter) else letter for letter in text).strip()
    text = re.sub(r"[. ]+$", "_", text)  # Windows drops dots and blanks at the end
    if text.startswith(".") or RESERVED.fullmatch(text) or text.lower() in SKIPPED:
        text = f"_{text.lstrip('.')}"
    return text or "_"


def _is_odd(letter: str) -> bool:
    return letter in '/\\:*?"<>|' or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
