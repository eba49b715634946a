"""Files that a job leaves where a person asked for them: never over what graft did not write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from graft.errors import OutputError
from graft.model import whole


def check(path: Path, is_ours: Callable[[Path], bool], *, force: bool) -> None:
    """Refuses a place that may not be written to, before any work is done; `is_ours` tells what graft wrote."""
    check_around(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Name a file.")
    if path.exists() and not force:
        raise OutputError(f"{path} is there already. Use --force to replace it, or choose another name.")
    if path.exists() and not (path.is_file() and _told(path, is_ours)):
        raise OutputError(f"{path} was not written by graft, so not even --force replaces it. Choose another name.")
    whole.sweep(path.parent, {path.name})


def place_of(output: str | Path) -> Path:
    """The output as a path with a name: '.' has none."""
    return Path(output) if Path(output).name else Path(output).absolute()


def check_around(path: Path) -> None:
    """Raises OutputError where the folder around it is not there, or cannot be written to."""
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent} for {path.name}.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"The folder {path.parent} cannot be written to. Choose another one.")


def beginning(text: str) -> Callable[[Path], bool]:
    """Tells a file of ours by how it begins."""

    def is_ours(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(raw)) == raw

    raw = text.encode()
    return is_ours


def write(path: Path, content: bytes) -> None:
    """Whole or not at all; raises OutputError."""
    try:
        with whole.file(path) as file:
            file.write(content)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {whole.reason(error)}. Nothing is left behind.") from error


def _told(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    try:
        return is_ours(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
