"""Parquet: images inside, as Hugging Face stores them, or beside."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graft.data.dataset import TEST, TRAIN, UNGROUPED
from graft.data.readers.source import read_source
from graft.data.readers.tables import CACHED_GROUPS, read_parquet
from graft.errors import DataError, UsageError

arrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

BYTES = [b"A", b"B", b"C"]


def write(path: Path, columns: dict[str, Any], *, features: dict[str, Any] | None = None, group: int = 2) -> Path:
    table = arrow.table(columns)
    if features:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path, row_group_size=group)
    return path


def stored() -> list[dict[str, Any]]:
    return [{"bytes": each, "path": f"{at}.jpg"} for at, each in enumerate(BYTES)]


@pytest.mark.parametrize("images", [BYTES, stored()])
def test_bytes_in_a_column(tmp_path: Path, images: list[Any]) -> None:
    columns = {
        "image": images,
        "label": ["cat", "dog", "cat"],
        "patient": ["p2", None, "p1"],
        "split": ["train", "test", ""],
    }
    data = read_parquet(write(tmp_path / "a.parquet", columns))
    assert [data.read(row) for row in range(3)] == BYTES
    assert (data.classes, data.labels.tolist(), data.split.tolist()) == (("cat", "dog"), [0, 1, 0], [TRAIN, TEST, 0])
    assert data.groups is not None
    assert data.groups.tolist() == [0, UNGROUPED, 1]
    named = data.take(np.array([2, 0]))
    assert [named.read(0), named.read(1)] == [b"C", b"A"]
    assert named.names() == (["2.jpg", "0.jpg"] if isinstance(images[0], dict) else ["row 2", "row 0"])
    assert data.columns == "file=image,label=label,split=split,group=patient (guessed: file, label, split, group)"


def test_paths_in_a_column(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode())
    data = read_parquet(
        write(tmp_path / "a.parquet", {"path": ["a.jpg", "b.jpg", "c.jpg"], "n": [10, 9, 10]}), columns="label=n"
    )
    assert (data.names(), data.classes, data.read(1)) == (["a.jpg", "b.jpg", "c.jpg"], ("9", "10"), b"b")
    columns = {"image": [{"bytes": None, "path": f"{name}.jpg"} for name in "abx"], "label": ["u", "v", "u"]}
    data = read_parquet(write(tmp_path / "b.parquet", columns))
    assert [data.read(0), data.read(1)] == [b"a", b"b"]
    with pytest.raises(FileNotFoundError):
        data.read(2)


def test_numbers_of_hugging_face_get_their_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["tench, Tinca tinca", "a|b", "unused"], "_type": "ClassLabel"}}
    path = write(tmp_path / "a.parquet", {"img": stored(), "label": [1, 0, 1]}, features=features)
    data = read_parquet(path)
    assert (data.classes, data.labels.tolist()) == (("a|b", "tench, Tinca tinca"), [0, 1, 0])


def test_several_labels_are_a_list_or_joined(tmp_path: Path) -> None:
    for name, labels in {"a": [["x", "y|z"], [], ["x"]], "b": ["x|y, z", "", "x"]}.items():
        data = read_parquet(write(tmp_path / f"{name}.parquet", {"image": BYTES, "labels": labels}))
        assert data.task == "multilabel"
        assert data.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert data.classes == ("x", "y, z")


def test_threads_in_any_order_read_the_same(tmp_path: Path) -> None:
    many = [bytes([at]) * 100 for at in range(60)]
    data = read_parquet(write(tmp_path / "a.parquet", {"image": many, "label": ["x", "y"] * 30}, group=3))
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 4)).tolist()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(data.read, order)) == [many[at] for at in order]
    assert len(data.images.cache) == CACHED_GROUPS  # type: ignore[attr-defined]


def test_what_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            read_parquet(path)
        return str(caught.value)

    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    assert "a.parquet is damaged or no Parquet file" in complaint(tmp_path / "a.parquet")
    assert "b.parquet cannot be read: " in complaint(tmp_path / "b.parquet")
    assert "lists no images" in complaint(
        write(tmp_path / "c.parquet", {"image": arrow.array([], "binary"), "label": []})
    )
    assert "Its columns are 'image', 'kind'" in complaint(
        write(tmp_path / "d.parquet", {"image": BYTES, "kind": list("xyx")})
    )
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'graft-vision\[parquet\]'"):
        read_parquet(tmp_path / "d.parquet")


def test_bytes_of_every_arrow_type_are_images_or_labels(tmp_path: Path) -> None:
    labels = ["cat", None, "dog"]
    for kind in (arrow.binary(), arrow.large_binary(), arrow.binary_view()):
        coded = arrow.array([label and label.encode() for label in labels], kind)
        columns = {"image": arrow.array(BYTES, kind), "label": coded}
        parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
        data = read_source(tmp_path / "a.parquet")
        assert (data.classes, data.ignored) == (("cat", "dog"), {"images without a label": 1})
        assert data.read(0) == b"A"


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [arrow.array(["a.jpg", "b.jpg"]), arrow.array(["x", "y"]), arrow.array(["x", "y"])]
    table = arrow.Table.from_arrays(columns, names=["file", "label", "label"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"has two columns 'label'\. Rename or drop one of them"):
        read_source(tmp_path / "a.parquet")
