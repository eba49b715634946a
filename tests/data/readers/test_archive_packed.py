"""The unpacked copy of a compressed tar: verified whenever it is opened, made anew where damaged, never a link."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graft.data.readers import archive as archive_module
from graft.data.readers.archive import unpack_tar
from graft.errors import DataError

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        member = tarfile.TarInfo("cat/1.jpg")
        member.size = len(CONTENT)
        tar.addfile(member, io.BytesIO(CONTENT))
    path = tmp_path / "photos.tgz"
    path.write_bytes(gzip.compress(plain.getvalue(), mtime=0))
    return path


def flip(copy: Path) -> None:
    raw = bytearray(copy.read_bytes())
    raw[len(raw) // 2] ^= 1
    copy.write_bytes(raw)


def pipe(copy: Path) -> None:
    copy.unlink()
    os.mkfifo(copy)


def folder(copy: Path) -> None:
    copy.unlink()
    copy.mkdir()


def linked(copy: Path) -> None:
    copy.rename(copy.parent.parent / "elsewhere")
    copy.symlink_to(copy.parent.parent / "nowhere")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "flipped": flip,
    "cut short": lambda copy: os.truncate(copy, 600),
    "longer": lambda copy: copy.write_bytes(copy.read_bytes() + bytes(512)),
    "empty": lambda copy: os.truncate(copy, 0),
    "gone": Path.unlink,
    "pipe": pipe,
    "folder": folder,
    "link to nowhere": linked,
}


@pytest.mark.fault(31)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_is_made_anew(archive: Path, damage: str) -> None:
    want = gzip.decompress(archive.read_bytes())
    copy = unpack_tar(archive)
    assert copy.read_bytes() == want
    DAMAGE[damage](copy)
    again = unpack_tar(archive)
    assert again.read_bytes() == want
    assert unpack_tar(archive) == again  # and then it stays
    assert sorted(path.suffix for path in again.parent.iterdir() if path.is_file()) == [".tar"]


def test_a_sound_copy_is_not_made_again(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = unpack_tar(archive)
    monkeypatch.setattr(archive_module, "_write_copy", lambda *_: pytest.fail("unpacked again"))
    assert unpack_tar(archive) == copy


@pytest.mark.fault(31)
def test_links_in_the_cache_lead_nobody_to_write_elsewhere(archive: Path) -> None:
    mine = archive.parent / "precious.txt"
    mine.write_text("precious")
    copy = unpack_tar(archive)
    before = {path.name for path in copy.parent.iterdir()}
    name = copy.name.partition("-")[0]
    shutil.rmtree(copy.parent)
    copy.parent.mkdir()
    for each in (copy.name, f"{name}.tar", f".{name}.{os.getpid()}.part", f".{copy.name}.part"):
        (copy.parent / each).symlink_to(mine)
    again = unpack_tar(archive)
    assert again.read_bytes() == gzip.decompress(archive.read_bytes())
    assert not again.is_symlink()
    assert mine.read_text() == "precious"
    assert before == {copy.name}


def test_a_copy_that_cannot_be_replaced_is_passed_over(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = unpack_tar(archive)
    flip(copy)

    def refused(self: Path, target: Path) -> Path:
        raise PermissionError(1, "Operation not permitted", str(target))

    monkeypatch.setattr(Path, "replace", refused)
    again = unpack_tar(archive)
    assert again != copy
    assert again.read_bytes() == gzip.decompress(archive.read_bytes())
    assert unpack_tar(archive) == again


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photos.tgz")
    with pytest.raises(DataError, match="cannot be read: it is a pipe, and no file"):
        unpack_tar(tmp_path / "photos.tgz")
