"""An exported file names the nearest training images as the classifier does, and shows them only if asked to."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import graft_runtime
from graft.cli import app
from graft.errors import DataError, ExportError
from graft.jobs.export.export import SIDE, collect_neighbours, export
from graft.model.classifier import Classifier, load
from graft.progress import no_progress
from graft_runtime.contract import NEAREST, SIMILARITY
from graft_runtime.image import decode


@pytest.fixture(scope="module")
def classifier(model: Path) -> Classifier:
    return load(model)


@pytest.fixture(scope="module")
def names(classifier: Classifier) -> tuple[str, ...]:
    """Of the training images that the classifier stores."""
    assert classifier.memory
    assert classifier.memory.known
    return classifier.memory.known.names


@pytest.fixture(scope="module")
def shown(model: Path, names: tuple[str, ...], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "shown.onnx"
    done = CliRunner().invoke(app.app, ["export", str(model), "-o", str(path), "--evidence", str(photos), "-q"])
    assert done.exit_code == 0, done.stderr
    size = (path.stat().st_size - path.read_bytes().index(b"graft.evidence")) / 1e6
    assert f"  evidence     {size:.1f} MB: {len(names)} training images, which whoever" in done.stdout
    return path


@pytest.mark.slow
def test_the_nearest_are_those_of_the_classifier(
    shown: Path, classifier: Classifier, names: tuple[str, ...], photos: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    images = [decode(path.read_bytes()) for path in sorted(photos.glob("*/*"))] + [noise]
    predictor = graft_runtime.load(shown)
    want, got = classifier.predict(images), predictor.predict(images)
    assert want[-1].unknown
    for one, other in zip(got, want, strict=True):
        assert [(each.image, each.labels) for each in one.nearest] == [
            (each.image, each.labels) for each in other.nearest
        ]
        assert [each.similarity for each in one.nearest] == pytest.approx(
            [each.similarity for each in other.nearest], abs=1e-4
        )
    which, cosines = predictor.run(noise[None], (NEAREST, SIMILARITY))
    assert [names[row] for row in which[0]] == [each.image for each in want[-1].nearest]
    assert (np.diff(cosines[0]) <= 0).all()


def test_each_comes_with_the_image_of_its_own_file_made_small(shown: Path, photos: Path) -> None:
    image = photos / "disc" / "00.png"
    said = json.loads(json.dumps(graft_runtime.load(shown).predict(image)[0].as_dict()))["nearest"]
    assert len(said) == 5
    for each in said:
        kind, _, code = each["thumbnail"].partition(",")
        assert kind == "data:image/jpeg;base64"
        small = Image.open(io.BytesIO(base64.b64decode(code)))
        own = decode((photos / each["image"]).read_bytes())
        assert max(small.size) == min(SIDE, max(own.shape[:2]))
        same = np.asarray(Image.fromarray(own).resize(small.size), np.float64)
        assert np.abs(np.asarray(small, np.float64) - same).mean() < 12
        assert each["labels"] == [each["image"].split("/")[0]]


@pytest.mark.slow
def test_a_file_holds_no_name_and_no_image_unless_asked(
    classifier: Classifier, names: tuple[str, ...], shown: Path, tmp_path: Path
) -> None:
    export(classifier, tmp_path / "bare.onnx")
    bare = (tmp_path / "bare.onnx").read_bytes()
    assert b"graft.evidence" not in bare
    assert [name for name in names if name.encode() in bare] == []
    assert [name for name in names if name.encode() not in shown.read_bytes()] == []
    predictor = graft_runtime.load(bare)
    assert predictor.predict(np.zeros((9, 9, 3), np.uint8))[0].nearest == ()
    assert predictor.run(np.zeros((1, 9, 9, 3), np.uint8), (NEAREST,))[0].shape == (1, 5)


def test_only_what_was_trained_on_is_shown_wherever_it_lies_now(
    classifier: Classifier, names: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "moved")
    missing, other, *rest = names
    (tmp_path / "moved" / missing).unlink()
    (tmp_path / "moved" / other).write_bytes((photos / other).read_bytes() + b"changed since")
    found = collect_neighbours(classifier, tmp_path / "moved", no_progress)
    assert [each.image for each in found] == list(names)
    assert [each.image for each in found if each.thumbnail is None] == [missing, other]
    assert [each.labels for each in found] == [(name.split("/")[0],) for name in names]
    (tmp_path / "others" / "disc").mkdir(parents=True)
    shutil.copy(photos / rest[0], tmp_path / "others/disc/z.png")
    with pytest.raises(DataError, match=rf"Not one of the {len(names)} training images .*others"):
        export(classifier, tmp_path / "a.onnx", evidence=tmp_path / "others")
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.slow
def test_without_stored_images_there_is_no_evidence(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"stores no training images.*Leave --evidence out"):
        export("tf_efficientnet_lite0", tmp_path / "a.onnx", evidence=photos)
