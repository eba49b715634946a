"""What a classifier takes and answers: every kind of picture, in order, whatever is wrong with some of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from graft.data import dataset as table
from graft.data.read.folder import read_folder
from graft.errors import DataError
from graft.jobs.fit import fit
from graft.model.classifier import Classifier, load


@pytest.fixture(scope="module")
def classifier(photos: Path) -> Classifier:
    return fit(photos, strategy="probe:head=ridge,layers=last")


@pytest.fixture(scope="module")
def paths(photos: Path) -> list[Path]:
    """One PNG of each class: what is in memory is then what is in the file."""
    return [photos / name / "00.png" for name in ("stripes", "disc", "frame")]


def chances(classifier: Classifier, images: Any) -> list[list[float]]:
    return [list(each.answer.probabilities.values()) if each.answer else [] for each in classifier.predict(images)]


def test_paths_arrays_and_pictures_get_the_same_answers(classifier: Classifier, paths: list[Path]) -> None:
    want = chances(classifier, paths)
    opened = [Image.open(path) for path in paths]
    arrays = [np.asarray(picture) for picture in opened]
    assert [each.label for each in classifier.predict(paths)] == ["stripes", "disc", "frame"]
    assert chances(classifier, [str(path) for path in paths]) == want
    assert chances(classifier, tuple(arrays)) == want
    assert chances(classifier, opened) == want
    alone = chances(classifier, paths[0])
    assert chances(classifier, str(paths[0])) == chances(classifier, arrays[0]) == chances(classifier, opened[0])
    assert alone[0] == pytest.approx(want[0], abs=1e-6)  # a batch of one takes another path through the processor


def test_a_stack_of_arrays_is_several_pictures_and_a_grey_array_is_one(
    classifier: Classifier, paths: list[Path]
) -> None:
    small = [Image.open(path).resize((64, 48)) for path in paths]
    stack = np.stack([np.asarray(picture) for picture in small])
    assert chances(classifier, stack) == chances(classifier, small)
    grey = np.asarray(small[0].convert("L"))
    assert (
        chances(classifier, grey)
        == chances(classifier, np.stack([grey] * 3, axis=2))
        == chances(classifier, grey[..., None])
    )
    assert len(chances(classifier, np.stack([grey, grey])[..., None])) == 2


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "L", "1", "I;16"])
def test_an_opened_picture_of_any_mode_is_seen_as_its_file_is(
    classifier: Classifier, paths: list[Path], tmp_path: Path, mode: str
) -> None:
    picture = Image.open(paths[0])
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    picture.save(tmp_path / "odd.png")
    assert chances(classifier, picture) == chances(classifier, tmp_path / "odd.png")


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
    assert [each.picture for each in found] == [str(path) for path in given]
    assert [each.label for each in found] == ["", "stripes", "", "", "disc", "stripes"]
    assert [each.fault for each in found] == [
        *("empty file", "", "not an image", "cannot be read: No such file or directory", "", "")
    ]
    assert found[1].answer == found[5].answer
    assert found[1].probability == pytest.approx(classifier.predict(paths[0])[0].probability, abs=1e-6)
    assert found[0].as_dict() == {
        **{"picture": str(given[0]), "label": "", "probability": 0.0, "probabilities": {}, "fault": "empty file"}
    }
    json.dumps([each.as_dict() for each in found], allow_nan=False)


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
        3,
        ["a.jpg", np.zeros((8, 8, 3), np.uint8)],
        [None],
    ],
    ids=["float", "four channels", "no pixels", "number", "mixed", "none"],
)
def test_what_is_no_picture_is_refused(classifier: Classifier, given: Any) -> None:
    with pytest.raises(DataError, match="must be uint8"):
        classifier.predict(given)


def test_an_opened_picture_that_is_cut_off_is_refused(
    classifier: Classifier, paths: list[Path], tmp_path: Path
) -> None:
    raw = paths[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(raw[: len(raw) // 2])
    with Image.open(tmp_path / "cut.png") as picture, pytest.raises(DataError, match="damaged"):
        classifier.predict(picture)


def test_saved_and_loaded_gives_the_same_logits_to_the_bit(
    classifier: Classifier, photos: Path, tmp_path: Path
) -> None:
    loaded = load(classifier.save(tmp_path / "model"))
    data = read_folder(photos)
    for mine, theirs in zip(classifier.probabilities(data)[:2], loaded.probabilities(data)[:2], strict=True):
        assert np.array_equal(mine, theirs)
    batch = torch.randint(0, 256, (4, 3, 224, 224), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.inference_mode():  # after predicting, so that both lie in memory the same way
        assert torch.equal(classifier.network(batch), loaded.network(batch))


def test_a_dataset_is_scored_by_the_names_of_its_classes(classifier: Classifier, photos: Path, tmp_path: Path) -> None:
    for name in ("frame", "stripes"):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).symlink_to(photos / name)
    by_path = classifier.evaluate(tmp_path / "two")
    assert classifier.evaluate(read_folder(tmp_path / "two")) == by_path
    assert by_path.accuracy > 0.8
    assert [each.count for each in by_path.classes] == [0, 12, 12]


def test_a_dataset_without_labels_pictures_or_known_classes_is_not_scored(
    classifier: Classifier, paths: list[Path]
) -> None:
    with pytest.raises(DataError, match="a label for each"):
        classifier.evaluate(table.from_paths(paths))
    with pytest.raises(DataError, match="a label for each"):
        classifier.evaluate(table.from_paths([]))
    with pytest.raises(DataError, match="does not know dog"):
        classifier.evaluate(table.from_paths(paths, [0, 0, 0], ("dog",)))
