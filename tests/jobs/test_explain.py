"""Drawings of what speaks for an answer: real images, a saved classifier, and whatever may go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from graft.cli import app
from graft.errors import DataError, OutputError, UsageError
from graft.jobs.explain import explain
from graft.model.classifier import load
from graft.model.explain import Explanation, draw_saliency
from graft.model.explain import explain as explained


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.mark.slow
def test_a_drawing_for_each_image_and_the_answers_that_predict_gives(model: Path, photos: Path, tmp_path: Path) -> None:
    found = explain(model, [photos / "disc"], tmp_path / "why")
    said = load(model).predict(sorted(str(path) for path in (photos / "disc").iterdir()))
    answers = [{name: each[name] for name in said[0].as_dict()} for each in found]
    assert answers == [each.as_dict() for each in said]
    assert sorted(Path(each["drawing"]).name for each in found) == [f"{number:02d}.png" for number in range(12)]
    for each in found:
        assert each["explained"] == each["label"]
        with Image.open(each["drawing"]) as drawing:
            assert drawing.size == (448, 224)


def test_the_drawing_is_the_image_where_it_is_hottest_and_grey_where_it_is_cold() -> None:
    heat = np.full((14, 14), -1.0, np.float32)
    heat[4:7, 4:7] = 1
    seen = np.random.default_rng(0).integers(40, 256, (56, 56, 3), dtype=np.uint8)
    image = draw_saliency(seen, heat)
    as_they_are = (image == seen).all(axis=2)
    assert 0.01 <= as_they_are.mean() < 0.05
    assert as_they_are[16:28, 16:28].sum() == as_they_are.sum()
    corner = image[40:, 40:]
    assert (corner == corner[..., :1]).all()
    np.testing.assert_allclose(corner[..., 0], 0.35 * seen[40:, 40:].mean(axis=2), atol=1)


def test_another_label_than_the_answer_has_another_heat_map(model: Path, photos: Path) -> None:
    judge, path = load(model), str(photos / "disc" / "00.png")
    (own,) = explained(judge, path)
    (other,) = explained(judge, path, "stripes")
    assert isinstance(own, Explanation)
    assert isinstance(other, Explanation)
    assert (own.label, other.label) == ("disc", "stripes")
    assert np.corrcoef(own.saliency.ravel(), other.saliency.ravel())[0, 1] < 0.9


def test_a_path_an_array_and_a_list_of_either_are_explained_alike(model: Path, photos: Path) -> None:
    judge, path = load(model), photos / "disc" / "00.png"
    array = np.asarray(Image.open(path).convert("RGB"))
    found = [each for images in (str(path), path, array, [path], (array,)) for each in explained(judge, images)]
    assert len(found) == 5
    for each in found:
        assert isinstance(each, Explanation)
        np.testing.assert_array_equal(each.saliency, found[0].saliency)  # pyright: ignore[reportAttributeAccessIssue]


def test_images_of_the_same_name_get_drawings_of_their_own_and_a_broken_one_none(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    shutil.copy(photos / "disc" / "00.png", tmp_path / "00.png")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    paths = [photos / "disc" / "00.png", tmp_path / "bad.jpg", tmp_path / "00.png"]
    first, broken, second = explain(model, paths, tmp_path / "why")
    assert (Path(first["drawing"]).name, Path(second["drawing"]).name) == ("00.png", "00-2.png")
    assert broken["drawing"] == broken["label"] == ""
    assert broken["fault"] == "not an image"
    assert sorted(path.name for path in (tmp_path / "why").iterdir()) == ["00-2.png", "00.png"]


@pytest.mark.slow
def test_nothing_is_overwritten_and_every_mistake_has_its_message(model: Path, photos: Path, tmp_path: Path) -> None:
    path = photos / "disc" / "00.png"
    explain(model, [path], tmp_path)
    before = (tmp_path / "00.png").read_bytes()
    with pytest.raises(OutputError, match=r"00\.png is there already"):
        explain(model, [path], tmp_path)
    explain(model, [path], tmp_path, label="frame", force=True)
    assert (tmp_path / "00.png").read_bytes() != before
    with pytest.raises(UsageError, match=r"does not know 'cat'\. It knows disc, frame, stripes"):
        explain(model, [path], tmp_path / "new", label="cat")
    with pytest.raises(DataError, match="There is no file"):
        explain(model, [tmp_path / "gone.jpg"], tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        explain(model, [path], tmp_path / "file")


def test_on_the_command_line(model: Path, photos: Path, tmp_path: Path) -> None:
    done = graft("explain", model, photos / "disc" / "00.png", "-o", tmp_path / "why", "-q")
    assert done.exit_code == 0, done.output
    assert "disc" in done.stdout
    assert str(tmp_path / "why" / "00.png") in done.stdout
    again = graft("explain", model, photos / "disc" / "00.png", "-o", tmp_path / "why", "-q")
    assert again.exit_code != 0
    forced = graft("explain", model, photos / "disc" / "00.png", "-o", tmp_path / "why", "--force", "--json", "-q")
    assert json.loads(forced.stdout)[0]["explained"] == "disc"
