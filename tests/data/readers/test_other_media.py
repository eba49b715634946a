"""Audio, text, video and documents in place of images: told in a sentence, and no trouble beside images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from graft.data.readers.source import read_source
from graft.errors import DataError

JOB = "not this program's job, which classifies images"


def lay(root: Path, *names: str) -> Path:
    """Files of these names below root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"bytes that a reader of folders has no need to open")
    return root


def complaint(source: Path, **options: Path) -> str:
    """Why it is not read."""
    with pytest.raises(DataError) as caught:
        read_source(source, **options)  # pyright: ignore[reportArgumentType]
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a/1.wav", "a/2.WAV", "b/3.wav"), f"It holds 3 .wav files: audio is {JOB}."),
        (("a/1.mp3", "b/2.flac", "b/3.flac"), f"It holds 2 .flac files and 1 .mp3 file: audio is {JOB}."),
        (("a/1.txt", "b/2.txt"), f"It holds 2 .txt files: text is {JOB}."),
        (("sentences.csv",), f"It holds 1 .csv file: text is {JOB}."),
        (("1.json", "2.mp3"), f"It holds 1 .json file and 1 .mp3 file: audio and text are {JOB}."),
        (("a/1.mp4", "b/2.mp4"), "It holds 2 .mp4 files: extract frames of a video as images first"),
        (("a/1.pdf",), "It holds 1 .pdf file: convert the pages of a PDF to images first"),
    ],
)
def test_a_folder_without_images_is_told_what_it_holds(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    lay(tmp_path / "set", *names)
    assert f". {says}" in complaint(tmp_path / "set")
    assert says in complaint(Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "set")))
    lay(tmp_path, "other/1.jpg")
    assert says in complaint(tmp_path / "other", against=tmp_path / "set")


def test_beside_images_they_are_counted_and_no_more(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.jpg", "dog/2.jpg", "dog/3.wav", "dog/4.pdf", "notes.txt")
    found = read_source(tmp_path)
    assert (len(found), found.ignored) == (2, {"other files": 3})
    assert JOB not in complaint(lay(tmp_path / "loose", "1.jpg", "2.wav"))
    assert "It holds" not in complaint(lay(tmp_path / "unknown", "a/1.xyz"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.wav", f"audio is {JOB}."),
        ("a.txt", f"text is {JOB}."),
        ("a.mp4", "extract frames of a video"),
        ("a.pdf", "convert the pages of a PDF"),
    ],
)
def test_so_is_a_single_file(tmp_path: Path, name: str, says: str) -> None:
    assert f"{name} is no image nor a folder of images: {says}" in complaint(lay(tmp_path, name) / name)


def test_a_table_of_sentences_has_no_images(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("sentence,label\nfine,good\nawful,bad\n")
    message = complaint(tmp_path / "reviews.csv")
    assert f"Its column 'sentence' seems to hold text, which is {JOB}." in message
    (tmp_path / "plain.csv").write_text("x,label\nfine,good\nawful,bad\n")
    assert JOB not in complaint(tmp_path / "plain.csv")
