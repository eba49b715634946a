"""Published data sets through the whole job: what is read is trained on, scored, and scored again from disk."""

from __future__ import annotations

from pathlib import Path

import formats
import pytest
from typer.testing import CliRunner, Result

from graft.cli import app
from graft.data.dataset import TRAIN, VALID, from_arrays
from graft.data.readers.source import read_source
from graft.errors import UsageError
from graft.jobs.embed import embed
from graft.jobs.evaluate import evaluate
from graft.jobs.fit import fit

QUICK = "probe:head=ridge,layers=last"


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.mark.slow
def test_boxes_of_voc_are_trained_on_and_scored(photos: Path, tmp_path: Path) -> None:
    voc, model = formats.voc(tmp_path / "VOC2012", photos), tmp_path / "model"
    done = graft("fit", tmp_path, "-o", model, "--boxes", "--strategy", QUICK, "--offline", "-q")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith(f"Next:  graft export {model} -o model.onnx\n")  # a box is no file
    objects = read_source(voc, boxes=True)
    classifier = fit(voc, strategy=QUICK, boxes=True)
    assert classifier.classes == ("disc", "frame", "stripes")
    data = classifier.report["data"]
    assert (data["train"], data["test"], data["faults"]) == (15, 5, {})
    assert evaluate(model, voc, boxes=True).count == len(objects) == 20
    held_out = evaluate(model, objects.take(objects.part(VALID))).as_dict()
    assert held_out["accuracy"] == classifier.report["evaluation"]["accuracy"]
    assert evaluate(model, objects.take(objects.part(TRAIN))).as_dict()["accuracy"] == 1  # it learnt what it was shown
    assert embed(voc, boxes=True).names == objects.names()
    assert graft("evaluate", model, voc, "--boxes", "-q").exit_code == 0


def test_a_box_outside_its_image_is_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    voc = formats.voc(tmp_path / "VOC2012", photos)
    path = voc / "Annotations/2008_000001.xml"
    path.write_text(formats.annotation("2008_000001.jpg", (9, 9), [("frame", (5000, 5000, 5010, 5010))]))
    report = fit(voc, strategy=QUICK, boxes=True).report
    assert report["data"]["faults"] == {
        "JPEGImages/2008_000001.jpg [5000,5000,5010,5010]": "box outside the image",
    }


@pytest.mark.slow
def test_whole_images_of_coco_have_several_labels(photos: Path, tmp_path: Path) -> None:
    classifier = fit(formats.coco(tmp_path / "coco", photos), tmp_path / "model", strategy=QUICK)
    assert (classifier.card.task, classifier.classes) == ("multilabel", ("disc", "frame", "stripes"))
    assert classifier.report["data"]["test"] == 3
    assert evaluate(tmp_path / "model", tmp_path / "coco").as_dict()["count"] == 12


@pytest.mark.slow
def test_an_archive_of_cifar_is_trained_on_and_scored(photos: Path, tmp_path: Path) -> None:
    folder = formats.cifar10(tmp_path / "cifar-10-batches-py", photos)
    path = formats.archive(folder, tmp_path / "cifar-10-python.tar.gz")
    done = graft("fit", path, "-o", tmp_path / "model", "--strategy", QUICK, "--offline", "-q")
    assert done.exit_code == 0, done.output
    classifier = fit(path, strategy=QUICK)
    assert classifier.classes == tuple(formats.NAMES)
    data = classifier.report["data"]
    assert (data["train"], data["test"], data["root"]) == (30, 6, "cifar-10-python.tar.gz")
    images, labels = formats.squares(photos, 32)
    same = evaluate(tmp_path / "model", from_arrays(list(images[30:]), labels[30:], classifier.classes))
    assert same.as_dict() == evaluate(tmp_path / "model", path).as_dict()
    assert same.as_dict()["accuracy"] == classifier.report["evaluation"]["accuracy"] > 1 / 3


def test_boxes_are_for_what_marks_them(photos: Path, tmp_path: Path) -> None:
    for source in (photos, read_source(photos)):
        with pytest.raises(UsageError, match=r"marks no boxes; only Pascal VOC and COCO do\. Leave --boxes"):
            fit(source, boxes=True)
