"""A file or folder that is there whole or not at all, whatever happens to the program or the disk meanwhile."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

LEFT = re.compile(r"\.(.+)\.[0-9a-f]{8}")  # what a killed writer leaves behind, with the name it was going to have


class Summed:
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
def file(path: Path) -> Iterator[Summed]:
    """A file to write into; it takes its place when all is on the disk and reads back the same. Raises OSError."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as raw:
            summed = Summed(raw)
            yield summed
            summed.check()
            raw.flush()
            os.fsync(raw.fileno())
        with fresh.open("rb") as raw:
            if hashlib.file_digest(raw, "sha256").digest() != summed.digest():
                raise OSError(errno.EIO, "what was written does not read back the same")
        fresh.replace(path)
        _sync(path.parent)
    finally:
        fresh.unlink(missing_ok=True)


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    """A folder to fill, which then takes its place; nothing is left of one that was not filled. Raises OSError."""
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        fresh.mkdir(parents=True)
        yield fresh
        _replace(fresh, place)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace(fresh: Path, folder: Path) -> None:
    """Put a fresh folder in its place; the one that was there goes only when the new one stands. Raises OSError."""
    old = fresh.with_name(f"{fresh.name}.old")
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except BaseException:  # Ctrl-C as well
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _sync(folder.parent)


def reason(error: OSError) -> str:
    """What to tell a person about a write that failed."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "the disk is full" if full else error.strerror or str(error)


def _sync(folder: Path) -> None:
    """Hand the new name to the disk as well; Windows cannot sync a folder."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
