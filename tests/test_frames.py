"""Results as tables of pandas: their rows, and what is said where pandas is not installed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graft
from graft.data.dataset import TEST, TRAIN, Dataset, from_paths
from graft.errors import UsageError
from graft.metrics.evaluation import evaluate_multiclass, evaluate_multilabel

pytest.importorskip("pandas")


def test_a_data_set_lists_file_label_and_split_and_is_read_again(photos: Path) -> None:
    data = graft.read_source(photos)
    frame = data.to_dataframe()
    assert list(frame.columns) == ["file", "label"]
    assert frame.file[0] == str(photos / data.name(0))
    assert frame.label.value_counts().to_dict() == {"disc": 12, "frame": 12, "stripes": 12}
    again = graft.read_source(frame)
    assert again.classes == data.classes
    assert again.labels.tolist() == data.labels.tolist()


def test_a_split_that_is_decided_is_a_column_and_an_unknown_label_is_none() -> None:
    images = from_paths(["a.jpg", "b.jpg"]).images
    data = Dataset(images, np.array([1, -1], np.int32), ("cat", "dog"), np.array([TRAIN, TEST], np.int8))
    assert data.to_dataframe().to_dict("list") == {
        "file": ["a.jpg", "b.jpg"],
        "label": ["dog", None],
        "split": ["train", "test"],
    }


def test_several_labels_are_lists() -> None:
    images = from_paths(["a.jpg", "b.jpg"]).images
    data = Dataset(images, np.array([[1, 1], [0, 0]], np.uint8), ("sky", "sea"), np.zeros(2, np.int8))
    assert data.to_dataframe().label.tolist() == [["sky", "sea"], []]


def test_an_evaluation_has_a_row_for_each_class() -> None:
    found = evaluate_multiclass(np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 1, 1]), ("cat", "dog"))
    frame = found.to_dataframe().set_index("name")
    assert frame.loc["dog", ["precision", "recall", "count"]].tolist() == [1.0, 0.5, 2]
    assert frame.loc["cat", "precision"] == 0.5
    labels = np.array([[1, 0], [0, 1]])
    frame = evaluate_multilabel(np.where(labels, 0.9, 0.2), labels, ("sky", "sea")).to_dataframe()
    assert frame[["name", "f1", "threshold"]].to_numpy().tolist() == [["sky", 1.0, 0.5], ["sea", 1.0, 0.5]]


def test_a_check_has_a_row_for_each_image_of_a_finding(photos: Path, tmp_path: Path) -> None:
    for name in ("disc", "frame"):
        (tmp_path / name).mkdir()
        for path in sorted((photos / name).iterdir())[:3]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    (tmp_path / "disc/bad.png").write_bytes(b"")
    (tmp_path / "frame/copy.png").write_bytes((photos / "disc/00.png").read_bytes())
    found = graft.check(tmp_path, quick=True)
    frame = found.to_dataframe()
    conflict = frame[frame.finding == "conflict"]
    assert sorted(conflict.file) == [str(tmp_path / "disc/00.png"), str(tmp_path / "frame/copy.png")]
    assert set(conflict.case) == {0}
    assert set(conflict.severity) == {"error"}
    assert frame[frame.finding == "unreadable"][["file", "detail"]].to_numpy().tolist() == [
        [str(tmp_path / "disc/bad.png"), "empty file"]
    ]
    few = frame[frame.finding == "few images"]
    assert few.file.isna().all()
    assert few.detail.tolist() == [each.says for each in found.findings if each.kind == "few images"]
    assert len(frame) == sum(max(1, each.cases.size) for each in found.findings)


def test_features_have_a_column_each(photos: Path) -> None:
    table = graft.embed(photos)
    frame = table.to_dataframe()
    assert list(frame.columns[:3]) == ["file", "label", "feature_0"]
    assert len(frame.columns) == 2 + table.features.shape[1]
    assert np.array_equal(frame.iloc[:, 2:].to_numpy(), table.features)
    assert frame.label[0] == "disc"


def test_without_pandas_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    made: list[Any] = [
        from_paths(["a.jpg"]),
        evaluate_multiclass(np.array([[0.9, 0.1]]), np.array([0]), ("cat", "dog")),
    ]
    for each in made:
        with pytest.raises(UsageError) as caught:
            each.to_dataframe()
        assert str(caught.value) == (
            f"{type(each).__name__}.to_dataframe needs pandas, which is not installed: "
            "pip install 'graft-vision[pandas]'."
        )


def test_images_of_one_group_stay_together_when_the_table_is_read_again(photos: Path) -> None:
    frame = graft.read_source(photos).to_dataframe()
    frame["patient"] = [f"p{row // 5}" if row < 30 else None for row in range(len(frame))]
    data = graft.read_source(frame)
    again = graft.read_source(data.to_dataframe())
    assert data.groups is not None
    assert again.groups is not None
    assert len(set(data.groups[:30].tolist())) == 6
    assert again.groups.tolist() == data.groups.tolist()


def test_tables_of_one_source_have_the_same_files(photos: Path) -> None:
    files = set(graft.read_source(photos).to_dataframe().file)
    assert set(graft.embed(photos, offline=True).to_dataframe().file) == files
    found = graft.check(photos, quick=True).to_dataframe()
    assert set(found.file.dropna()) <= files
