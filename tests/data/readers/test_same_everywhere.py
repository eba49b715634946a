"""The law of all readers: the same images make the same data set, whatever they lie in."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.dataset import SPLITS, Dataset, compute_digest
from graft.data.readers.folder import read_folder
from graft.data.readers.source import read_source
from graft.errors import DataError

File = tuple[str, str, str, bytes]  # name, class, part, content


def rows(data: Dataset) -> list[tuple[bytes, str, str]]:
    """What a data set says, in an order that does not depend on names."""
    names = [data.classes[label] for label in data.labels.tolist()]
    parts = [SPLITS[code] for code in data.split.tolist()]
    return sorted(zip([compute_digest(data.read(row)) for row in range(len(data))], names, parts, strict=True))


def files(photos: Path, *, parted: bool) -> list[File]:
    """The images of the fixture; every third of them is for the test if they are parted."""
    found = []
    for at, path in enumerate(sorted(photos.rglob("*.*g"))):
        part = ("test" if at % 3 == 0 else "train") if parted else ""
        found.append((path.relative_to(photos).as_posix(), path.parent.name, part, path.read_bytes()))
    return found


# --- the same images in every making --------------------------------------------------------------------------------


def folder(root: Path, given: list[File]) -> Path:
    for name, _, part, content in given:
        path = root / "set" / part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root / "set"


def zipped(top: str, packing: int) -> Callable[[Path, list[File]], Path]:
    def make(root: Path, given: list[File]) -> Path:
        with zipfile.ZipFile(root / "set.zip", "w", packing) as archive:
            archive.writestr("__MACOSX/._set", b"what a Mac adds")
            for name, _, part, content in given:
                archive.writestr(os.path.join(top, part, name), content)
        return root / "set.zip"

    return make


def tarred(name: str, mode: str, top: str = "") -> Callable[[Path, list[File]], Path]:
    def make(root: Path, given: list[File]) -> Path:
        source = folder(root, given)
        with tarfile.open(root / name, mode) as archive:  # type: ignore[call-overload]
            archive.add(source, arcname=top or ".")
        return root / name

    return make


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def shards(ending: str) -> Callable[[Path, list[File]], Path]:
    """Two shards of each part, with the label in a small file of this ending."""

    def make(root: Path, given: list[File]) -> Path:
        (root / "shards").mkdir()
        for number, part in [(number, part) for part in sorted({each[2] for each in given}) for number in range(2)]:
            mine = [each for each in given if each[2] == part][number::2]
            with tarfile.open(root / "shards" / f"{part or 'all'}-{number:06d}.tar", "w") as archive:
                for name, label, _, content in mine:
                    key, suffix = os.path.splitext(name.replace("/", "-"))
                    said = json.dumps({"label": label}) if ending == "json" else label
                    add(archive, f"{key}.{ending}", said.encode())
                    add(archive, f"{key}{suffix}", content)
        return root / "shards"

    return make


def listed(given: list[File], prefix: str = "") -> str:
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["file", "label", "split"])
    table.writerows((f"{prefix}{name}", label, part) for name, label, part, _ in given)
    return text.getvalue()


def plain(given: list[File]) -> list[File]:
    """The files without their parts in the path; a table says these."""
    return [(name, label, "", content) for name, label, _, content in given]


def table(root: Path, given: list[File]) -> Path:
    folder(root, plain(given))
    (root / "list.csv").write_text(listed(given, "set/"))
    return root / "list.csv"


def table_in_zip(root: Path, given: list[File]) -> Path:
    path = zipped("top/images", zipfile.ZIP_DEFLATED)(root, plain(given))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("top/labels.csv", listed(given))
    return path


def parquet(root: Path, given: list[File]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as writer

    columns = {
        "image": [{"bytes": content, "path": name} for name, _, _, content in given],
        "label": [label for _, label, _, _ in given],
        "split": [part for _, _, part, _ in given],
    }
    writer.write_table(arrow.table(columns), root / "set.parquet", row_group_size=5)
    return root / "set.parquet"


MAKINGS = {
    "zip": zipped("", zipfile.ZIP_DEFLATED),
    "zip, stored": zipped("", zipfile.ZIP_STORED),
    "zip with a top folder": zipped("my photos/inner", zipfile.ZIP_DEFLATED),
    "tar": tarred("set.tar", "w"),
    "tar with a top folder": tarred("set.tar", "w", "top"),
    "tar.gz": tarred("set.tar.gz", "w:gz"),
    "tar.xz": tarred("set.txz", "w:xz"),
    "tar.bz2": tarred("set.tar.bz2", "w:bz2"),
    "shards with .cls": shards("cls"),
    "shards with .json": shards("json"),
    "shards with .txt": shards("txt"),
    "table": table,
    "table in a zip": table_in_zip,
    "parquet": parquet,
}


@pytest.mark.parametrize("parted", [False, True])
@pytest.mark.parametrize("making", MAKINGS)
def test_the_same_images_are_the_same_data_set(photos: Path, tmp_path: Path, making: str, parted: bool) -> None:
    given = files(photos, parted=parted)
    (tmp_path / "plain").mkdir()
    expected = read_source(folder(tmp_path / "plain", given))
    data = read_source(MAKINGS[making](tmp_path, given))
    assert data.classes == expected.classes
    assert rows(data) == rows(expected)
    assert {part for _, _, part in rows(data)} == ({"train", "test"} if parted else {""})
    assert (data.labels.dtype, data.split.dtype) == (expected.labels.dtype, expected.split.dtype)


# --- any tree of names ------------------------------------------------------------------------------------------------

PARTS = st.sampled_from(["cat", "Cat", "dog", "train", "test", "val", "sub", ".hidden", "x.jpg", "class 10", "class 9"])
LEAVES = st.sampled_from(["1.jpg", "2.PNG", "notes.txt", "Thumbs.db", "3.heic", "labels.txt", "é.jpg"])
PATHS = st.lists(st.tuples(st.lists(PARTS, max_size=3), LEAVES), min_size=1, max_size=12)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(PATHS)
def test_an_archive_is_read_as_the_folder_that_it_was_made_from(paths: list[tuple[list[str], str]]) -> None:
    """Labels, parts, names and all that is left out: the folder's walk and the archive's tree agree."""
    names = sorted({"/".join([*folders, leaf]) for folders, leaf in paths})
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "set"
        root.mkdir()
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(name.encode())
        with zipfile.ZipFile(Path(place) / "set.zip", "w") as packed:
            for name in names:
                packed.write(root / name, name)
        with tarfile.open(Path(place) / "set.tar", "w") as packed:
            packed.add(root, arcname=".")
        try:
            expected = read_folder(root)
        except DataError:
            return
        for archive in ("set.zip", "set.tar"):
            data = read_source(Path(place) / archive)
            assert (data.classes, data.names(), data.ignored) == (expected.classes, expected.names(), expected.ignored)
            assert data.labels.tolist() == expected.labels.tolist()
            assert data.split.tolist() == expected.split.tolist()
            assert [data.read(row) for row in range(len(data))] == [name.encode() for name in data.names()]
