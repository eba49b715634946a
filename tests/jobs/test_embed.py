"""Features for use elsewhere: the file holds what the network says, and replaces nothing of the user's."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from graft.backbones.backbone import load_backbone
from graft.cli import app
from graft.data import dataset as table
from graft.errors import OutputError
from graft.jobs import embed as job
from graft.jobs import predict as parquet_module
from graft.torch.network import FeaturesModule
from graft.torch.restore import backbone_to_module


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def test_the_file_holds_features_labels_names_and_classes(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "p")
    (tmp_path / "p" / "disc" / "bad.jpg").write_bytes(b"")
    done = graft("embed", tmp_path / "p", "-o", tmp_path / "f.npz", "-q")
    assert done.exit_code == 0
    assert "36 x 1,280 features" in done.stdout
    assert "disc/bad.jpg: empty file" in done.stdout
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        assert sorted(file) == ["classes", "features", "labels", "names"]
        assert file["features"].shape == (36, 1280)
        assert file["features"].dtype == np.float32
        assert file["classes"].tolist() == ["disc", "frame", "stripes"]
        assert file["classes"][file["labels"]].tolist() == [name.partition("/")[0] for name in file["names"]]
        assert sorted(file["names"]) == sorted(path.relative_to(photos).as_posix() for path in photos.glob("*/*"))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_features_are_what_the_network_says_of_each_image(photos: Path) -> None:
    found = job.embed(photos)
    backbone = backbone_to_module(load_backbone())
    network = FeaturesModule(backbone.module, backbone.preprocess, ())
    for row in (0, 17, 35):
        pixels = table.decode_pixels((photos / found.names[row]).read_bytes(), backbone.preprocess.decode_size)
        with torch.inference_mode():
            want = network(torch.from_numpy(backbone.preprocess.prepare(pixels)[None])).numpy()[0]
        assert found.features[row] == pytest.approx(want, abs=1e-4)


@pytest.mark.slow
def test_the_second_time_everything_comes_from_the_cache(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    first = job.embed(photos)
    monkeypatch.setattr("graft.backbones.features.Features.compile_features", lambda *_: pytest.fail("computed again"))
    again = job.embed(photos, all_layers=True)
    assert (first.computed, again.computed) == (36, 0)
    assert np.array_equal(again.features[:, -1280:], first.features)
    assert again.features.shape[1] > 1280
    assert again.names == first.names


@pytest.mark.fault(35)
def test_a_place_where_it_may_not_write_is_told_before_any_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "embed", lambda *_, **__: pytest.fail("work was done first"))
    (tmp_path / "photo.jpg").write_text("mine")
    for place, force, message in (
        ("no/where.npz", [], "There is no folder"),
        ("photo.jpg", [], "is there already"),
        ("photo.jpg", ["--force"], "not even --force"),
        (".", ["--force"], "is a folder"),
    ):
        done = graft("embed", photos, "-o", tmp_path / place, *force)
        assert done.exit_code == 6
        assert message in done.stderr
    assert (tmp_path / "photo.jpg").read_text() == "mine"


def test_a_file_of_features_is_replaced_with_force_and_kept_when_writing_fails(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = tmp_path / "f.npz", job.embed(photos)
    job.write(found, path)
    before = path.read_bytes()
    job.check_embed(path, force=True)
    with pytest.raises(OutputError, match="is there already"):
        job.check_embed(path, force=False)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job.np, "savez", full)
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        job.write(found, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["f.npz"]


# --- Parquet ----------------------------------------------------------------------------------------------------------


def test_a_parquet_table_holds_the_same_as_the_arrays(photos: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    done = graft("embed", photos, "-o", tmp_path / "f.parquet", "-q")
    assert done.exit_code == 0, done.output
    found, expected = parquet.read_table(tmp_path / "f.parquet"), job.embed(photos)
    assert found.schema.names == ["name", "digest", "label", "features"]
    assert found["name"].to_pylist() == expected.names
    assert found["label"].to_pylist() == [expected.classes[label] for label in expected.labels]
    assert np.array_equal(np.array(found["features"].to_pylist(), np.float32), expected.features)
    digests = [table.compute_digest((photos / name).read_bytes()).hex() for name in expected.names]
    assert found["digest"].to_pylist() == digests
    assert graft("embed", photos, "-o", tmp_path / "f.parquet", "-q").exit_code == 6
    assert graft("embed", photos, "-o", tmp_path / "f.parquet", "-q", "--force").exit_code == 0
    parquet.write_table(found.select(["name"]), tmp_path / "mine.parquet")
    assert graft("embed", photos, "-o", tmp_path / "mine.parquet", "-q", "--force").exit_code == 6


@pytest.mark.parametrize("cells", [1, 3 * 4, 10**6])
def test_parquet_has_lists_of_several_labels_nulls_of_unknown_ones_and_any_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cells: int
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet_module, "MAX_CELLS", cells)
    features, digests = np.arange(28, dtype=np.float32).reshape(7, 4), np.zeros((7, 16), np.uint8)
    several = np.array([[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [1, 0], [1, 0]], np.uint8)
    one = np.array([0, 1, -1, 0, 0, 0, 0], np.int32)
    for labels, said in ((several, [["a"], ["a", "b"], []]), (one, ["a", "b", None])):
        made = job.FeatureTable(features, list("1234567"), labels, ("a", "b"), {}, 0, digests, list("1234567"))
        job.write(made, tmp_path / "f.parquet")
        found = parquet.read_table(tmp_path / "f.parquet")
        assert found["label"].to_pylist()[:3] == said
        assert np.array_equal(np.array(found["features"].to_pylist(), np.float32), features)


def test_parquet_without_its_package_is_told_before_any_work(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setattr(job, "embed", lambda *_, **__: pytest.fail("work was done first"))
    done = graft("embed", photos, "-o", tmp_path / "f.parquet")
    assert done.exit_code == 2
    assert done.stderr == "graft: Parquet needs the package pyarrow: pip install 'graft-vision[parquet]'\n"
