"""Whatever the images lie in, the classifier is the same."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import graft
from graft.cli.app import app
from graft.errors import UsageError

STRATEGY = "probe:head=ridge,layers=last"


def fitted(source: object, **more: object) -> graft.Classifier:
    return graft.fit(source, strategy=STRATEGY, offline=True, **more)  # pyright: ignore[reportArgumentType]


def shard(path: Path, photos: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for image in sorted(photos.rglob("*.*g")):
            label, key = image.parent.name, f"{image.parent.name}-{image.stem}"
            for name, raw in ((f"{key}{image.suffix}", image.read_bytes()), (f"{key}.cls", label.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
    return path


@pytest.fixture(scope="module")
def expected(photos: Path) -> graft.Classifier:
    return fitted(photos)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "shard", "images"])
def test_the_same_images_give_the_same_classifier(
    photos: Path, tmp_path: Path, expected: graft.Classifier, kind: str
) -> None:
    if kind == "zip":
        source = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    elif kind == "shard":
        source = shard(tmp_path / "photos.tar", photos)
    else:
        paths = sorted(photos.rglob("*.*g"))
        source = (paths, [path.parent.name for path in paths])
    found = fitted(source)
    assert found.classes == expected.classes
    assert found.card.metrics == expected.card.metrics
    assert found.card.data["fingerprint"] == expected.card.data["fingerprint"]
    for name, tensor in expected.network.head.tensors.items():
        np.testing.assert_array_equal(found.network.head.tensors[name], tensor)
    assert found.evaluate(source).as_dict() == expected.evaluate(photos).as_dict()


@pytest.mark.slow
def test_the_summary_says_what_was_guessed_what_is_missing_and_what_looks_alike(photos: Path, tmp_path: Path) -> None:
    lines = ["path,species,patient"]
    for at, path in enumerate(sorted(photos.rglob("*.*g"))):
        label = "Disc" if at == 0 else path.parent.name
        lines.append(f"{path},{label},{path.parent.name}-{at % 4}")
    (tmp_path / "list.csv").write_text("\n".join([*lines, "gone/9.jpg,disc,"]))
    arguments = ["fit", str(tmp_path / "list.csv"), "-s", STRATEGY, "--offline", "-q", "--columns", "label=species"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert "  columns      file=path,label=species,group=patient (guessed: file, group)\n" in done.output
    assert "  careful      'Disc' (1 image) and 'disc' (12): the same class?\n" in done.output
    assert "  left out     1 images that cannot be used:\n" in done.output
    assert "gone/9.jpg: cannot be read: No such file or directory\n" in done.output
    report = json.loads((tmp_path / "model/report.json").read_text())
    assert list(report["data"]["faults"]) == ["gone/9.jpg"]
    done = CliRunner().invoke(app, [*arguments, "--strict", "-o", str(tmp_path / "other")])
    assert done.exit_code == 3
    assert "1 of 37 files that" in done.output
    assert not (tmp_path / "other").exists()
    judged = ["evaluate", str(tmp_path / "model"), str(tmp_path / "list.csv"), "--columns", "label=species"]
    done = CliRunner().invoke(app, judged)
    assert done.exit_code == 0, done.output


def test_class_folders_that_look_alike_are_pointed_out(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "set")
    (tmp_path / "set/Disc").mkdir()
    for number in (0, 2):
        (tmp_path / f"set/disc/{number:02d}.png").rename(tmp_path / f"set/Disc/{number:02d}.png")
    report = fitted(tmp_path / "set").report
    assert report["data"]["alike_names"] == ("'Disc' (2 images) and 'disc' (10): the same class?",)
    assert set(report["classes"]) == {"Disc", "disc", "frame", "stripes"}


def test_an_archive_has_no_next_image_to_predict(photos: Path, tmp_path: Path) -> None:
    path = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    done = CliRunner().invoke(app, ["fit", path, "-s", STRATEGY, "--offline", "-q", "-o", str(tmp_path / "model")])
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"Next:  graft export {tmp_path / 'model'} -o model.onnx\n")
    assert {each.name for each in tmp_path.iterdir()} == {"photos.zip", "model"}


def test_what_is_no_source_is_an_error_before_any_work() -> None:
    with pytest.raises(UsageError, match="A NoneType is no source of images"):
        fitted(None)
