"""Pictures that were answered wrongly, with the right class: folders that the next `graft fit` takes as they are."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import tempfile
import unicodedata
from pathlib import Path

from graft_runtime.serve.refusal import Refusal

LONGEST = 100  # characters of a name
MOST = 255  # bytes of it, which no file system takes more of
PLAIN = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|]+")
RESERVED = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d|(com|lpt)[¹²³])(\..*)?", re.IGNORECASE
)  # Windows has devices of these names
ENDINGS = (  # the first bytes of a file, and what its name ends in
    *((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"RIFF", ".webp")),
    *((b"II", ".tif"), (b"MM", ".tif"), (b"\0\0\1\0", ".ico"), (b"P", ".ppm")),
)


def check(folder: Path) -> None:
    """Make the folder where it is not there. Raises OSError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        text = f"Corrections cannot be kept in {folder}: {error.strerror}. Name another folder with --corrections."
        raise OSError(text) from error


def stored(folder: Path, data: bytes, label: str, classes: tuple[str, ...]) -> str:
    """Keep a picture, named by its content, in the folder of its class; give its path there. Raises Refusal.

    The same picture is kept once for each class. A label that is new makes a new class; nothing is ever overwritten.
    """
    name = folder_name(label, classes)
    file = folder / name / (hashlib.sha256(data).hexdigest()[:32] + _ending(data))
    part = file.with_suffix(f".{secrets.token_hex(8)}.part")  # of this request alone: two may bring the same
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            part.write_bytes(data)
            part.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may not be there, nor its folder
            part.unlink()
        raise Refusal(507, "not_stored", f"The picture cannot be stored: {error.strerror}.") from error
    return f"{name}/{file.name}"


def folder_name(label: str, classes: tuple[str, ...]) -> str:
    """The label as the name of a folder. Raises Refusal for what is none, on any system."""
    name = label if label in classes else unicodedata.normalize("NFC", label).strip()
    bad = not PLAIN.fullmatch(name) or name.startswith(".") or name.endswith((".", " ")) or RESERVED.fullmatch(name)
    if bad or not name.isprintable() or len(name) > LONGEST or len(name.encode()) > MOST:
        text = (
            f"A class is a plain name that can be seen, of at most {LONGEST} characters and {MOST} bytes, without "
            "slashes and dots at its ends."
        )
        raise Refusal(422, "wrong_label", f"{text} Got {label[:LONGEST]!r}.")
    return name


def _ending(data: bytes) -> str:
    return next((ending for start, ending in ENDINGS if data.startswith(start)), ".img")
