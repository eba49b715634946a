"""Atomic writes of files and folders: complete or absent, whatever happens to the program or the disk."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where what a killed writer left stays
    fcntl = None

LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}")  # what a killed writer leaves behind, with the name it was going to have

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux; the second is RENAME_SWAP on macOS


class HashingWriter:
    """Writes to a file, and keeps the SHA-256 of all that it was given.

    A write that fails is raised by `check`, not at once: torch.save makes a RuntimeError of some errors of its file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sum = file, hashlib.sha256()
        self._fault: OSError | None = None

    def write(self, data: bytes | memoryview) -> int:
        self._sum.update(data)
        try:
            if not self._fault:
                self._file.write(data)
        except OSError as error:
            self._fault = error
        return len(data)

    def flush(self) -> None:
        """Nothing: `file` flushes once, at the end."""

    def digest(self) -> bytes:
        return self._sum.digest()

    def check(self) -> None:
        if self._fault:
            raise self._fault


@contextmanager
def atomic_file(path: Path) -> Iterator[HashingWriter]:
    """Write a file; it takes its place when all is on the disk and reads back the same. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as raw:
            _try_lock(raw)
            summed = HashingWriter(raw)
            yield summed
            summed.check()
            raw.flush()
            os.fsync(raw.fileno())
        with fresh.open("rb") as raw:
            _try_lock(raw)
            if hashlib.file_digest(raw, "sha256").digest() != summed.digest():
                raise OSError(errno.EIO, "what was written does not read back the same")
        fresh.replace(path)
        _sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


def remove_leftovers(folder: Path, names: Collection[str]) -> None:
    """Remove what killed writers of files of these names left in a folder; what is being written is locked."""
    for path in folder.iterdir():
        found = LEFTOVER.fullmatch(path.name)
        if found and found[1] in names and path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                gone = _try_lock(file)
            if gone:
                path.unlink(missing_ok=True)


def _try_lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed; False where that cannot be, or another has it."""
    if fcntl is None:
        return False
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def atomic_folder(place: Path) -> Iterator[Path]:
    """Fill a folder, which then takes its place; nothing is left of one that was not filled. Raises OSError.

    What stands there already changes names with the new one in a single step, where the system has such a step:
    whenever a run is killed, there is the old or the new.
    """
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        for path in fresh.iterdir():
            _sync(path)
        _swap_in(fresh, place)
    finally:
        _remove(fresh)  # half a folder, or the one that stood there


def _swap_in(fresh: Path, place: Path) -> None:
    """Put a fresh folder in its place, and what was there in the place of the fresh one. Raises OSError."""
    if not os.path.lexists(place):
        fresh.rename(place)
    elif not _exchange_names(fresh, place):
        _rename_in_two_steps(fresh, place)
    _sync(place.parent)


def _rename_in_two_steps(fresh: Path, place: Path) -> None:
    """The same where no system call exchanges names: killed between the two, the old one lies beside its place.

    Its name ends in .old; the next run into the same place brings it back.
    """
    old = fresh.with_name(f"{fresh.name}.old")
    place.rename(old)
    try:
        fresh.rename(place)
    except BaseException:  # Ctrl-C as well
        if not os.path.lexists(place):
            old.rename(place)
        raise
    _remove(old)


def find_leftovers(place: Path) -> list[Path]:
    """Return folders that killed runs left beside a place."""
    ours = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}(\.old)?")
    return [path for path in place.parent.iterdir() if ours.fullmatch(path.name) and path.is_dir()]


def restore_leftover(place: Path, always: Collection[str], known: Collection[str]) -> None:
    """Put what a killed run had moved aside back in its place: a folder with all these files, and no unknown one."""
    for left in find_leftovers(place):
        names = {path.name for path in left.iterdir()}
        if left.suffix == ".old" and not os.path.lexists(place) and set(always) <= names <= set(known):
            left.rename(place)


def _exchange_names(one: Path, other: Path) -> bool:
    """Let two names of one folder change places at once; False where the system, or its file system, cannot."""
    if call := _find_exchange_call():
        if not call(os.fsencode(one), os.fsencode(other)):
            return True
        error = ctypes.get_errno()
        if error not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):  # EPERM: forbidden in some containers
            raise OSError(error, os.strerror(error), os.fspath(one), None, os.fspath(other))
    return False


@cache
def _find_exchange_call() -> Callable[[bytes, bytes], int] | None:
    """The system call: renameat2 of Linux, renamex_np of macOS; None elsewhere, as on Windows."""
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    if call := getattr(library, "renameat2", None):
        call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        return lambda one, other: call(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE)
    if call := getattr(library, "renamex_np", None):
        call.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
        return lambda one, other: call(one, other, _RENAME_EXCHANGE)
    return None


def _remove(path: Path) -> None:
    """Take away a folder, or whatever else stands there; what cannot be taken away does no harm."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def describe_error(error: OSError) -> str:
    """Return the reason of a failed write, as shown to a person."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "the disk is full" if full else error.strerror or str(error)


def _sync(path: Path) -> None:
    """Hand a file, or the names in a folder, to the disk; Windows cannot sync a folder."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
