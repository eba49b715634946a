"""Read untrusted files: regular files only, and of a limited size.

Reading a pipe may never end, and /dev/zero fills the memory.
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


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file for reading. Raises OSError, without blocking, for anything else."""
    _check_regular(os.stat(path), path)  # opening alone wakes the other end of a pipe, and some devices
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check_regular(os.fstat(handle), path)  # it may have been exchanged meanwhile
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_limited(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """Read a regular file. Raises OSError for anything else, or for more than `max_bytes`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, and at most {max_bytes:,} are read", os.fspath(path))
        return file.read(size)  # a larger argument would allocate as much


def is_readable(path: Path) -> bool:
    """Whether the path is a regular file that can be read."""
    try:
        open_regular(path).close()
    except OSError:
        return False
    return True


def _check_regular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise OSError(errno.EINVAL, f"it is {kind}, and no file", os.fspath(path))
