"""What a classifier takes and answers: every kind of image, in order, whatever is wrong with some of them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import graft
import graft_runtime
from graft.data import dataset as table
from graft.data.readers.folder import read_folder
from graft.data.readers.tables import read_table
from graft.errors import DataError
from graft.jobs.fit import fit
from graft.metrics.evaluation import MultilabelEvaluation
from graft.model.classifier import Classifier, load
from graft_runtime.predictor import Predictor


@pytest.fixture(scope="module")
def classifier(photos: Path) -> Classifier:
    return fit(photos, strategy="probe:head=ridge,layers=last")


@pytest.fixture(scope="module")
def client(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """The same, exported."""
    file = tmp_path_factory.mktemp("client") / "m.onnx"
    graft.export(classifier, file)
    return graft_runtime.load(file)


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    """One PNG of each class: what is in memory is then what is in the file."""
    return [photos / name / "00.png" for name in ("stripes", "disc", "frame")]


def chances(classifier: Classifier, images: Any) -> list[list[float]]:
    return [list(each.answer.probabilities.values()) if each.answer else [] for each in classifier.predict(images)]


def test_paths_arrays_and_images_get_the_same_answers(classifier: Classifier, paths: list[Path]) -> None:
    want = chances(classifier, paths)
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in opened]
    assert [each.label for each in classifier.predict(paths)] == ["stripes", "disc", "frame"]
    assert chances(classifier, [str(path) for path in paths]) == want
    assert chances(classifier, tuple(arrays)) == want
    assert chances(classifier, opened) == want
    alone = chances(classifier, paths[0])
    assert chances(classifier, str(paths[0])) == chances(classifier, arrays[0]) == chances(classifier, opened[0])
    assert alone[0] == pytest.approx(want[0], abs=1e-6)  # a batch of one takes another path through the processor


def test_a_stack_of_arrays_is_several_images_and_a_grey_array_is_one(classifier: Classifier, paths: list[Path]) -> None:
    small = [Image.open(path).resize((64, 48)) for path in paths]
    stack = np.stack([np.asarray(image) for image in small])
    assert chances(classifier, stack) == chances(classifier, small)
    grey = np.asarray(small[0].convert("L"))
    assert (
        chances(classifier, grey)
        == chances(classifier, np.stack([grey] * 3, axis=2))
        == chances(classifier, grey[..., None])
    )
    assert len(chances(classifier, np.stack([grey, grey])[..., None])) == 2


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "I;16"])
def test_an_opened_image_of_any_mode_is_seen_as_its_file_is(
    classifier: Classifier, paths: list[Path], tmp_path: Path, mode: str
) -> None:
    image = Image.open(paths[0])
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "odd.png")
    assert chances(classifier, image) == chances(classifier, tmp_path / "odd.png")


def test_an_opened_photo_is_turned_upright_and_stays_as_it_is(
    classifier: Classifier, paths: list[Path], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(paths[0]).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    assert chances(classifier, turned) == chances(classifier, tmp_path / "turned.png") != chances(classifier, paths[0])
    assert turned.getexif()[0x0112] == 6


def test_faults_leave_the_order_and_the_others_alone(classifier: Classifier, paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    given = [tmp_path / "empty.jpg", paths[0], tmp_path / "page.jpg", tmp_path / "gone.jpg", paths[1], paths[0]]
    found = classifier.predict(given)
    assert [each.image for each in found] == [str(path) for path in given]
    assert [each.label for each in found] == ["", "stripes", "", "", "disc", "stripes"]
    assert [each.fault for each in found] == [
        *("empty file", "", "not an image", "cannot be read: No such file or directory", "", "")
    ]
    assert found[1].answer == found[5].answer
    assert found[1].probability == pytest.approx(classifier.predict(paths[0])[0].probability, abs=1e-6)
    assert found[0].as_dict() == {
        **{"image": str(given[0]), "label": "", "labels": [], "probability": 0.0},
        **{"probabilities": {}, "fault": "empty file", "unknown": False, "prediction_set": None, "nearest": []},
    }
    json.dumps([each.as_dict() for each in found], allow_nan=False)


@pytest.mark.slow
def test_whatever_holds_images_is_gone_through_as_the_runtime_does(
    classifier: Classifier, client: Predictor, paths: list[Path], tmp_path: Path
) -> None:
    contents = [path.read_bytes() for path in paths]
    ways: list[Any] = [
        *(contents[0], bytearray(contents[0]), memoryview(contents[0]), paths[0], str(paths[0])),
        *(lambda: iter(paths), lambda: (path for path in paths), lambda: map(str, paths), {*paths}, tuple(paths)),
        *(np.array([str(path) for path in paths]), dict.fromkeys(paths).keys(), [], iter(())),
        [paths[0], contents[1], Image.open(paths[2]), np.asarray(Image.open(paths[0])), tmp_path / "gone.jpg", b""],
        *(tmp_path, [tmp_path, paths[0]], "a\0b.jpg", torch.tensor(np.asarray(Image.open(paths[0])))),
    ]
    for way in ways:
        own, theirs = (judge.predict(way() if callable(way) else way) for judge in (classifier, client))
        told = [[(each.image, each.label, each.fault) for each in said] for said in (own, theirs)]
        assert told[0] == told[1], way
    assert classifier.predict(contents[0])[0].label == "stripes"
    assert len(classifier.predict(iter(paths))) == 3
    assert classifier.predict(tmp_path)[0].fault == "a folder, which stands for no image: give the files in it"


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (None, "Got None."),
        (5, "Got int."),
        (np.float64(2), r"Got numpy\.float64"),
        (np.array(5), r"Got numpy\.ndarray"),
        ({"a": "b.jpg"}, "Got dict."),
        (io.BytesIO(b""), r"Got _io\.BytesIO: give what its read\(\) returns"),
        (object(), "Got object."),
        ([None], "Got None, as number 0"),
        (["a.jpg", 7], "Got int, as number 1"),
        ([{"a": 1}], "Got dict, as number 0"),
        ([["a.jpg"]], "Got list, as number 0"),
        (np.zeros((4, 4)), "must be uint8"),
        (np.zeros((3, 8, 9), np.uint8), r"uint8 \[3, 8, 9\] may be one image with its channels first, or 3 grey ones"),
        (torch.zeros(3, 8, 9, dtype=torch.uint8), r"\[3, 8, 9\] may be one image with its channels first"),
        (torch.zeros(8, 9, 3, requires_grad=True), r"Got torch\.Tensor, which is no array: .*requires grad"),
        ([torch.zeros(8, 9, dtype=torch.bfloat16)], r"Got torch\.Tensor, which is no array"),
        ([[[1], [1, 2]]], "Got list, which is no array"),
        (np.ma.masked_array(np.zeros((8, 9), np.uint8), np.eye(8, 9)), "mask would be lost"),
    ],
)
def test_what_is_no_image_is_told_in_one_sentence_in_both(
    classifier: Classifier, client: Predictor, given: Any, want: str
) -> None:
    told = []
    for judge in (classifier, client):
        with pytest.raises(ValueError, match=want) as found:
            judge.predict(given)
        told.append(str(found.value))
    assert told[0].startswith(told[1].rstrip("."))  # of an array the classifier says more


def test_probabilities_are_those_of_the_classes_in_order_and_sum_to_one(
    classifier: Classifier, paths: list[Path]
) -> None:
    for each in classifier.predict(paths):
        assert each.answer
        assert tuple(each.answer.probabilities) == classifier.classes == ("disc", "frame", "stripes")
        assert sum(each.answer.probabilities.values()) == pytest.approx(1)
        assert each.probability == max(each.answer.probabilities.values()) == each.answer.probabilities[each.label]


def test_nothing_is_asked_and_nothing_answered(classifier: Classifier) -> None:
    assert classifier.predict([]) == []


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((8, 8, 3)),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
    ],
    ids=["float", "four channels", "no pixels"],
)
def test_what_is_no_image_is_refused(classifier: Classifier, given: Any) -> None:
    with pytest.raises(DataError, match="must be uint8"):
        classifier.predict(given)


def test_an_opened_image_that_is_cut_off_is_refused(classifier: Classifier, paths: list[Path], tmp_path: Path) -> None:
    raw = paths[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(raw[: len(raw) // 2])
    with Image.open(tmp_path / "cut.png") as image, pytest.raises(DataError, match="damaged"):
        classifier.predict(image)


@pytest.mark.slow
def test_saved_and_loaded_gives_the_same_logits_to_the_bit(
    classifier: Classifier, photos: Path, tmp_path: Path
) -> None:
    loaded = load(classifier.save(tmp_path / "model"))
    data = read_folder(photos)
    for mine, theirs in zip(classifier.predict_probs(data)[:2], loaded.predict_probs(data)[:2], strict=True):
        assert np.array_equal(mine, theirs)
    batch = np.random.default_rng(0).integers(0, 256, (4, 3, 224, 224), np.uint8)
    assert np.array_equal(classifier.network(batch), loaded.network(batch))


def test_a_dataset_is_scored_by_the_names_of_its_classes(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    for name in ("frame", "stripes"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).symlink_to(photos / name)
    by_path = classifier.evaluate(tmp_path / "two")
    assert classifier.evaluate(read_folder(tmp_path / "two")) == by_path
    assert by_path.accuracy > 0.8
    assert [each.count for each in by_path.classes] == [0, 12, 12]


@pytest.mark.slow
def test_images_without_a_label_are_not_counted_and_the_score_says_how_many(
    classifier: Classifier, photos: Path, tmp_path: Path
) -> None:
    rows = [(path, path.parent.name) for path in sorted(photos.rglob("*.*g"))]
    for gap in (0, 2):
        text = "".join(f"{path},{label * (at >= gap)}\n" for at, (path, label) in enumerate(rows))
        (tmp_path / "t.csv").write_text(f"file,label\n{text}")
        score = classifier.evaluate(tmp_path / "t.csv")
        assert (score.count, score.trust.unlabelled) == (len(rows) - gap, gap)


def test_a_dataset_without_labels_images_or_known_classes_is_not_scored(
    classifier: Classifier, paths: list[Path]
) -> None:
    with pytest.raises(DataError, match="a label for each"):
        classifier.evaluate(table.from_paths(paths))
    with pytest.raises(DataError, match="a label for each"):
        classifier.evaluate(table.from_paths([]))
    with pytest.raises(DataError, match=r"no class that the classifier knows. It has 'dog'"):
        classifier.evaluate(table.from_paths(paths, [0, 0, 0], ("dog",)))


# --- several labels ---------------------------------------------------------------------------------------------------

LABELS = {"disc": "round|full", "frame": "open", "stripes": ""}


@pytest.fixture(scope="module")
def tagged(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of the same images: discs are round and full, frames are open, stripes have no label."""
    path = tmp_path_factory.mktemp("tagged") / "tags.csv"
    rows = [f"{image},{LABELS[name]}" for name in LABELS for image in sorted((photos / name).iterdir())]
    path.write_text("\n".join(["file,labels", *rows]))
    return path


@pytest.fixture(scope="module")
def several(tagged: Path) -> Classifier:
    return fit(tagged, strategy="probe:head=ridge,layers=last")


def test_any_number_of_labels_is_answered_likeliest_first(several: Classifier, paths: list[Path]) -> None:
    stripes, disc, frame = several.predict(paths)
    assert (stripes.labels, set(disc.labels), frame.labels) == ((), {"full", "round"}, ("open",))
    assert (disc.label, frame.label) == (disc.labels[0], "open")
    assert disc.probability == max(disc.probabilities.values()) == disc.probabilities[disc.labels[0]]
    assert stripes.label in several.classes
    assert disc.as_dict()["labels"] == list(disc.labels)
    for each in (stripes, disc, frame):
        limits = zip(several.classes, several.card.thresholds, strict=True)
        assert set(each.labels) == {name for name, least in limits if each.probabilities[name] >= least}


def test_saved_and_loaded_keeps_task_and_thresholds(several: Classifier, paths: list[Path], tmp_path: Path) -> None:
    loaded = load(several.save(tmp_path / "model"))
    assert (loaded.card.task, loaded.card.thresholds) == ("multilabel", several.card.thresholds)
    assert loaded.predict(paths) == several.predict(paths)
    assert "any number of 3 labels" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.slow
def test_the_score_of_several_labels_is_what_the_answers_say(several: Classifier, tagged: Path) -> None:
    data = read_table(tagged)
    score, said = several.evaluate(tagged), several.predict(data.names())
    assert isinstance(score, MultilabelEvaluation)
    assert several.evaluate(data) == score
    found = np.array([[name in each.labels for name in several.classes] for each in said])
    assert score.subset_accuracy == (found == data.labels).all(axis=1).mean() > 0.9
    assert [each.threshold for each in score.classes] == list(several.card.thresholds)
    assert score.mean_average_precision > 0.95


@pytest.mark.slow
def test_labels_are_matched_by_name_and_those_not_asked_for_are_not_there(
    several: Classifier, photos: Path, tagged: Path, tmp_path: Path
) -> None:
    data = read_table(tagged)
    turned = replace(data, classes=data.classes[::-1], labels=data.labels[:, ::-1])
    assert several.evaluate(turned) == several.evaluate(data)
    (tmp_path / "open").symlink_to(photos / "frame")
    assert [each.count for each in several.evaluate(tmp_path).classes] == [0, 12, 0]  # full, open, round
    (tmp_path / "closed").symlink_to(photos / "disc")
    more = several.evaluate(tmp_path)
    assert [each.count for each in more.classes] == [0, 12, 0]
    assert more.trust.strangers
    assert more.trust.strangers.classes == {"closed": 12}


def test_a_classifier_of_one_label_refuses_several(classifier: Classifier, photos: Path) -> None:
    files, hot = [photos / "disc" / "00.png", photos / "frame" / "00.png"], np.eye(3, dtype=np.uint8)[:2]
    single = table.from_paths(files, hot, classifier.classes)
    assert classifier.evaluate(single) == classifier.evaluate(table.from_paths(files, [0, 1], classifier.classes))
    with pytest.raises(DataError, match="one label, and 1 of 2 images have several or none"):
        classifier.evaluate(replace(single, labels=np.array([[1, 1, 0], [0, 1, 0]], np.uint8)))


def test_of_one_label_the_labels_are_that_one(classifier: Classifier, paths: list[Path]) -> None:
    assert [each.labels for each in classifier.predict(paths)] == [("stripes",), ("disc",), ("frame",)]
