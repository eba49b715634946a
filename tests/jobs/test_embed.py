"""Features for use elsewhere: the file holds what the network says, and replaces nothing of the user's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from graft import cli
from graft.data import dataset as table
from graft.errors import OutputError
from graft.jobs import embed as job
from graft.networks.network import Features, load_backbone


def graft(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


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


def test_the_features_are_what_the_network_says_of_each_picture(photos: Path) -> None:
    found = job.embed(photos)
    backbone = load_backbone()
    network = Features(backbone.module, backbone.preprocess, ())
    for row in (0, 17, 35):
        pixels = table.pixels((photos / found.names[row]).read_bytes(), backbone.preprocess.enough)
        with torch.inference_mode():
            want = network(backbone.preprocess.prepare(pixels)[None]).numpy()[0]
        assert found.features[row] == pytest.approx(want, abs=1e-4)


def test_the_second_time_everything_comes_from_the_cache(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    first = job.embed(photos)
    monkeypatch.setattr("graft.networks.engine.compile", lambda *_: pytest.fail("computed again"))
    again = job.embed(photos, all_layers=True)
    assert (first.computed, again.computed) == (36, 0)
    assert np.array_equal(again.features[:, -1280:], first.features)
    assert again.features.shape[1] > 1280
    assert again.names == first.names


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
    job.check(path, force=True)
    with pytest.raises(OutputError, match="is there already"):
        job.check(path, force=False)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job.np, "savez", full)
    with pytest.raises(OutputError, match="cannot be written: No space left"):
        job.write(found, path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["f.npz"]
