"""Commands that the report names: they work from any folder, pasted into a shell."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from shlex import join
from typing import Any


def words(source: Any, *, columns: str = "", against: Any = None, boxes: bool = False) -> str:
    """A source of images as `graft check` and `graft fit` take it, by its whole path; empty where it has none."""
    if not isinstance(source, str | PathLike) or not (against is None or isinstance(against, str | PathLike)):
        return ""
    options = [*(["--against", _whole(against)] if against else []), *(["--columns", columns] if columns else [])]
    return join([_whole(source), *options, *["--boxes"] * boxes])


def again(source: str, folder: str | Path | None) -> str:
    """How a classifier that is saved in a folder is trained again; empty where that cannot be told."""
    return (
        f"graft fit {source} -o again/ --from {join([_whole(Path(folder) / 'model.json')])}"
        if source and folder
        else ""
    )


def _whole(path: str | PathLike[str]) -> str:
    return str(Path(path).absolute())
