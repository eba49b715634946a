"""Store corrected images in class folders, which the next `graft fit` reads as they are."""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import tempfile
import unicodedata
from pathlib import Path

from graft_runtime.serve.errors import RequestError

MAX_NAME_CHARS = 100  # characters of a name
MAX_NAME_BYTES = 255  # bytes of it, which no file system takes more of
PLAIN_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|]+")
RESERVED_NAME = re.compile(
    r"(con|prn|aux|nul|com\d|lpt\d|(com|lpt)[¹²³])(\..*)?", re.IGNORECASE
)  # Windows has devices of these names
SUFFIX_OF_MAGIC = (  # the first bytes of a file, and what its name ends in
    *((b"\xff\xd8", ".jpg"), (b"\x89PNG", ".png"), (b"GIF8", ".gif"), (b"BM", ".bmp"), (b"RIFF", ".webp")),
    *((b"II", ".tif"), (b"MM", ".tif"), (b"\0\0\1\0", ".ico"), (b"P", ".ppm")),
)


def check_folder(folder: Path) -> None:
    """Make the folder if it is missing. Raises OSError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        text = f"Corrections cannot be kept in {folder}: {error.strerror}. Name another folder with --corrections."
        raise OSError(text) from error


def store_image(folder: Path, data: bytes, label: str, classes: tuple[str, ...]) -> str:
    """Store an image, named by its content, in the folder of its class; return its path. Raises RequestError.

    The same image is kept once for each class. A label that is new makes a new class; nothing is ever overwritten.
    """
    name = folder_name(label, classes)
    file = folder / name / (hashlib.sha256(data).hexdigest()[:32] + _suffix(data))
    part = file.with_suffix(f".{secrets.token_hex(8)}.part")  # of this request alone: two may bring the same
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            part.write_bytes(data)
            part.replace(file)
    except OSError as error:
        with contextlib.suppress(OSError):  # it may not be there, nor its folder
            part.unlink()
        raise RequestError(507, "not_stored", f"The image cannot be stored: {error.strerror}.") from error
    return f"{name}/{file.name}"


def folder_name(label: str, classes: tuple[str, ...]) -> str:
    """Return the label as a folder name. Raises RequestError if it is not legal on every system."""
    name = label if label in classes else unicodedata.normalize("NFC", label).strip()
    bad = (
        not PLAIN_NAME.fullmatch(name)
        or name.startswith(".")
        or name.endswith((".", " "))
        or RESERVED_NAME.fullmatch(name)
    )
    if bad or not name.isprintable() or len(name) > MAX_NAME_CHARS or len(name.encode()) > MAX_NAME_BYTES:
        text = (
            f"A class is a plain name that can be seen, of at most {MAX_NAME_CHARS} characters and "
            f"{MAX_NAME_BYTES} bytes, without slashes and dots at its ends."
        )
        raise RequestError(422, "wrong_label", f"{text} Got {label[:MAX_NAME_CHARS]!r}.")
    return name


def _suffix(data: bytes) -> str:
    return next((ending for start, ending in SUFFIX_OF_MAGIC if data.startswith(start)), ".img")
