"""Pictures in a zip or tar archive, read where they lie: class folders, or a table of files and labels."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from graft.data.dataset import Dataset
from graft.data.read import packed
from graft.data.read.columns import Columns
from graft.data.read.layout import TABLE, Entry, arranged, tree
from graft.data.read.members import Index, index
from graft.data.read.nested import level_of
from graft.data.read.place import Place
from graft.data.read.table import cells_of, tabled
from graft_runtime.walk import is_hidden, is_image

SUFFIXES = (".zip", ".tar", *packed.SUFFIXES)

Tree = dict[str, dict[str, bool]]


def read_archive(
    path: str | Path, classes: tuple[str, ...] | None = None, columns: str = "", *, strict: bool = False
) -> Dataset:
    """The pictures in a zip or tar archive, laid out as `read_folder` or `read_table` would have them.

    All may stand in one folder at the top. Nothing is unpacked, except that a compressed tar is, once, into the cache.
    Members that lead out of the archive, links, devices, and what unpacks to more than a picture are left out and
    counted. Raises DataError: a damaged archive, or what `read_folder` and `read_table` raise.
    """
    return of_index(index(Path(path)), classes, columns, strict=strict)


def of_index(found: Index, classes: tuple[str, ...] | None, columns: str = "", *, strict: bool = False) -> Dataset:
    """The same of an archive that was looked through already."""
    ignored = Counter(found.ignored)
    folders = tree([*found.row, *found.folders])
    top = _top(folders, classes)
    if TABLE in folders[top]:
        name, place = f"{found.path}/{posixpath.join(top, TABLE)}", _place(found, top, folders)
        cells = cells_of(name, _read(found, top, TABLE), Columns.of(columns), place)
        data = tabled(cells, place, classes, strict=strict)
        data.ignored.update(ignored)
        return data

    def listing(folder: str) -> Iterator[Entry]:
        for name, is_folder in sorted(folders[folder].items()):
            if is_hidden(name):
                ignored["hidden files"] += 1
            else:
                yield Entry(name, posixpath.join(folder, name), is_folder)

    level = level_of(columns)
    return arranged(str(found.path), listing, found.column, classes, ignored, top, level=level)


def _top(folders: Tree, classes: tuple[str, ...] | None) -> str:
    """Where the class folders or the table stand: at the root, or in a folder that holds all the rest."""
    top = ""
    while True:
        seen = {name: is_folder for name, is_folder in folders[top].items() if not is_hidden(name)}
        inner = [name for name, is_folder in seen.items() if is_folder]
        if len(inner) != 1 or any(map(is_image, seen)) or TABLE in seen or inner[0] in (classes or ()):
            return top
        below = posixpath.join(top, inner[0])
        if TABLE not in folders[below] and not any(folders[below].values()):
            return top
        top = below


def _place(found: Index, top: str, folders: Tree) -> Place:
    def inside(name: str) -> str:
        return posixpath.normpath(posixpath.join(top, name)).removeprefix("./")

    return Place(
        f"{found.path}/{top}".rstrip("/"),
        lambda name: inside(name) in found.row,
        lambda path: folders.get("" if inside(path) == "." else inside(path), {}),
        lambda names: found.column([inside(name) for name in names]),
        lambda name: _read(found, top, name),
    )


def _read(found: Index, top: str, name: str) -> bytes:
    return found.read(posixpath.join(top, name))
