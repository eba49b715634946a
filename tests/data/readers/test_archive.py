"""Archives that mean harm, and archives that came to harm: nothing is written, nothing grows, and words say why."""

from __future__ import annotations

import gzip
import io
import resource
import shutil
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from graft.data.readers import archive
from graft.data.readers import archive as archive_module
from graft.data.readers.archive import read_archive
from graft.errors import DataError, OutputError
from graft_runtime.image import ImageError

GOOD = {"cat/1.jpg": b"one", "cat/2.jpg": b"two", "dog/1.jpg": b"three"}
LEADS_OUT, LINKS = "names that lead out of the archive", "links and devices in the archive"
LARGE = "members that unpack to more than an image can be"


def in_zip(path: Path, *more: tuple[str | zipfile.ZipInfo, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in [*GOOD.items(), *more]:
            archive.writestr(name, content)
    return path


def in_tar(path: Path, *more: tarfile.TarInfo, content: bytes = b"") -> Path:
    with tarfile.open(path, "w") as archive:
        for name, good in GOOD.items():
            info = tarfile.TarInfo(name)
            info.size = len(good)
            archive.addfile(info, io.BytesIO(good))
        for info in more:
            archive.addfile(info, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def complaint(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_archive(path)
    return str(caught.value)


def contents(path: Path) -> dict[str, bytes]:
    data = read_archive(path)
    return {data.name(row): data.read(row) for row in range(len(data))}


# --- hostile ----------------------------------------------------------------------------------------------------------


ESCAPES = ["../../cat/9.jpg", "/cat/9.jpg", "cat/../../9.jpg", "C:/cat/9.jpg", "..\\cat\\9.jpg"]


@pytest.mark.fault(31)
@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leads_out_is_left_out(tmp_path: Path, name: str) -> None:
    data = read_archive(in_zip(tmp_path / "a.zip", (name, b"bad")))
    assert (len(data), data.ignored) == (3, {LEADS_OUT: 1})
    if "\\" not in name:
        data = read_archive(in_tar(tmp_path / "a.tar", tarfile.TarInfo(name)))
        assert (len(data), data.ignored) == (3, {LEADS_OUT: 1})
    assert {path.name for path in tmp_path.rglob("*")} <= {"a.zip", "a.tar"}


@pytest.mark.fault(31)
def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    kinds = {tarfile.SYMTYPE: "/etc/passwd", tarfile.LNKTYPE: "cat/1.jpg", tarfile.CHRTYPE: "", tarfile.FIFOTYPE: ""}
    odd = [special(f"dog/{number}.jpg", kind, target) for number, (kind, target) in enumerate(kinds.items(), 5)]
    data = read_archive(in_tar(tmp_path / "a.tar", *odd))
    assert (len(data), data.ignored) == (3, {LINKS: 4})
    link = zipfile.ZipInfo("dog/5.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    data = read_archive(in_zip(tmp_path / "a.zip", (link, b"/etc/passwd")))
    assert (len(data), data.ignored) == (3, {LINKS: 1})


@pytest.mark.fault(31)
def test_a_bomb_of_zeros_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    """2 MB of zeros in 2 kB are not looked at; 100 MB behind a promise of 10 bytes stop after these."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
        archive.writestr("cat/flat.bmp", bytes(2_000_000))
        with archive.open("cat/bomb.jpg", "w", force_zip64=True) as file:
            for _ in range(100):
                file.write(bytes(1_000_000))
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"cat/bomb.jpg") - 46  # its entry in the list: packed size at 20, unpacked size at 24
    raw[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(raw)
    tracemalloc.start()
    began = time.monotonic()
    data = read_archive(path)
    assert (data.names(), data.ignored) == ([*sorted([*GOOD, "cat/bomb.jpg"])], {LARGE: 1})
    with pytest.raises(ImageError, match="damaged: in the archive"):
        data.read(data.names().index("cat/bomb.jpg"))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert time.monotonic() - began < 5


@pytest.mark.fault(31)
def test_ten_gigabytes_that_a_header_promises_are_left_out(tmp_path: Path) -> None:
    path = in_zip(tmp_path / "a.zip", ("cat/9.jpg", bytes(1000)))
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"cat/9.jpg") - 46
    raw[at + 24 : at + 28] = struct.pack("<I", 0xFFFFFFFE)
    path.write_bytes(raw)
    assert read_archive(path).ignored == {LARGE: 1}
    sparse = special("cat/9.jpg", tarfile.GNUTYPE_SPARSE)
    tar = in_tar(tmp_path / "a.tar", sparse)
    assert len(read_archive(tar)) == 3


@pytest.mark.fault(31)
def test_a_compressed_tar_of_zeros_is_given_up_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(archive_module, "FREE_PACKED_BYTES", 4 << 20)
    info = tarfile.TarInfo("cat/1.jpg")
    info.size = 200_000_000
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.addfile(info, _Zeros())
    assert "unpacks to far more than images do" in complaint(tmp_path / "a.tar.gz")
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


@pytest.mark.fault(31)
def test_a_list_of_too_many_members_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 100)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    assert "lists more members than graft looks through" in complaint(in_zip(tmp_path / "a.zip"))
    assert "has more members than graft looks through" in complaint(in_tar(tmp_path / "a.tar"))


def test_a_name_in_the_archive_twice_counts_once_the_last(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = in_zip(tmp_path / "a.zip", ("dog/1.jpg", b"newer"))
    assert contents(path)["dog/1.jpg"] == b"newer"
    assert read_archive(path).ignored == {"members stored twice (the last one counts)": 1}


def test_members_that_cannot_be_unpacked_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in GOOD.items():
            archive.writestr(name, content)
        archive.writestr("cat/8.jpg", b"x", zipfile.ZIP_LZMA)
        archive.writestr("cat/9.jpg", b"secret")
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"cat/9.jpg") - 46
    raw[at + 8] |= 1  # the bit of encryption
    path.write_bytes(raw)
    assert read_archive(path).ignored == {
        "members packed in a way that graft does not unpack": 1,
        "members with a password": 1,
    }


# --- damaged ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(31)
@pytest.mark.parametrize("cut", [0.0, 0.3, 0.9])
def test_an_archive_that_was_cut_is_an_error(tmp_path: Path, cut: float) -> None:
    for path in (in_zip(tmp_path / "a.zip", ("dog/2.jpg", bytes(3000))), in_tar(tmp_path / "a.tar", content=b"")):
        raw = path.read_bytes()
        path.write_bytes(raw[: int(len(raw) * cut)] if path.suffix == ".zip" else raw[: int(2800 * cut)])
        assert complaint(path).startswith(f"{path} is damaged, or not what its ending says: ")


@pytest.mark.fault(31)
def test_a_tar_that_is_damaged_in_the_middle_is_an_error_not_half_a_data_set(tmp_path: Path) -> None:
    path = in_tar(tmp_path / "a.tar")
    raw = bytearray(path.read_bytes())
    raw[2048:2560] = b"\x55" * 512  # the third header
    path.write_bytes(raw)
    assert "what follows a member is no header" in complaint(path)


def test_a_compressed_tar_that_was_cut_is_an_error(tmp_path: Path) -> None:
    raw = gzip.compress(in_tar(tmp_path / "a.tar").read_bytes())
    path = tmp_path / "b.tgz"
    path.write_bytes(raw[: len(raw) // 2])
    assert complaint(path).startswith(f"{path} is damaged: ")
    path.write_bytes(b"no gzip at all")
    assert complaint(path).startswith(f"{path} is damaged: ")


def test_a_member_that_is_damaged_is_one_image_less(tmp_path: Path) -> None:
    path = in_zip(tmp_path / "a.zip", packing=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"three", b"thrEE"))
    data = read_archive(path)
    assert [data.read(row) for row in range(2)] == [b"one", b"two"]
    with pytest.raises(ImageError, match="its checksum is another"):
        data.read(2)
    path.write_bytes(path.read_bytes().replace(b"PK\3\4", b"PK\0\0"))
    with pytest.raises(ImageError, match="no such member where its list says"):
        data.read(0)
    path.write_bytes(b"")
    with pytest.raises(ImageError):
        data.read(0)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        data.read(0)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_no_change_of_a_byte_is_a_traceback(tmp_path: Path, kind: str) -> None:
    whole = (in_zip(tmp_path / "a.zip") if kind == "zip" else in_tar(tmp_path / "a.tar")).read_bytes()
    whole, path, dice = whole[:4096] if kind == "tar" else whole, tmp_path / f"b.{kind}", np.random.default_rng(0)
    for _ in range(300):
        raw = bytearray(whole)
        for at in dice.integers(0, len(raw), size=dice.integers(1, 6)):
            raw[at] = dice.integers(256)
        path.write_bytes(raw)
        try:
            data = read_archive(path)
        except DataError:
            continue
        for row in range(len(data)):
            try:
                data.read(row)
            except (ImageError, OSError):
                continue


def test_what_is_no_archive_or_not_there_says_so(tmp_path: Path) -> None:
    shutil.copy(in_tar(tmp_path / "a.tar"), tmp_path / "b.zip")
    assert complaint(tmp_path / "b.zip").startswith(f"{tmp_path / 'b.zip'} is damaged, or not what its ending says")
    assert complaint(tmp_path / "c.zip") == f"There is no file {tmp_path / 'c.zip'}."
    with zipfile.ZipFile(tmp_path / "d.zip", "w"):
        pass
    assert complaint(tmp_path / "d.zip") == f"{tmp_path / 'd.zip'} holds no images in class folders."


# --- reading ----------------------------------------------------------------------------------------------------------


def test_threads_read_what_one_reads(tmp_path: Path) -> None:
    many = [(f"cat/{number}.jpg", bytes([number]) * 5000 + str(number).encode()) for number in range(3, 200)]
    data = read_archive(in_zip(tmp_path / "a.zip", *many))
    alone = [data.read(row) for row in range(len(data))]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(data.read, [*range(len(data))] * 5)) == alone * 5
    assert len(set(alone)) == 200


def test_no_file_stays_open(tmp_path: Path) -> None:
    data = read_archive(in_zip(tmp_path / "a.zip"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        assert {data.take(np.array([row % 3])).read(0) for row in range(200)} == set(GOOD.values())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_names_that_a_mac_wrote_without_saying_utf8(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("käse/1.jpg")
    path = in_zip(tmp_path / "a.zip", (info, b"x"))
    path.write_bytes(_without_utf8_flag(path.read_bytes()))
    assert "käse" in read_archive(path).classes


def _without_utf8_flag(raw: bytes) -> bytes:
    changed = bytearray(raw)
    for magic, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = raw.find(magic)
        while at >= 0:
            flags = struct.unpack_from("<H", changed, at + offset)[0]
            struct.pack_into("<H", changed, at + offset, flags & ~0x800)
            at = raw.find(magic, at + 4)
    return bytes(changed)


def test_a_compressed_tar_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    for name in ("one.tar.gz", "other.tgz"):  # the same content under two names has one copy
        (tmp_path / name).write_bytes(gzip.compress(in_tar(tmp_path / "a.tar").read_bytes(), mtime=0))
        assert contents(tmp_path / name) == GOOD
    copies = list((tmp_path / "cache/archives").iterdir())
    assert [copy.read_bytes() for copy in copies] == [(tmp_path / "a.tar").read_bytes()]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(in_tar(tmp_path / "a.tar")))  # a file
    (tmp_path / "b.tgz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(OutputError, match=r"cannot be unpacked into the cache, .*GRAFT_CACHE"):
        read_archive(tmp_path / "b.tgz")


def test_files_that_a_table_in_an_archive_lists_and_that_are_not_there(tmp_path: Path) -> None:
    text = b"file,label\ncat/1.jpg,cat\ncat/2.jpg,cat\ndog/1.jpg,dog\n../1.jpg,dog\n"
    path = in_zip(tmp_path / "a.zip", ("labels.csv", text))
    data = read_archive(path)
    assert data.names() == [*GOOD, "../1.jpg"]
    with pytest.raises(FileNotFoundError):
        data.read(3)
    with pytest.raises(DataError, match=r"1 of 4 files that .*a.zip/labels.csv lists are not there, the first is ../1"):
        read_archive(path, strict=True)
