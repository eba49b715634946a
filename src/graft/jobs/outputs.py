"""Files that a job leaves where a person asked for them: never over what graft did not write."""

from __future__ import annotations

from pathlib import Path

from graft.errors import OutputError
from graft.model import whole


def check(path: Path, begins: str, *, force: bool) -> None:
    """Refuses a place that may not be written to, before any work is done; what graft wrote `begins` like this."""
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent} for {path.name}.")
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Name a file.")
    if path.exists() and not force:
        raise OutputError(f"{path} is there already. Use --force to replace it, or choose another name.")
    raw = begins.encode()
    if path.exists() and not (path.is_file() and _start(path, len(raw)) == raw):
        raise OutputError(f"{path} was not written by graft, so not even --force replaces it. Choose another name.")


def write(path: Path, text: str) -> None:
    """Whole or not at all; raises OutputError."""
    try:
        with whole.file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {whole.reason(error)}.") from error


def _start(path: Path, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(length)
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
