"""Files that may be anybody's: read only if they are files and of a size that can be.

A pipe in the place of a file would be waited for without end, and /dev/zero fills the memory.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def opened(path: str | os.PathLike[str]) -> BufferedReader:
    """The file, open for reading. Raises OSError, at once, for what is no regular file."""
    _check(os.stat(path), path)  # opening alone wakes the other end of a pipe, and some devices
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check(os.fstat(handle), path)  # it may have been exchanged meanwhile
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read(path: str | os.PathLike[str], most: int) -> bytes:
    """Its content. Raises OSError for what is no regular file, or has more than `most` bytes."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {most:,} are read", os.fspath(path))
        return file.read(size)  # of a larger number room would be made


def is_readable(path: Path) -> bool:
    """Whether it is a regular file that may be read."""
    try:
        opened(path).close()
    except OSError:
        return False
    return True


def _check(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, and no file", os.fspath(path))
