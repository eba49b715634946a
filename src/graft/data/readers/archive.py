"""Images in zip and tar archives, read in place: class folders, or a table of files and labels."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import lzma
import os
import posixpath
import re
import secrets
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graft.data.cache import cache_folder
from graft.data.dataset import Dataset
from graft.data.images import TableFolder
from graft.data.readers.columns import Columns
from graft.data.readers.folder import TABLE_NAME, FolderEntry, build_tree, is_unicode, parse_level, read_class_folders
from graft.data.readers.tables import build_table_dataset, parse_cells
from graft.errors import DataError, OutputError
from graft_runtime import safe_files
from graft_runtime.image import ImageError
from graft_runtime.walk import is_hidden, is_image

OPENERS = {
    (".tar.gz", ".tgz"): gzip.open,
    (".tar.bz2", ".tbz2"): bz2.open,
    (".tar.xz", ".txz"): lzma.open,
}
PACKED_SUFFIXES = tuple(suffix for suffixes in OPENERS for suffix in suffixes)
BLOCK = 1 << 20
# Images hardly pack; a tar of tiny ones is half blanks, and 20 is far from that.
FREE_PACKED_BYTES, PACKED_RATIO = 256 << 20, 20


def unpack_tar(path: Path) -> Path:
    """Return the tar itself, or its unpacked copy in the cache, made at the first call, and again if it is damaged.

    A copy is named by the content of the archive and by its own, so that it says itself whether it is whole.
    Random access into a gzip of 100 MB takes 0.3 s an image, unpacking it 0.5 s once (measured on two cores).
    Raises DataError for a damaged file, or one that unpacks to far more than images do; OutputError for a full disk.
    """
    opener = next((opener for suffixes, opener in OPENERS.items() if path.name.lower().endswith(suffixes)), None)
    if opener is None:
        return path
    try:
        name = _hash_file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    folder = cache_folder() / "archives"
    return next(filter(_is_intact, sorted(folder.glob(f"{name}-*.tar"))), None) or _write_copy(
        path, opener, folder, name
    )


def _write_copy(path: Path, opener: Callable[..., BufferedIOBase], folder: Path, name: str) -> Path:
    fresh, hasher = folder / f".{secrets.token_hex(16)}.part", hashlib.blake2b(digest_size=16)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of a random name and not there yet: nobody can have laid a link in its place.
        with path.open("rb") as file, opener(file, "rb") as packed, fresh.open("xb") as plain:
            for block in _read_blocks(path, file, packed):
                plain.write(block)
                hasher.update(block)
        copy = folder / f"{name}-{hasher.hexdigest()}.tar"
        if copy.is_dir() or not _replace_file(fresh, copy):  # what cannot be replaced is passed over
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


def _replace_file(fresh: Path, copy: Path) -> bool:
    try:
        fresh.replace(copy)
    except PermissionError:  # another user's, in a cache that several share
        return False
    return True


def _hash_file(path: Path) -> str:
    with safe_files.open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _is_intact(copy: Path) -> bool:
    """Whether a copy is just what was unpacked; no file, or one that cannot be read, is not."""
    try:
        return _hash_file(copy) == copy.name.partition("-")[2].partition(".")[0]
    except OSError:
        return False


def _read_blocks(path: Path, file: BinaryIO, packed: BufferedIOBase) -> Iterator[bytes]:
    written = 0
    while True:
        try:
            block = packed.read(BLOCK)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise DataError(f"{path} is damaged: {error}. Please copy or download it again.") from error
        if not block:
            return
        written += len(block)
        if written > FREE_PACKED_BYTES + PACKED_RATIO * file.tell():
            raise DataError(f"{path} unpacks to far more than images do. Nothing of it was kept. Is it what it says?")
        yield block


MAX_MEMBER_BYTES = 256 << 20  # bytes: an image of 64 megapixels is 192 MB as BMP, the most that is decoded
# Above 1 MiB: photos pack to about their own size, drawings as BMP to a tenth or less.
FREE_MEMBER_BYTES, MEMBER_RATIO = 1 << 20, 200
MAX_DIRECTORY_BYTES = 256 << 20  # bytes of a zip file's list of members: about two million images
MAX_MEMBERS = 5_000_000  # members; a tar of more takes minutes to look through

SPAN_DTYPE = np.dtype(  # where a member lies: in which archive, its bytes, how they are packed, and their checksum
    [("archive", "i4"), ("begin", "i8"), ("packed", "i8"), ("size", "i8"), ("method", "i1"), ("checksum", "u4")]
)
ABSENT, TAR, STORED, DEFLATED = -1, 1, 0, 8  # the last two are zip's own numbers
_LOCAL = struct.Struct("<4s22xHH")  # the header before a zip member: magic, ..., lengths of its name and extra field
_DIRECTORY_SIZE = re.compile(
    rb"PK\x05\x06.{8}(.{4})|PK\x06\x06.{36}(.{8})", re.DOTALL
)  # the size of the list, in two forms


class ArchiveMember(NamedTuple):
    """A file in an archive: where its bytes are; `problem` says why it is left out, if it is."""

    name: str
    begin: int
    packed: int
    size: int
    method: int
    checksum: int
    problem: str


@dataclass(frozen=True, eq=False)
class ArchiveImages:
    """Files inside archives, read in place: each read opens the archive anew, so threads do not meet."""

    names: NDArray[Any]  # of numpy's StringDType
    spans: NDArray[Any]  # of SPAN
    archives: tuple[str, ...]
    root: str

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.integer]) -> ArchiveImages:
        return ArchiveImages(self.names[rows], self.spans[rows], self.archives, self.root)

    def name(self, row: int) -> str:
        return str(self.names[row])

    def read(self, row: int) -> bytes:
        span = self.spans[row]
        if span["method"] == ABSENT:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.name(row))
        with open(self.archives[span["archive"]], "rb") as file:
            return _unpack_member(file, *map(int, span.tolist()[1:]))


def _unpack_member(file: BinaryIO, begin: int, packed: int, size: int, method: int, checksum: int) -> bytes:
    file.seek(begin)
    if method != TAR:
        magic, *skip = _LOCAL.unpack(file.read(_LOCAL.size).ljust(_LOCAL.size))
        if magic != b"PK\3\4":
            raise ImageError("damaged", "the archive has no such member where its list says")
        file.seek(sum(skip), os.SEEK_CUR)
    raw = file.read(packed)
    if len(raw) < packed:
        raise ImageError("truncated", "the archive ends before this member does")
    if method == DEFLATED:
        try:
            raw = zlib.decompressobj(-zlib.MAX_WBITS).decompress(raw, size + 1)  # never more than was promised
        except zlib.error as error:
            raise ImageError("damaged", f"in the archive: {error}") from error
    if method != TAR and (len(raw) != size or zlib.crc32(raw) != checksum):
        raise ImageError("damaged", "in the archive: its checksum is another")
    return raw


@dataclass(frozen=True, eq=False)
class ArchiveIndex:
    """The contents of an archive: `spans` of its files, their `row_by_name`, and counts of what was `ignored`."""

    path: Path
    file: Path  # what is read from: of a compressed tar, its unpacked copy
    spans: NDArray[Any]  # of SPAN
    row_by_name: dict[str, int]
    folders: tuple[str, ...]
    ignored: Counter[str]

    def select_images(self, names: list[str]) -> ArchiveImages:
        """Return the images of these names; one that is not there stays, and cannot be read."""
        spans = np.zeros(len(names), SPAN_DTYPE)
        spans["method"] = ABSENT
        rows = np.array([self.row_by_name.get(name, -1) for name in names], np.intp)
        spans[rows >= 0] = self.spans[rows[rows >= 0]]
        return ArchiveImages(np.array(names, np.dtypes.StringDType()), spans, (str(self.file),), str(self.path))

    def read(self, name: str) -> bytes:
        """Read a small file in the archive; raises DataError if it is damaged."""
        try:
            return self.select_images([name]).read(0)
        except (ImageError, OSError) as error:
            raise DataError(f"{name} in {self.path} cannot be read: {error}.") from error


def index_archive(path: Path) -> ArchiveIndex:
    """Index an archive. Raises DataError for one that is damaged or has too many members."""
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    zipped = path.suffix.lower() == ".zip"
    file = path if zipped else unpack_tar(path)
    end = file.stat().st_size
    spans: list[tuple[int, ...]] = []
    row: dict[str, int] = {}
    folders: list[str] = []
    ignored: Counter[str] = Counter()
    for member in _zip_members(path) if zipped else _tar_members(path, file):
        name = posixpath.normpath(member.name)
        if flaw := member.problem or _misplaced_reason(member, end) or _oversize_reason(member):
            ignored[flaw] += 1
        elif member.name.endswith("/"):
            folders += [f"{name}/"] if name != "." else []
        else:
            ignored["members stored twice (the last one counts)"] += name in row
            row[name] = len(spans)
            spans.append((0, *member[1:6]))
    return ArchiveIndex(path, file, np.array(spans, SPAN_DTYPE), row, tuple(folders), +ignored)


def _misplaced_reason(member: ArchiveMember, end: int) -> str:
    """Return why a member's name or position is not acceptable, or ''."""
    if member.name.startswith("/") or re.match(r"[A-Za-z]:", member.name) or ".." in member.name.split("/"):
        return "names that lead out of the archive"
    if not is_unicode(member.name):
        return "names that are not Unicode"
    return "" if 0 <= member.begin <= end and 0 <= member.packed <= end else "members outside the archive"


def _oversize_reason(member: ArchiveMember) -> str:
    """Return why a member is too large to unpack, or ''; decided before unpacking."""
    limit = min(MAX_MEMBER_BYTES, max(FREE_MEMBER_BYTES, MEMBER_RATIO * member.packed))
    return "members that unpack to more than an image can be" if not 0 <= member.size <= limit else ""


def _zip_members(path: Path) -> Iterator[ArchiveMember]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 17)))
        sizes = [int.from_bytes(each[1] or each[2], "little") for each in _DIRECTORY_SIZE.finditer(file.read())]
        if any(
            size > MAX_DIRECTORY_BYTES and size != 0xFFFFFFFF for size in sizes
        ):  # that one means: see the other form
            raise DataError(f"{path} lists more members than graft looks through. Please unpack it.")
        try:
            with zipfile.ZipFile(file) as archive:
                for info in archive.infolist():
                    yield _zip_member(info)
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, OSError) as error:
            raise _damaged_error(path, error) from error


def _zip_member(info: zipfile.ZipInfo) -> ArchiveMember:
    flaw = ""
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        flaw = "links and devices in the archive"
    elif info.flag_bits & 1:
        flaw = "members with a password"
    elif info.compress_type not in (STORED, DEFLATED):
        flaw = "members packed in a way that graft does not unpack"
    name = info.filename
    if not info.flag_bits & 0x800:  # macOS writes UTF-8 without saying so
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    method = info.compress_type if not flaw else STORED
    place = (info.header_offset, info.compress_size, info.file_size, method, info.CRC)
    return ArchiveMember(name.replace("\\", "/"), *place, flaw)


def _tar_members(path: Path, plain: Path) -> Iterator[ArchiveMember]:
    try:
        with plain.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for number in count():
                if (info := archive.next()) is None:
                    break
                if number == MAX_MEMBERS:
                    raise tarfile.ReadError("it has more members than graft looks through")
                vars(archive)["members"].clear()  # or it keeps them all
                yield _tar_member(info)
            file.seek(archive.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("what follows a member is no header")
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise _damaged_error(path, error) from error


def _tar_member(info: tarfile.TarInfo) -> ArchiveMember:
    flaw = "" if info.isdir() or info.isreg() else "links and devices in the archive"
    if info.issparse():
        flaw = "members stored with holes"
    name = info.name + "/" * info.isdir()
    return ArchiveMember(name, info.offset_data, info.size, info.size, TAR, 0, flaw)


def _damaged_error(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged, or not what its ending says: {error}. Please copy or download it again.")


def concatenate_archives(columns: Iterable[ArchiveImages], root: str) -> ArchiveImages:
    """Concatenate the images of several archives."""
    parts = list(columns)
    spans = np.concatenate([part.spans for part in parts])
    spans["archive"] = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    return ArchiveImages(
        np.concatenate([part.names for part in parts]),
        spans,
        tuple(part.archives[0] for part in parts),
        root,
    )


SUFFIXES = (".zip", ".tar", *PACKED_SUFFIXES)

FolderTree = dict[str, dict[str, bool]]


def read_archive(
    path: str | Path, classes: tuple[str, ...] | None = None, columns: str = "", *, strict: bool = False
) -> Dataset:
    """Read the images in a zip or tar archive, laid out as `read_folder` or `read_table` would have them.

    All may stand in one folder at the top. Nothing is unpacked, except that a compressed tar is, once, into the cache.
    Members that lead out of the archive, links, devices, and what unpacks to more than an image are left out and
    counted. Raises DataError: a damaged archive, or what `read_folder` and `read_table` raise.
    """
    return from_index(index_archive(Path(path)), classes, columns, strict=strict)


def from_index(
    found: ArchiveIndex, classes: tuple[str, ...] | None, columns: str = "", *, strict: bool = False
) -> Dataset:
    """Read an archive that is indexed already; see `read_archive`."""
    ignored = Counter(found.ignored)
    folders = build_tree([*found.row_by_name, *found.folders])
    top = _find_top(folders, classes)
    if TABLE_NAME in folders[top]:
        name, place = f"{found.path}/{posixpath.join(top, TABLE_NAME)}", _build_folder(found, top, folders)
        cells = parse_cells(name, _read_member(found, top, TABLE_NAME), Columns.from_text(columns), place)
        data = build_table_dataset(cells, place, classes, strict=strict)
        data.ignored.update(ignored)
        return data

    def listing(folder: str) -> Iterator[FolderEntry]:
        for name, is_folder in sorted(folders[folder].items()):
            if is_hidden(name):
                ignored["hidden files"] += 1
            else:
                yield FolderEntry(name, posixpath.join(folder, name), is_folder)

    level = parse_level(columns)
    return read_class_folders(str(found.path), listing, found.select_images, classes, ignored, top, level=level)


def _find_top(folders: FolderTree, classes: tuple[str, ...] | None) -> str:
    """Return where the class folders or the table are: at the root, or in a folder that holds all the rest."""
    top = ""
    while True:
        seen = {name: is_folder for name, is_folder in folders[top].items() if not is_hidden(name)}
        inner = [name for name, is_folder in seen.items() if is_folder]
        if len(inner) != 1 or any(map(is_image, seen)) or TABLE_NAME in seen or inner[0] in (classes or ()):
            return top
        below = posixpath.join(top, inner[0])
        if TABLE_NAME not in folders[below] and not any(folders[below].values()):
            return top
        top = below


def _build_folder(found: ArchiveIndex, top: str, folders: FolderTree) -> TableFolder:
    def inside(name: str) -> str:
        return posixpath.normpath(posixpath.join(top, name)).removeprefix("./")

    return TableFolder(
        f"{found.path}/{top}".rstrip("/"),
        lambda name: inside(name) in found.row_by_name,
        lambda path: folders.get("" if inside(path) == "." else inside(path), {}),
        lambda names: found.select_images([inside(name) for name in names]),
        lambda name: _read_member(found, top, name),
    )


def _read_member(found: ArchiveIndex, top: str, name: str) -> bytes:
    return found.read(posixpath.join(top, name))
