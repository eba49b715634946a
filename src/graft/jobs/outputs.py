"""Output files: checks before writing, atomic writes, and Parquet. Files not written by graft are never replaced."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from graft import atomic
from graft.errors import OutputError


def check_output(path: Path, is_ours: Callable[[Path], bool], *, force: bool) -> None:
    """Raise OutputError for a path that may not be written to; `is_ours` tells whether graft wrote a file."""
    check_parent_folder(path)
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Name a file.")
    if path.exists() and not force:
        raise OutputError(f"{path} is there already. Use --force to replace it, or choose another name.")
    if path.exists() and not (path.is_file() and _is_written_by_graft(path, is_ours)):
        raise OutputError(f"{path} was not written by graft, so not even --force replaces it. Choose another name.")
    atomic.remove_leftovers(path.parent, {path.name})


def resolve_output(output: str | Path) -> Path:
    """Return the output as a path with a name: '.' has none."""
    return Path(output) if Path(output).name else Path(output).absolute()


def check_parent_folder(path: Path) -> None:
    """Raise OutputError where the parent folder does not exist or is not writable."""
    if not path.parent.is_dir():
        raise OutputError(f"There is no folder {path.parent} for {path.name}.")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"The folder {path.parent} cannot be written to. Choose another one.")


def build_prefix_check(text: str) -> Callable[[Path], bool]:
    """Return a check whether a file begins with a text."""

    def is_ours(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(raw)) == raw

    raw = text.encode()
    return is_ours


def write(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises OutputError."""
    try:
        with atomic.atomic_file(path) as file:
            file.write(content)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {atomic.describe_error(error)}. Nothing is left behind."
        ) from error


def _is_written_by_graft(path: Path, is_ours: Callable[[Path], bool]) -> bool:
    try:
        return is_ours(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
