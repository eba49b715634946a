"""The main job end to end, on real files: what it reports is so, and what must not matter does not."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from graft.backbones.backbone import load_backbone
from graft.backbones.features import build_probe_features
from graft.cli import app
from graft.data.dataset import TEST, TRAIN, Dataset
from graft.data.readers.folder import read_folder
from graft.errors import DataError, OutputError, UsageError, WeightsError
from graft.features.embed import embed
from graft.jobs.fit import fit
from graft.model.classifier import Classifier, load
from graft.training.material import prepare_material

QUICK = "probe:head=ridge,layers=last"


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Every path below a folder, with its contents' hash and its time."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mtime_ns} {path.is_file() and path.read_bytes()!r}"
        for path in sorted(folder.rglob("*"))
    }


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def few(photos: Path, folder: Path, names: tuple[str, ...] = ("disc", "frame"), count: int = 4) -> Path:
    """A folder with the first images of the first classes, under other class names."""
    for source, name in zip(sorted(photos.iterdir()), names, strict=False):
        (folder / name).mkdir(parents=True)
        for image in sorted(source.iterdir())[:count]:
            shutil.copy(image, folder / name)
    return folder


def parted(photos: Path, folder: Path, held_out: str = "test") -> Path:
    """The same images with nine of each class in `train` and three in another folder."""
    for source in sorted(photos.iterdir()):
        for place, image in enumerate(sorted(source.iterdir())):
            target = folder / ("train" if place < 9 else held_out) / source.name
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)
    return folder


@pytest.fixture(scope="module")
def saved(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of the photos with all defaults; the photos are looked at before and after."""
    before = tree(photos)
    folder = tmp_path_factory.mktemp("fit") / "model"
    fit(photos, folder)
    assert tree(photos) == before, "fit changed the photos folder"
    return folder


@pytest.fixture(scope="module")
def classifier(saved: Path) -> Classifier:
    return load(saved)


@pytest.fixture(scope="module")
def held_out(photos: Path) -> Dataset:
    """The images that `fit` keeps for the score, found here by calling what it calls."""
    frozen = build_probe_features(load_backbone())
    data = read_folder(photos)
    material = prepare_material(data, embed(frozen, data), 0)
    return material.data.take(material.test)


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_counts_of_the_report_add_up(classifier: Classifier) -> None:
    report = classifier.report
    score, data = report["evaluation"], report["data"]
    assert report["classes"] == ["disc", "frame", "stripes"] == list(classifier.classes)
    assert data["train"] + data["test"] == 36
    counts = [each["count"] for each in score["classes"]]
    assert data["test"] == score["count"] == sum(counts)
    assert all(1 <= count <= 6 for count in counts)
    assert [sum(row) for row in score["confusion"]] == counts
    right = sum(row[at] for at, row in enumerate(score["confusion"]))
    assert score["accuracy"] == right / score["count"]
    assert score["interval"][0] <= score["accuracy"] <= score["interval"][1]
    assert classifier.card.metrics["accuracy"] == score["accuracy"]
    assert data["faults"] == {}
    assert (data["alike"], data["leaks"]) == (0, 0)


def test_the_chosen_head_is_the_best_of_those_tried(classifier: Classifier) -> None:
    head = classifier.report["head"]
    best = min(head["tried"], key=lambda each: each["out_of_fold_loss"])
    assert (head["name"], head["layers"], head["strength"]) == (best["head"], best["layers"], best["strength"])
    assert best["out_of_fold_accuracy"] == classifier.report["out_of_fold_accuracy"]


def test_the_score_is_that_of_the_saved_classifier_on_the_images_kept_aside(
    classifier: Classifier, held_out: Dataset
) -> None:
    chances, rows, faults = classifier.predict_probs(held_out)
    reported = classifier.report["evaluation"]
    assert not faults
    own = chances[np.arange(len(rows)), held_out.labels]
    assert float((chances.argmax(axis=1) == held_out.labels).mean()) == reported["accuracy"]
    assert float(-np.log(own).mean()) == pytest.approx(reported["log_loss"], abs=1e-4)


def test_evaluate_on_the_images_kept_aside_gives_the_reported_score(
    saved: Path, held_out: Dataset, tmp_path: Path
) -> None:
    for row in range(len(held_out)):
        target = tmp_path / "again" / held_out.name(row)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(held_out.read(row))
    done = graft("evaluate", saved, tmp_path / "again", "--json", "-q")
    assert done.exit_code == 0
    score, reported = json.loads(done.stdout), load(saved).report["evaluation"]
    assert score["accuracy"] == reported["accuracy"]
    assert score["confusion"] == reported["confusion"]
    assert score["log_loss"] == pytest.approx(reported["log_loss"], abs=1e-4)


def test_the_example_of_the_summary_is_an_image_that_was_kept_aside(
    classifier: Classifier, held_out: Dataset, photos: Path
) -> None:
    assert classifier.report["example"] in set(held_out.names())
    assert (photos / classifier.report["example"]).is_file()


# --- what must not matter ---------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_classifier(photos: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        fit(photos, tmp_path / name, strategy=QUICK, seed=seed)
    assert sha(tmp_path / "one") == sha(tmp_path / "two")
    assert sha(tmp_path / "one") != sha(tmp_path / "other")


def test_file_names_and_their_order_do_not_matter(photos: Path, tmp_path: Path) -> None:
    for number, image in enumerate(sorted(photos.rglob("*.*"), reverse=True)):
        target = tmp_path / "renamed" / image.parent.name / "further in"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target / f"{number:03d} Ansicht é{image.suffix.upper()}")
    one = fit(photos, tmp_path / "one", strategy=QUICK)
    other = fit(tmp_path / "renamed", tmp_path / "other", strategy=QUICK)
    assert sha(tmp_path / "one") == sha(tmp_path / "other")
    assert one.report["data"]["fingerprint"] == other.report["data"]["fingerprint"]
    assert one.card.temperature == other.card.temperature
    assert one.report["evaluation"] == other.report["evaluation"]


def test_a_dataset_and_its_folder_give_the_same_classifier(photos: Path, tmp_path: Path) -> None:
    fit(photos, tmp_path / "folder", strategy=QUICK)
    fit(read_folder(photos), tmp_path / "table", strategy=QUICK)
    assert sha(tmp_path / "folder") == sha(tmp_path / "table")


@pytest.mark.slow
def test_test_images_influence_nothing_but_the_score(photos: Path, tmp_path: Path) -> None:
    """Training images that are borderline near-duplicates, and three test parts that move that border."""
    root = parted(photos, tmp_path / "photos")
    for name in ("disc", "frame", "stripes"):
        images = sorted((root / "train" / name).iterdir())
        for at, path in enumerate(images):
            following = images[(at + 1) % len(images)]
            one, other = (Image.open(each).convert("RGB").resize((100, 100)) for each in (path, following))
            one.save(root / "train" / name / f"same {at}.png")
            Image.blend(one, other, 0.03 + 0.04 * at).save(root / "train" / name / f"blend {at}.png")
    honest = fit(root, tmp_path / "honest", strategy=QUICK)

    shutil.move(root / "test" / "disc", tmp_path / "aside")
    shutil.move(root / "test" / "frame", root / "test" / "disc")
    shutil.move(tmp_path / "aside", root / "test" / "frame")
    swapped = fit(root, tmp_path / "swapped", strategy=QUICK)

    for number, path in enumerate(sorted((root / "test").rglob("*.*"))):
        path.unlink()
        Image.new("RGB", (50 + number, 50), (28 * number, 0, 90)).save(path.with_suffix(".png"))
    plain = fit(root, tmp_path / "plain", strategy=QUICK)

    assert sha(tmp_path / "honest") == sha(tmp_path / "swapped") == sha(tmp_path / "plain")
    assert honest.card.temperature == swapped.card.temperature == plain.card.temperature
    assert honest.report["head"] == swapped.report["head"] == plain.report["head"]
    scores = [each.report["evaluation"]["accuracy"] for each in (honest, swapped, plain)]
    assert scores[0] > 0.8
    assert scores[1] == pytest.approx(scores[0] - 2 / 3, abs=0.15)
    assert scores[2] < scores[0]


@pytest.mark.slow
def test_views_train_on_more_than_the_images_themselves(photos: Path, tmp_path: Path) -> None:
    plain = fit(photos, tmp_path / "plain", strategy=QUICK)
    seen = fit(photos, tmp_path / "views", strategy=f"{QUICK},views=3")
    assert seen.report["data"]["train"] == plain.report["data"]["train"]
    assert sha(tmp_path / "plain") != sha(tmp_path / "views")
    assert seen.report["evaluation"]["accuracy"] >= 0.8
    fit(photos, tmp_path / "again", strategy=f"{QUICK},views=3")  # now from the cache
    assert sha(tmp_path / "again") == sha(tmp_path / "views")


# --- where images come from -----------------------------------------------------------------------------------------


def test_a_ready_made_test_part_is_the_test_part(photos: Path, tmp_path: Path) -> None:
    report = fit(parted(photos, tmp_path / "p"), strategy=QUICK).report
    assert (report["data"]["train"], report["data"]["test"]) == (27, 9)
    assert report["example"].startswith("test/")


def test_a_validation_part_is_scored_on_or_else_trained_on(photos: Path, tmp_path: Path) -> None:
    root = parted(photos, tmp_path / "p", held_out="val")
    assert fit(root, strategy=QUICK).report["data"]["test"] == 9
    for name in ("disc", "frame", "stripes"):
        (root / "test" / name).mkdir(parents=True)
        first = sorted((root / "val" / name).iterdir())[0]
        shutil.move(first, root / "test" / name)
    data = fit(root, strategy=QUICK).report["data"]
    assert (data["train"], data["test"]) == (33, 3)


@pytest.mark.slow
def test_images_in_memory_train_the_same_classifier_as_their_files(photos: Path, tmp_path: Path) -> None:
    """But for the split, which follows the bytes: so here it is given."""
    from graft.data import dataset as table

    paths = sorted(photos.rglob("*.*"))
    labels = [("disc", "frame", "stripes").index(path.parent.name) for path in paths]
    split = np.where(np.arange(36) % 4 == 0, TEST, TRAIN).astype(np.int8)
    files = table.from_paths(paths, labels, ("disc", "frame", "stripes"))
    arrays = table.from_arrays([np.asarray(Image.open(path)) for path in paths], labels, ("disc", "frame", "stripes"))
    both = [fit(Dataset(each.images, each.labels, each.classes, split), strategy=QUICK) for each in (files, arrays)]
    assert both[0].report["evaluation"]["count"] == both[1].report["evaluation"]["count"] == 9
    assert both[0].report["evaluation"]["accuracy"] == both[1].report["evaluation"]["accuracy"] >= 0.8


@pytest.mark.parametrize("option", ["head=knn,layers=last", "head=svm,layers=last", "head=ncm,layers=last"])
def test_the_head_and_the_layers_that_are_asked_for_are_used(photos: Path, option: str) -> None:
    classifier = fit(photos, strategy=f"probe:{option}")
    assert classifier.report["head"]["name"] == option.partition(",")[0].removeprefix("head=")
    assert classifier.card.layers == ()
    assert classifier.card.strategy == f"probe:{option}"
    assert classifier.report["evaluation"]["accuracy"] >= 0.6


def test_all_layers_make_a_wider_head_than_the_last(photos: Path) -> None:
    last = fit(photos, strategy="probe:head=ridge,layers=last").card
    every = fit(photos, strategy="probe:head=ridge,layers=all").card
    assert last.head["width"] == 1280
    assert every.head["width"] > 1280
    assert len(every.layers) == 8


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "prob"}, "no strategy 'prob'.*probe"),
    ({"strategy": "probe:haed=ridge"}, "no option 'haed'.*head, layers, views"),
    ({"strategy": "probe:head=rigde"}, "no head 'rigde'.*ridge"),
    ({"strategy": "probe:layers=first"}, "auto, last, all.*'first'"),
    ({"strategy": "probe:views=many"}, "'views' must be a whole number.*'many'"),
    ({"strategy": "probe:views=0"}, "from 1 to 64"),
    ({"backbone": "mobilenetv2_10"}, "no network 'mobilenetv2_10'.*mobilenetv2_100"),
    ({"seed": -1}, "from 0 to"),
    ({"seed": 2**64}, "from 0 to"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES)
def test_a_wrong_option_is_told_before_any_image_is_embedded(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr("graft.jobs.fit.embed", lambda *_, **__: pytest.fail("images were embedded first"))
    with pytest.raises(UsageError, match=message):
        fit(photos, tmp_path / "model", **options)
    assert list(tmp_path.iterdir()) == [], "something was left behind"


def test_weights_that_are_not_those_of_the_network_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    from safetensors.numpy import save_file

    save_file({"conv.weight": np.zeros((3, 3), np.float32)}, tmp_path / "other.safetensors")
    for name in ("text.pth", "other.safetensors", "nowhere.pth"):
        with pytest.raises(WeightsError, match=re.escape(name)):
            fit(photos, weights=tmp_path / name)


@pytest.mark.fault(7, 22)
def test_folders_that_cannot_be_learned_from_say_why(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = few(photos, tmp_path / "one", ("only",))
    bad = few(photos, tmp_path / "bad")
    for path in bad.rglob("*.*"):
        path.write_bytes(b"<html>")
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(photos / "disc" / "00.png", flat)
    for folder, message in (
        ("empty", "holds no images in class folders"),
        ("one", "one class only.*'only'.*at least two"),
        ("bad", r"8 images were left out \(8 x not an image\)"),
        ("flat", "Sort them into one folder for each class"),
        ("nowhere", "There is no folder"),
    ):
        with pytest.raises(DataError, match=message):
            fit(tmp_path / folder, strategy=QUICK)
    assert one.is_dir()


def test_a_test_class_that_was_never_trained_on_is_refused(photos: Path, tmp_path: Path) -> None:
    root = parted(photos, tmp_path / "p")
    shutil.move(root / "train" / "disc", tmp_path / "disc")
    with pytest.raises(DataError, match="training part has no usable image of disc"):
        fit(root, strategy=QUICK)


@pytest.mark.fault(21)
def test_a_class_with_a_single_image_is_trained_on_and_named_as_untested(photos: Path, tmp_path: Path) -> None:
    root = few(photos, tmp_path / "p", ("disc", "frame"), count=6)
    (root / "single").mkdir()
    shutil.copy(photos / "stripes" / "00.png", root / "single")
    done = graft("fit", root, "-o", tmp_path / "m", "--strategy", QUICK, "-q")
    assert done.exit_code == 0
    assert "not tested   too few images of: single" in done.stdout
    assert load(tmp_path / "m").predict(photos / "stripes" / "00.png")[0].label == "single"


@pytest.mark.fault(21)
def test_two_classes_with_one_image_each_make_a_classifier_without_a_score(photos: Path, tmp_path: Path) -> None:
    root = few(photos, tmp_path / "p", count=1)
    done = graft("fit", root, "-o", tmp_path / "m", "--strategy", QUICK, "-q")
    assert done.exit_code == 0
    assert "Not scored" in done.stdout
    assert "not evaluated" in (tmp_path / "m" / "README.md").read_text()
    assert [each.label for each in load(tmp_path / "m").predict(sorted(root.rglob("*.*")))] == ["disc", "frame"]


@pytest.mark.slow
@pytest.mark.fault(1, 2, 3)
def test_bad_images_are_left_out_and_named_in_summary_and_json(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "p"
    shutil.copytree(photos, root)
    (root / "disc" / "empty.jpg").write_bytes(b"")
    (root / "frame" / "page.png").write_bytes(b"<html>not found</html>")
    whole = (photos / "stripes" / "01.jpg").read_bytes()
    (root / "stripes" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    done = graft("fit", root, "-o", tmp_path / "m", "--strategy", QUICK, "-q")
    assert done.exit_code == 0
    assert "3 images that cannot be used" in done.stdout
    for line in ("disc/empty.jpg: empty file", "frame/page.png: not an image", "stripes/cut.jpg: truncated"):
        assert line in done.stdout
    fit(photos, tmp_path / "clean", strategy=QUICK)
    assert sha(tmp_path / "m") == sha(tmp_path / "clean"), "bad images changed the classifier"
    again = graft("fit", root, "-o", tmp_path / "m", "--strategy", QUICK, "-q", "--json", "--force")
    faults = json.loads(again.stdout)["data"]["faults"]
    assert list(faults) == ["disc/empty.jpg", "frame/page.png", "stripes/cut.jpg"]


NAMES = ("日本 🐱", "-rf", "=1+1")


@pytest.mark.fault(23)
def test_odd_class_names_come_through_every_file(photos: Path, tmp_path: Path) -> None:
    root = few(photos, tmp_path / "p", NAMES, count=5)
    done = graft("fit", root, "-o", tmp_path / "my model", "--strategy", QUICK, "--json", "-q")
    assert done.exit_code == 0
    classifier = load(tmp_path / "my model")
    assert set(classifier.classes) == set(NAMES) == set(json.loads(done.stdout)["classes"])
    assert all(name in (tmp_path / "my model" / "README.md").read_text(encoding="utf-8") for name in NAMES)
    for name in NAMES:
        assert classifier.predict(sorted((root / name).iterdir()))[0].label == name


@pytest.mark.fault(30)
def test_a_file_name_that_is_not_unicode_is_left_out_and_counted(photos: Path, tmp_path: Path) -> None:
    root = few(photos, tmp_path / "p")
    try:
        (root / "disc" / b"b\xe4r.png".decode("utf-8", "surrogateescape")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    data = fit(root, strategy=QUICK).report["data"]
    assert data["ignored"] == {"names that are not Unicode": 1}
    assert data["train"] + data["test"] == 8


@pytest.mark.fault(35)
def test_an_output_in_the_way_is_refused_before_any_work(
    photos: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.jobs.fit.load_backbone", lambda *_: pytest.fail("work was done first"))
    before = sha(saved)
    with pytest.raises(OutputError, match=r"already holds a classifier.*--force"):
        fit(photos, saved)
    with pytest.raises(OutputError, match="which graft did not write"):
        fit(photos, photos, force=True)
    assert sha(saved) == before
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError):
        fit(photos, tmp_path / "file" / "model")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.slow
def test_weights_in_a_folder_make_a_good_classifier_of_real_photos(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (shared / "weights" / "mobilenetv2_100.safetensors").is_file():
        pytest.skip("needs mobilenetv2_100.safetensors in shared/weights")
    monkeypatch.setenv("GRAFT_WEIGHTS", str(shared / "weights"))
    report = fit(shared / "data" / "caltech5_tiny", tmp_path / "m", backbone="mobilenetv2_100", offline=True).report
    assert (report["data"]["train"], report["data"]["test"]) == (100, 180)
    assert report["evaluation"]["accuracy"] >= 0.95
    card = load(tmp_path / "m").card
    assert card.backbone["where"] == "folder"
    assert len(card.backbone["sha256"]) == 64
