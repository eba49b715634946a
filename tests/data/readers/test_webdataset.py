"""Shards: images and small files with their labels, in tars."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.readers.source import read_source
from graft.errors import DataError


def shard(path: Path, *files: tuple[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            raw = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def said(data: Dataset) -> dict[bytes, list[str]]:
    rows = data.targets().astype(bool).tolist()
    labels = ([name for name, there in zip(data.classes, row, strict=True) if there] for row in rows)
    return {data.read(row): found for row, found in enumerate(labels)}


TWO = (("0.jpg", b"A"), ("0.cls", "3\n"), ("1.jpg", b"B"), ("1.cls", "10"))


def test_one_shard_with_labels_in_any_of_three_files(tmp_path: Path) -> None:
    data = read_source(shard(tmp_path / "a.tar", *TWO))
    assert (data.classes, said(data), data.columns) == (("3", "10"), {b"A": ["3"], b"B": ["10"]}, "")
    files = [("a/x.png", b"A"), ("a/x.txt", "cat"), ("a/y.JPG", b"B"), ("a/y.json", '{"cls": "dog", "w": 3}')]
    data = read_source(shard(tmp_path / "b.tar", *files))
    assert said(data) == {b"A": ["cat"], b"B": ["dog"]}
    assert data.names() == ["a/x.png", "a/y.JPG"]
    first = [*files, ("a/x.cls", "eel")]  # a .cls counts before a .txt, which may be a caption
    assert said(read_source(shard(tmp_path / "c.tar", *first)))[b"A"] == ["eel"]


def test_a_list_is_several_labels_with_any_letters(tmp_path: Path) -> None:
    lists = [["sea", "sand, wet|dry"], [], ["sea"]]
    files = [(f"{at}.json", json.dumps({"label": each})) for at, each in enumerate(lists)]
    data = read_source(shard(tmp_path / "a.tar", *files, *((f"{at}.jpg", bytes([at])) for at in range(3))))
    assert data.task == "multilabel"
    assert list(said(data).values()) == [["sand, wet|dry", "sea"], [], ["sea"]]


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [("train-000000.tar", "val-000000.tar", "test-000000.tar"), ("set_train_0.tar", "validation0.tar", "TEST.tar")],
)
def test_the_names_of_shards_say_the_part(tmp_path: Path, train: str, valid: str, test: str) -> None:
    for at, name in enumerate((train, valid, test)):
        shard(tmp_path / name, (f"{at}.jpg", bytes([at])), (f"{at}.cls", str(at % 2)))
    data = read_source(tmp_path)
    parts = {data.read(row): int(data.split[row]) for row in range(3)}
    assert parts == {b"\0": TRAIN, b"\1": VALID, b"\2": TEST}
    alone = read_source(shard(tmp_path / "other/train-000000.tar", *TWO).parent)
    assert alone.split.tolist() == [UNSPLIT] * 2


def test_patterns_name_shards(tmp_path: Path) -> None:
    for at in range(12):
        shard(tmp_path / f"s-{at:03d}.tar", (f"{at}.jpg", bytes([at])), (f"{at}.cls", str(at % 2)))
    found = {
        pattern: len(read_source(f"{tmp_path}/{pattern}")) for pattern in ("s-{000..004}.tar", "*-00*.tar", "*.tar")
    }
    assert found == {"s-{000..004}.tar": 5, "*-00*.tar": 10, "*.tar": 12}
    assert len(read_source(f"{tmp_path}/s-00{{1,4}}.tar")) == 2
    data = read_source(tmp_path)
    assert [data.read(row)[0] for row in range(12)] == list(range(12))
    with pytest.raises(DataError, match=r"There is no file .*s-012\.tar"):
        read_source(f"{tmp_path}/s-{{010..012}}.tar")
    with pytest.raises(DataError, match=r"There is no file .*t-\*\.tar"):
        read_source(f"{tmp_path}/t-*.tar")


def test_what_makes_no_sample_is_counted(tmp_path: Path) -> None:
    odd = [("2.cls", "3"), ("3.jpg", b"C"), ("4.jpg", b"D"), ("4.seg.png", b"E"), ("4.cls", "3"), ("5.jpg", b"F")]
    data = read_source(shard(tmp_path / "a.tar", *TWO, *odd, ("5.json", '{"caption": "x"}')))
    assert said(data) == {b"A": ["3"], b"B": ["10"], b"D": ["3"]}
    assert data.ignored == {
        "samples without an image": 1,
        "samples without a label": 2,
        "further images of a sample": 1,
    }


def test_class_folders_with_words_beside_the_images_are_class_folders(tmp_path: Path) -> None:
    files = [("cat/1.jpg", b"A"), ("cat/1.json", "{}"), ("dog/1.jpg", b"B"), ("dog/1.txt", "a dog on a sofa")]
    data = read_source(shard(tmp_path / "a.tar", *files))
    assert data.classes == ("cat", "dog")


def test_a_folder_with_folders_is_no_folder_of_shards(tmp_path: Path) -> None:
    shard(tmp_path / "backup.tar", *TWO)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").touch()
    assert read_source(tmp_path).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1.json", "{", "1.json is not JSON"),
        ("1.json", "[" * 100_000, "1.json is not JSON"),
        ("1.cls", b"\xff", "is not text in UTF-8"),
        ("1.cls", b"1" * ((1 << 20) + 1), "is too large to hold a label"),
    ],
)
def test_a_label_that_cannot_be_read_is_an_error(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_source(shard(tmp_path / "a.tar", ("0.jpg", b"A"), ("0.cls", "3"), ("1.jpg", b"B"), (name, content)))


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ([0.0, 1.0, float("nan")], [["0"], ["1"]]),  # numbers of a column with a gap
        ([[1, 0], [0, 1], [1, 0]], [["0"], ["1"], ["0"]]),  # one-hot rows, not both labels for each
        (["a", ["b"], [None]], [["a"], ["b"]]),
        (["a", "b", ""], [["a"], ["b"]]),
        (["a", "b", "nan"], [["a"], ["b"]]),
        ([["a", "b"], [], ["b"]], [["a", "b"], [], ["b"]]),
    ],
)
def test_labels_of_samples_are_as_those_of_any_source(tmp_path: Path, labels: list[Any], found: list[Any]) -> None:
    pairs = [
        ((f"{at}.jpg", b"%d" % at), (f"{at}.json", json.dumps({"label": label}))) for at, label in enumerate(labels)
    ]
    data = read_source(shard(tmp_path / "a.tar", *(file for pair in pairs for file in pair)))
    assert list(said(data).values()) == found
    assert data.ignored.get("samples without a label", 0) == len(labels) - len(found)


def test_a_sample_of_a_kind_that_is_not_decoded_is_named_with_its_fault(tmp_path: Path) -> None:
    files = [*TWO, ("2.CLS", "3"), ("2.jp2", b"C"), ("3.npy", b"D"), ("3.jpg", b"E"), ("3.cls", "10")]
    data = read_source(shard(tmp_path / "a.tar", *files))
    assert data.names() == ["0.jpg", "1.jpg", "2.jp2", "3.jpg"]
    assert data.ignored == {}
