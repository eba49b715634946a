"""Any label becomes one folder that every file system takes, or is an error that says why not."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.errors import DataError
from graft.jobs.collect.collect import assign_folders


@pytest.mark.parametrize(
    ("label", "folder"),
    [
        ("cat", "cat"),
        ("Échinée à 100%", "Échinée à 100%"),
        ("猫", "猫"),
        ("a/b", "a_b"),
        ("..", "_"),
        ("../../etc/passwd", "__.._etc_passwd"),
        (".hidden", "_hidden"),
        ("con", "_con"),
        ("NUL.txt", "_NUL.txt"),
        ("console", "console"),
        ("what?", "what_"),
        ("tab\there\0", "tab_here_"),
        ("C:\\x", "C__x"),
        ("dots...", "dots_"),
        ("desktop.ini", "_desktop.ini"),
    ],
)
def test_folders(label: str, folder: str) -> None:
    assert assign_folders([label]) == {label: folder}


@pytest.mark.parametrize(
    ("one", "other"), [("a/b", "a:b"), ("Cat", "cat"), ("x.", "x_"), ("..", "."), ("STRASSE", "straße")]
)
def test_two_labels_for_one_folder(one: str, other: str) -> None:
    with pytest.raises(DataError) as caught:
        assign_folders([one, other])
    assert repr(one) in str(caught.value)
    assert repr(other) in str(caught.value)
    assert "one folder" in str(caught.value)


def test_too_long() -> None:
    with pytest.raises(DataError, match="too long"):
        assign_folders(["ü" * 101])
    assert assign_folders(["ü" * 100])


@given(label=st.text(min_size=1, max_size=30) | st.text("./\\ :CONcon1", min_size=1, max_size=6))
def test_a_folder_is_one_visible_name_inside_the_output(label: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = assign_folders([label])[label]
    inside = Path("/photos") / folder
    assert inside.resolve().parent == Path("/photos")
    assert not folder.startswith(".")
    assert not PureWindowsPath(folder).is_reserved()
    assert PureWindowsPath(folder).parts == (folder,)
    assert assign_folders([folder]) == {folder: folder}  # safe already
    (tmp_path_factory.getbasetemp() / "labels" / folder).mkdir(parents=True, exist_ok=True)
