"""A classifier with other classes: the same as a fit from scratch, without the old photos, and never silently worse."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from graft.cli import app
from graft.data.dataset import TEST, TRAIN
from graft.data.images import CachedImages
from graft.data.readers.folder import read_folder
from graft.errors import DataError, GraftError, ModelError, OutputError, UpdateError, UsageError
from graft.jobs.fit import fit
from graft.jobs.update import sources
from graft.jobs.update.changes import remap_predictions
from graft.jobs.update.update import update
from graft.model import storage
from graft.model.classifier import Classifier, load
from graft.model.memory import EvaluationRecord, ImageRecords, Memory, build_record

QUICK = "probe:head=ridge,layers=last"


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def parted(photos: Path, folder: Path, classes: tuple[str, ...]) -> Path:
    """Nine images of each class in `train`, three in `test`."""
    for name in classes:
        for place, image in enumerate(sorted((photos / name).iterdir())):
            target = folder / ("train" if place < 9 else "test") / name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
    return folder


@pytest.fixture(scope="module")
def saved(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of two classes whose photos are gone."""
    root = tmp_path_factory.mktemp("update")
    parted(photos, root / "photos", ("disc", "frame"))
    fit(root / "photos", root / "model", strategy=QUICK, report=False)
    shutil.rmtree(root / "photos")
    return root / "model"


@pytest.fixture(scope="module")
def three(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of all three classes, split by content."""
    folder = tmp_path_factory.mktemp("three") / "model"
    fit(photos, folder, strategy=QUICK, report=False)
    return folder


def logits(classifier: Classifier, photos: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    found = classifier.run_forward(read_folder(photos)).logits
    order = np.argsort(classifier.classes)
    return found[:, order], tuple(sorted(classifier.classes))


def memory_of(classifier: Classifier) -> Memory:
    assert classifier.memory
    return classifier.memory


def held(classifier: Classifier) -> ImageRecords:
    found = memory_of(classifier).images
    assert found
    return found


def exam_of(classifier: Classifier) -> EvaluationRecord:
    found = memory_of(classifier).tested
    assert found
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "head", ["ridge", *(pytest.param(head, marks=pytest.mark.slow) for head in ("lda", "ncm", "knn"))]
)
def test_an_added_class_is_what_a_fit_from_scratch_makes_of_it(head: str, photos: Path, tmp_path: Path) -> None:
    strategy = f"probe:head={head},layers=last"
    fit(parted(photos, tmp_path / "two", ("disc", "stripes")), tmp_path / "old", strategy=strategy, report=False)
    shutil.rmtree(tmp_path / "two")
    new = update(tmp_path / "old", add=parted(photos, tmp_path / "new", ("frame",)), allow_worse=True)
    scratch = fit(parted(photos, tmp_path / "all", ("disc", "frame", "stripes")), strategy=strategy)
    one, names = logits(new, photos)
    two, same = logits(scratch, photos)
    assert names == same
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-6 * max(1, np.abs(two).max()))
    assert new.report["data"]["fingerprint"] == scratch.report["data"]["fingerprint"]
    assert new.card.temperature == pytest.approx(scratch.card.temperature, rel=1e-5)
    assert (exam_of(new).digests == exam_of(scratch).digests).all()
    assert new.report["update"]["added"] == {"frame": {"train": 9, "test": 3}}


@pytest.mark.slow
def test_what_was_split_by_content_grows_into_the_split_of_the_whole(photos: Path, tmp_path: Path) -> None:
    for name in ("disc", "stripes"):
        shutil.copytree(photos / name, tmp_path / "two" / name)
    old = fit(tmp_path / "two", strategy=QUICK)
    new, scratch = update(old, add=photos / "frame", allow_worse=True), fit(photos, strategy=QUICK)
    assert held(old).given is False
    for mine, theirs in zip(vars(held(new)).values(), vars(held(scratch)).values(), strict=True):
        if isinstance(mine, np.ndarray) and mine.dtype != np.int32:  # labels count in another order
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_allclose(logits(new, photos)[0], logits(scratch, photos)[0], rtol=0, atol=1e-6)


def test_a_rename_changes_no_number(saved: Path, tmp_path: Path) -> None:
    done = graft("update", saved, "-o", tmp_path / "m", "--rename", "disc=a=b", "--rename", "frame=disc")
    assert done.exit_code == 0, done.output
    for name in ("model.safetensors", "memory.safetensors"):
        one, two = load_file(saved / name), load_file(tmp_path / "m" / name)
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one)
    old, new = load(saved), load(tmp_path / "m")
    assert new.classes == ("a=b", "disc")
    assert new.card == replace(old.card, classes=new.classes, weights=new.card.weights)
    scored = [[each[key] for key in ("recall", "precision", "count")] for each in new.report["evaluation"]["classes"]]
    assert scored == [
        [each[key] for key in ("recall", "precision", "count")] for each in old.report["evaluation"]["classes"]
    ]
    assert [each["name"] for each in new.report["evaluation"]["classes"]] == ["a=b", "disc"]
    assert "a=b" in (tmp_path / "m/report.html").read_text(encoding="utf-8")


def test_a_merge_and_a_removal_are_a_fit_on_what_is_left(three: Path, photos: Path, tmp_path: Path) -> None:
    merged = update(three, merge={"round": ["disc", "frame"]})
    assert merged.classes == ("round", "stripes")
    old, new = held(load(three)), held(merged)
    assert (old.digests == new.digests).all()
    assert (np.array([0, 0, 1])[old.labels] == new.labels).all()
    gone = update(three, remove=["frame"], allow_worse=True)
    for name in ("disc", "stripes"):
        shutil.copytree(photos / name, tmp_path / "two" / name)
    assert gone.classes == ("disc", "stripes")
    assert gone.report["data"]["fingerprint"] == fit(tmp_path / "two", strategy=QUICK).report["data"]["fingerprint"]
    assert sorted(set(old.labels.tolist())) == [0, 1, 2]


def test_images_of_a_removed_class_may_come_back_under_another_name(three: Path, photos: Path) -> None:
    new = update(three, remove=["frame"], add=(sorted((photos / "frame").iterdir()), ["box"] * 12), allow_worse=True)
    assert new.classes == ("disc", "stripes", "box")
    assert sum(new.report["update"]["added"]["box"].values()) == 12


def test_corrections_find_images_by_content_and_by_name(three: Path, photos: Path, tmp_path: Path) -> None:
    first, second = sorted((photos / "disc").iterdir())[:2]
    shutil.copy(first, tmp_path / "other name.png")
    table = tmp_path / "labels.csv"
    rows = [["other name.png", "frame"], [f"elsewhere/disc/{second.name}", "frame"], ["x/frame/00.png", "frame"]]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label"], *rows])
    new, old = update(three, correct=table, allow_worse=True), load(three)
    assert new.report["update"]["corrected"] == 2
    changed = {
        name for name, one, two in zip(held(old).names, held(old).labels, held(new).labels, strict=True) if one != two
    }
    assert changed == {f"disc/{first.name}", f"disc/{second.name}"}
    table.write_text("file,label\nnowhere.jpg,frame\n")
    with pytest.raises(DataError, match=r"labels\.csv names 1 images that .* nowhere\.jpg"):
        update(three, correct=table)
    table.write_text("file,label\nx/disc/00.png,fraem\n")
    with pytest.raises(UsageError, match=r"no class 'fraem' to correct x/disc/00\.png to\. Did you mean 'frame'"):
        update(three, correct=table)


def test_more_images_of_an_old_class_and_one_that_is_broken(saved: Path, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more" / "disc"
    folder.mkdir(parents=True)
    for image in sorted((photos / "stripes").iterdir())[:4]:
        shutil.copy(image, folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    known = sorted((photos / "disc").iterdir())
    shutil.copy(known[0], folder / "trained.png")
    shutil.copy(known[-1], folder / "tested.jpg")
    new = update(saved, add=tmp_path / "more", allow_worse=True)
    assert new.classes == ("disc", "frame")
    assert sum(new.report["update"]["added"]["disc"].values()) == 4
    assert new.report["update"]["known_already"] == 2
    assert list(new.report["data"]["faults"]) == ["disc/broken.jpg"]
    old = load(saved)
    assert {each.tobytes() for each in exam_of(old).digests} <= {each.tobytes() for each in exam_of(new).digests}


def test_an_image_that_is_known_under_another_label_is_refused(saved: Path, photos: Path, tmp_path: Path) -> None:
    for place, part in ((0, "trained"), (-1, "tested")):
        folder = tmp_path / part
        folder.mkdir()
        shutil.copy(sorted((photos / "disc").iterdir())[place], folder / "x.png")
        with pytest.raises(DataError, match=rf"x\.png is added as '{part}', and the classifier was {part} on the same"):
            update(saved, add=folder)


def test_what_is_worse_is_not_written(three: Path, photos: Path, tmp_path: Path) -> None:
    """Corrections that call most of the frames discs: those that are left are not found any more."""
    old = load(three)
    rows = np.flatnonzero(np.array([name.startswith("frame/") for name in held(old).names]))
    train = [row for row in rows.tolist() if held(old).parts[row] == TRAIN]
    test = [row for row in range(len(held(old).names)) if held(old).parts[row] == TEST]
    lines = [f"{held(old).names[row]},disc" for row in train[1:]]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines]))
    found = update(three, correct=tmp_path / "labels.csv", allow_worse=True).report["update"]["effect"]
    assert found["whole"]["shared"] == len(test)
    frame = next(each for each in found["classes"] if each["name"] == "frame")
    assert frame["first"] < frame["second"]
    assert frame["lost"] > 0 == frame["gained"]


def test_the_gate_names_the_classes(monkeypatch: pytest.MonkeyPatch, three: Path, tmp_path: Path) -> None:
    """With the doubt at which something counts as worse raised to certainty, any loss is."""
    monkeypatch.setattr("graft.model.scoring.SIGNIFICANCE", 10.0)
    old = load(three)
    names, parts = held(old).names, held(old).parts
    lines = [f"{name},disc" for name, part in zip(names, parts, strict=True) if part == TRAIN and "frame/" in name]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *lines[1:]]))
    words = ("update", three, "-o", tmp_path / "m", "--correct", tmp_path / "labels.csv", "-q")
    done = graft(*words)
    assert done.exit_code == 9
    assert "Nothing was written" in done.output
    assert "frame 100.0% were found and" in done.output
    assert not (tmp_path / "m").exists()
    assert graft(*words, "--allow-worse").exit_code == 0
    assert (tmp_path / "m/report.html").is_file()


WRONG: dict[str, tuple[dict[str, Any], type[GraftError], str]] = {
    "nothing": ({}, UsageError, "Nothing to do"),
    "unknown": ({"rename": {"dics": "x"}}, UsageError, "no class 'dics' to rename. Did you mean 'disc'"),
    "taken": ({"rename": {"disc": "frame"}}, UsageError, r"two classes 'frame' .* --merge 'disc\+frame=frame'"),
    "blank": ({"rename": {"disc": " "}}, UsageError, "letters that can be printed"),
    "merge of one": ({"merge": {"x": ["disc"]}}, UsageError, "two classes or more"),
    "merge of unknown": ({"merge": {"x": ["disc", "fram"]}}, UsageError, "'fram' to merge. Did you mean 'frame'"),
    "merge into another": ({"merge": {"stripes": ["disc", "frame"]}}, UsageError, r"disc\+frame\+stripes=stripes"),
    "remove": ({"remove": ["cat"]}, UsageError, "no class 'cat' to remove. There are disc, frame, stripes"),
    "one left": ({"remove": ["disc", "frame"]}, DataError, "Fewer than two classes"),
    "empty": ({"add": "."}, DataError, "holds no images"),
    "missing": ({"add": "no such folder"}, DataError, "There is no folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_told(case: str, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options, error, says = WRONG[case]
    with pytest.raises(error, match=says):
        update(three, "m", **options)
    assert not (tmp_path / "m").exists()


def test_one_class_is_named_without_a_list(three: Path) -> None:
    assert update(three, remove="disc", allow_worse=True).classes == ("frame", "stripes")
    with pytest.raises(UsageError, match=r"two classes or more.* Got disc=x"):
        update(three, merge={"x": "disc"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rename", "disc=a", "--rename", "disc=b"], "--rename is given twice for 'disc'"),
        (["--merge", "disc+frame=a", "--merge", "a+stripes=a"], "--merge is given twice for 'a'"),
    ],
)
def test_nothing_that_was_asked_for_is_left_out_in_silence(words: list[str], says: str, three: Path) -> None:
    done = graft("update", three, *words)
    assert (done.exit_code, says in done.stderr) == (2, True)


def test_an_addition_of_which_nothing_can_be_used_is_told(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"Not one of the 1 images to add can be used: new/a\.jpg \(not an image\)"):
        update(saved, tmp_path / "m", add=tmp_path / "new", allow_worse=True)
    assert not (tmp_path / "m").exists()


def test_an_exported_file_is_told_from_a_classifier(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=r"a\.onnx is no saved classifier: it is a file\. Name the folder"):
        update(tmp_path / "a.onnx", rename={"disc": "x"})


def test_the_old_folder_is_replaced_only_with_force(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "m")
    with pytest.raises(OutputError, match="already holds a classifier"):
        update(tmp_path / "m", tmp_path / "m", rename={"disc": "x"})
    assert load(tmp_path / "m").classes == ("disc", "frame")
    update(tmp_path / "m", tmp_path / "m", rename={"disc": "x"}, force=True)
    assert load(tmp_path / "m").classes == ("x", "frame")


@pytest.mark.slow
def test_without_a_cache_the_photos_are_asked_for(
    saved: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cache = update(saved, add=photos / "stripes", allow_worse=True)
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"24 of the 24 images of before are not in the cache .* --photos"):
        update(saved, add=photos / "stripes")
    again = update(saved, add=photos / "stripes", photos=photos, allow_worse=True)
    np.testing.assert_allclose(logits(again, photos)[0], logits(with_cache, photos)[0], atol=1e-4)


def test_who_cannot_be_updated_is_told_to_train_again(saved: Path) -> None:
    old = load(saved)
    forgetful = replace(old, memory=Memory(memory_of(old).trained))
    with pytest.raises(UpdateError, match=r"earlier version .* --from model/"):
        update(forgetful, remove=["disc"])
    tuned = replace(old, card=replace(old.card, head=old.card.head | {"solver": "trained"}))
    with pytest.raises(UpdateError, match="Only --rename can be done"):
        update(tuned, remove=["disc"])
    assert update(tuned, rename={"disc": "x"}).classes == ("x", "frame")


def test_no_path_of_this_machine_is_in_the_model(photos: Path, tmp_path: Path) -> None:
    paths = sorted(photos.glob("*/*.*"))
    fit(([str(path) for path in paths], [path.parent.name for path in paths]), tmp_path / "m", strategy=QUICK)
    assert all(name.count("/") == 1 for name in held(load(tmp_path / "m")).names)


def test_several_labels_can_be_merged_removed_and_added_to(photos: Path, tmp_path: Path) -> None:
    files = [f"{path.parent.name}/{path.name}" for path in sorted(photos.glob("*/*.*"))]
    lines = [f"{name},{name.split('/')[0]}{'|dark' if at % 3 == 0 else ''}" for at, name in enumerate(files)]
    shutil.copytree(photos, tmp_path / "p")
    (tmp_path / "p/labels.csv").write_text("\n".join(["file,label", *lines]))
    old = fit(tmp_path / "p", strategy=QUICK)
    both = update(old, merge={"shape": ["disc", "frame"]}, allow_worse=True)
    assert sorted(both.classes) == ["dark", "shape", "stripes"]
    was, now = held(old).labels, held(both).labels
    disc, frame = (old.classes.index(name) for name in ("disc", "frame"))
    assert (now[:, both.classes.index("shape")] == (was[:, disc] | was[:, frame])).all()
    assert "dark" not in update(old, remove=["dark"], allow_worse=True).classes
    with pytest.raises(DataError, match="nobody has said which of the old ones show it too"):
        update(old, add=(["x.jpg"], ["new"]))


def test_old_answers_count_in_the_new_classes() -> None:
    chances = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    exam = build_record(np.zeros((2, 16), np.uint8), ["a", "b"], np.array([0, 2]), chances, None)
    merged = remap_predictions(exam, np.array([0, 1]), np.array([0, 0, 1], np.int32), 2)
    np.testing.assert_allclose(merged.chances, [[0.8, 0.2], [0.3, 0.7]], rtol=1e-6)
    np.testing.assert_allclose(merged.own, [0.8, 0.7], rtol=1e-6)
    removed = remap_predictions(exam, np.array([-1, 1]), np.array([-1, 0, 1], np.int32), 2)
    np.testing.assert_allclose(removed.chances, [[0.2, 0.7, 0.1]], rtol=1e-6)
    assert removed.names == ("b",)


def test_an_image_that_is_not_at_hand_says_so() -> None:
    column = CachedImages(np.array(["a"], np.dtypes.StringDType()), np.zeros((1, 16), np.uint8), np.array([-1]))
    assert column.read(0) == bytes(16)


def test_the_printed_table_and_the_dry_run(saved: Path, photos: Path, tmp_path: Path) -> None:
    done = graft("update", saved, "--add", photos / "stripes", "--allow-worse", "-q")
    assert done.exit_code == 0, done.output
    assert "images of stripes to train on" in done.output
    assert "Old test images (6): " in done.output
    assert "Nothing was written" in done.output
    told = graft("update", saved, "-o", tmp_path / "m", "--add", photos / "stripes", "--allow-worse", "-q", "--json")
    assert json.loads(told.stdout)["update"]["effect"]["whole"]["shared"] == 6
    assert set(storage.FILES) >= {path.name for path in (tmp_path / "m").iterdir()}


def test_features_are_cached_by_what_a_graph_is_not_by_what_its_folder_says(photos: Path, tmp_path: Path) -> None:
    """A folder of a stranger must not put features where those of another network are looked for."""
    fit(photos, tmp_path / "model", report=False)
    card, graph = (tmp_path / "model" / name for name in ("model.json", "graph.onnx"))
    own = load(tmp_path / "model").network.features.graph.identity
    content = graph.read_bytes().replace(own.encode(), b"0" * len(own))
    graph.write_bytes(content)
    described = json.loads(card.read_text())
    described["weights"]["graph.onnx"] = hashlib.sha256(content).hexdigest()
    card.write_text(json.dumps(described))
    stranger = load(tmp_path / "model")
    assert stranger.network.features.graph.identity == "0" * len(own)
    assert sources.restore_backbone(stranger).graph.identity == own
