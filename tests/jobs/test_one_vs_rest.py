"""A classifier of one class against the rest, from two folders to its update."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import graft
from graft.cli.app import app
from graft.data.dataset import TEST, TRAIN

STRATEGY = "probe:head=ridge,layers=last"


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one") / "model"
    done = run("fit", photos / "disc", "--against", photos, "-o", folder, "-s", STRATEGY, "--offline", "-q")
    assert done.exit_code == 0, done.output
    example = next(line for line in done.output.splitlines() if line.startswith("Next:")).split()[-1]
    assert Path(example).is_file(), "the command to try names an image that is there"
    return folder


def test_it_is_the_classifier_of_the_same_images_in_two_class_folders(
    photos: Path, model: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos / "disc", tmp_path / "set/disc")
    (tmp_path / "set/not disc").mkdir()
    for path in (*(photos / "frame").iterdir(), *(photos / "stripes").iterdir()):
        shutil.copy(path, tmp_path / f"set/not disc/{path.parent.name}-{path.name}")
    expected, found = graft.fit(tmp_path / "set", strategy=STRATEGY, offline=True), graft.load(model)
    assert found.classes == expected.classes == ("disc", "not disc")
    assert found.card.data["fingerprint"] == expected.card.data["fingerprint"]
    assert found.card.metrics == expected.card.metrics | {"interval": list(expected.card.metrics["interval"])}
    for name, tensor in expected.network.head.tensors.items():
        np.testing.assert_array_equal(found.network.head.tensors[name], tensor)


@pytest.mark.slow
def test_it_is_evaluated_with_folders_of_any_name(photos: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "disc", tmp_path / "new")
    shutil.copytree(photos / "frame", tmp_path / "set/not disc")
    shutil.copytree(photos / "disc", tmp_path / "set/disc")
    one = graft.evaluate(model, tmp_path / "new", against=photos / "frame").as_dict()
    assert [(each["name"], each["count"]) for each in one["classes"]] == [("disc", 12), ("not disc", 12)]
    assert one == graft.evaluate(model, tmp_path / "set").as_dict()
    done = run("evaluate", model, tmp_path / "new", "--against", photos / "frame", "-q")
    assert done.exit_code == 0, done.output
    assert "right on 24 images" in done.output


def test_it_learns_more_of_the_rest_from_a_folder_of_that_name(photos: Path, tmp_path: Path) -> None:
    before = graft.fit(photos / "disc", against=photos / "frame", strategy=STRATEGY, offline=True)
    shutil.copytree(photos / "stripes", tmp_path / "not disc")
    after = graft.update(before, add=tmp_path / "not disc", allow_worse=True)
    whole = graft.fit(photos / "disc", against=photos, strategy=STRATEGY, offline=True)
    assert after.classes == whole.classes
    assert after.report["update"]["added"].keys() == {"not disc"}
    assert after.card.data["fingerprint"] == whole.card.data["fingerprint"]


def test_the_same_image_on_both_sides_is_a_conflict(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "frame", tmp_path / "others")
    shutil.copy(photos / "disc/00.png", tmp_path / "others/same.png")
    found = graft.fit(photos / "disc", against=tmp_path / "others", strategy=STRATEGY, offline=True)
    (conflict,) = found.report["data"]["conflicts"]
    assert "disc/00.png (disc)" in conflict
    assert "others/same.png (not disc)" in conflict
    assert conflict.endswith("are the same image")


def test_a_check_of_it_writes_a_list_that_makes_the_same_data_set(photos: Path, tmp_path: Path) -> None:
    done = run("check", photos / "disc", "--against", photos, "--quick", "--fix", tmp_path / "clean.csv", "-q")
    assert done.exit_code == 0, done.output
    assert "36 images of 2 classes" in done.output
    with (tmp_path / "clean.csv").open() as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert (labels.count("disc"), labels.count("not disc")) == (12, 24)
    again = graft.read_source(tmp_path / "clean.csv")
    assert again.read(0) == graft.read_source(photos / "disc", against=photos).read(0)


def test_near_duplicates_of_both_sides_stay_together(photos: Path, tmp_path: Path) -> None:
    """The copy of an image is in the part of the image, whatever its label."""
    shutil.copytree(photos / "frame", tmp_path / "others")
    for path in (photos / "disc").iterdir():
        shutil.copy(path, tmp_path / f"others/disc-{path.name}")
    found = graft.fit(photos / "disc", against=tmp_path / "others", strategy=STRATEGY, offline=True)
    held = found.memory and found.memory.images
    assert held
    parts: dict[str, list[int]] = {}
    for name, part in zip(held.names, held.parts.tolist(), strict=True):
        parts.setdefault(Path(name).name.removeprefix("disc-") if "disc" in name else name, []).append(part)
    copied = {name: own for name, own in parts.items() if len(own) == 2}
    assert len(copied) == 12
    assert all(one == two for one, two in copied.values())
    assert {TRAIN, TEST} == {own[0] for own in copied.values()}
