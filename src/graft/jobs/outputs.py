"""Output files: checks before writing, atomic writes, formats of an export.

Files not written by graft are never replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from graft import atomic, extras, spec
from graft.errors import OutputError, UsageError


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


# --- formats of an export ---------------------------------------------------------------------------------------------

EXPORT_FORMATS = ONNX, OPENVINO, TORCH, WEB = "onnx", "openvino", "torch", "web"
ENDINGS = {ONNX: ".onnx", OPENVINO: ".onnx", TORCH: ".pt2"}
FLOAT32, INT8 = "float32", "int8"


def choose_format(to: str | None, path: Path, int8: bool, *, without_images: bool) -> str:
    """Return the requested format, or that of the file's ending. Raises UsageError for an invalid combination."""
    kind = to or (TORCH if path.suffix == ENDINGS[TORCH] else ONNX)
    if kind not in EXPORT_FORMATS:
        raise UsageError(
            f"An export is to {', '.join(EXPORT_FORMATS)}. Got {kind!r}.{spec.format_suggestions(kind, EXPORT_FORMATS)}"
        )
    if kind == WEB and path.suffix in ENDINGS.values():
        raise UsageError(f"An export to web is a folder. Got {path.name}, which is the name of a file.")
    if kind != WEB and path.suffix != ENDINGS[kind]:
        raise UsageError(f"A file for {kind} ends in {ENDINGS[kind]}. Got {path.name}.")
    if kind == TORCH:
        extras.require_package("torch", "An export to torch")
    if kind == OPENVINO:
        extras.require_package("openvino", "An export to openvino")
    if int8 and kind == WEB:
        raise UsageError("In browsers 8-bit numbers are slower than float32 and answer otherwise. Leave --int8 out.")
    if int8 and kind != ONNX:
        raise UsageError(f"int8 is for onnx. Got {kind}. Leave --int8 out, or write a file .onnx.")
    if int8 and without_images:
        raise UsageError("int8 needs images, to find the ranges of numbers on: name them with --check photos/.")
    return kind
