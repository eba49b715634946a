"""One walk for all commands: what is hidden, what is followed, and what is met twice."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from graft_runtime import table, walk

LITTER = (
    "._a.png",
    ".ipynb_checkpoints/a.png",
    "__MACOSX/a.png",
    "@eaDir/a.png/THUMB.jpg",
    "#recycle/a.png",
    "found.000/a.png",
    "Thumbs.db",
)


def lay(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"no matter")


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in table.list_images([root])]


def test_what_no_person_put_there_is_not_judged(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", "deep/b.jpg", "notes.txt", *LITTER)
    assert found(tmp_path) == ["a.png", "deep/b.jpg"]


def test_a_folder_that_is_named_is_walked_whatever_it_is_called(tmp_path: Path) -> None:
    lay(tmp_path, ".hidden/a.png", "@eaDir/b.png")
    assert (found(tmp_path / ".hidden"), found(tmp_path / "@eaDir")) == (["a.png"], ["b.png"])


@pytest.mark.fault(29)
def test_links_are_followed_once(tmp_path: Path) -> None:
    lay(tmp_path, "store/cats/a.png", "in/dogs/b.png")
    (tmp_path / "in/cats").symlink_to(tmp_path / "store/cats")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    (tmp_path / "in/nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "in/c.png").symlink_to(tmp_path / "store/cats/a.png")
    assert found(tmp_path / "in") == ["c.png", "cats/a.png", "dogs/b.png"]


def test_every_kind_of_image_is_listed_so_that_its_fault_is_told(tmp_path: Path) -> None:
    lay(tmp_path, "a.HEIC", "b.avif", "c.nef", "d.jxl", "e.dcm", "f.csv")
    assert found(tmp_path) == ["a.HEIC", "b.avif", "c.nef", "d.jxl", "e.dcm"]


@pytest.mark.fault(6)
def test_a_folder_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "a.png", "closed/b.png")
    scan = os.scandir

    def scandir(folder: str | Path) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found(tmp_path) == ["a.png", "closed"]
    with pytest.raises(OSError, match=r"The folder .*closed cannot be opened: Permission denied\."):
        found(tmp_path / "closed")


def test_the_names_of_classes_are_not_hidden() -> None:
    assert not any(map(walk.is_hidden, ("#1", "@home", "$100", "recycled", "_other", "~")))
