"""A compressed tar has no way into its middle: it is unpacked once, into one plain tar in the cache."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import secrets
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO

from graft.data.cache import cache_folder
from graft.errors import DataError, OutputError
from graft_runtime import regular

OPENERS = {
    (".tar.gz", ".tgz"): gzip.open,
    (".tar.bz2", ".tbz2"): bz2.open,
    (".tar.xz", ".txz"): lzma.open,
}
SUFFIXES = tuple(suffix for suffixes in OPENERS for suffix in suffixes)
BLOCK = 1 << 20
SLACK, RATIO = 256 << 20, 20  # pictures hardly pack; a tar of tiny ones is half blanks, and 20 is far from that


def plain_tar(path: Path) -> Path:
    """The tar itself, or its unpacked copy in the cache, made at the first call, and anew where it is damaged.

    A copy is named by the content of the archive and by its own, so that it says itself whether it is whole.
    Random access into a gzip of 100 MB takes 0.3 s a picture, unpacking it 0.5 s once (measured on two cores).
    Raises DataError for a damaged file, or one that unpacks to far more than pictures do; OutputError for a full disk.
    """
    opener = next((opener for suffixes, opener in OPENERS.items() if path.name.lower().endswith(suffixes)), None)
    if opener is None:
        return path
    try:
        name = _sum(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    folder = cache_folder() / "archives"
    return next(filter(_is_sound, sorted(folder.glob(f"{name}-*.tar"))), None) or _unpacked(path, opener, folder, name)


def _unpacked(path: Path, opener: Callable[..., BufferedIOBase], folder: Path, name: str) -> Path:
    fresh, total = folder / f".{secrets.token_hex(16)}.part", hashlib.blake2b(digest_size=16)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of a random name and not there yet: nobody can have laid a link in its place.
        with path.open("rb") as file, opener(file, "rb") as packed, fresh.open("xb") as plain:
            for block in _blocks(path, file, packed):
                plain.write(block)
                total.update(block)
        copy = folder / f"{name}-{total.hexdigest()}.tar"
        if copy.is_dir() or not _replaced(fresh, copy):  # what cannot be replaced is passed over
            copy = folder / f"{copy.stem}.{secrets.token_hex(8)}.tar"
            fresh.rename(copy)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be unpacked into the cache, {folder}: {error.strerror}. "
            f"Free some space, set GRAFT_CACHE to a folder on another disk, or unpack it yourself."
        ) from error
    finally:
        with suppress(OSError):  # it is the first error that counts
            fresh.unlink(missing_ok=True)
    return copy


def _replaced(fresh: Path, copy: Path) -> bool:
    try:
        fresh.replace(copy)
    except PermissionError:  # another user's, in a cache that several share
        return False
    return True


def _sum(path: Path) -> str:
    with regular.opened(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _is_sound(copy: Path) -> bool:
    """Whether a copy is just what was unpacked; no file, or one that cannot be read, is not."""
    try:
        return _sum(copy) == copy.name.partition("-")[2].partition(".")[0]
    except OSError:
        return False


def _blocks(path: Path, file: BinaryIO, packed: BufferedIOBase) -> Iterator[bytes]:
    written = 0
    while True:
        try:
            block = packed.read(BLOCK)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{path} is damaged: {error}. Please copy or download it again.") from error
        if not block:
            return
        written += len(block)
        if written > SLACK + RATIO * file.tell():
            raise DataError(f"{path} unpacks to far more than pictures do. Nothing of it was kept. Is it what it says?")
        yield block
