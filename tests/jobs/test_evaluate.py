"""The score on other labelled images, matched by the names of the class folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from graft.cli import app
from graft.data.readers.folder import read_folder
from graft.errors import DataError
from graft.jobs.evaluate import evaluate
from graft.model.classifier import load


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.mark.slow
def test_the_score_is_what_the_answers_say(model: Path, photos: Path) -> None:
    classifier, data = load(model), read_folder(photos)
    chances, _, _ = classifier.predict_probs(data)
    score = evaluate(model, photos)
    assert score.count == 36
    assert score.accuracy == float((chances.argmax(axis=1) == data.labels).mean())
    assert score.log_loss == pytest.approx(float(-np.log(chances[np.arange(36), data.labels]).mean()))
    assert [sum(row) for row in score.confusion] == [each.count for each in score.classes] == [12, 12, 12]
    assert evaluate(classifier, photos) == evaluate(classifier, data) == score
    assert json.loads(graft("evaluate", model, photos, "--json", "-q").stdout) == json.loads(
        json.dumps(score.as_dict())
    )


def test_only_fit_says_that_it_never_saw_the_images(model: Path, photos: Path) -> None:
    done = graft("evaluate", model, photos, "-q")
    assert "right on 36 images" in done.stdout
    assert "never saw" not in done.stdout


@pytest.mark.slow
@pytest.mark.fault(25)
def test_a_class_that_is_not_there_is_not_judged(model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "stripes", tmp_path / "two" / "stripes")
    shutil.copytree(photos / "disc", tmp_path / "two" / "disc")
    score = evaluate(model, tmp_path / "two")
    assert [each.count for each in score.classes] == [12, 0, 12]
    assert {each.name for each in score.scored_classes()} == {"disc", "stripes"}
    assert score.macro_f1 == pytest.approx(np.mean([score.classes[0].f1, score.classes[2].f1]))
    shutil.rmtree(tmp_path / "two" / "disc")
    assert evaluate(model, tmp_path / "two").count == 12  # one class suffices to be judged by


@pytest.mark.slow
@pytest.mark.fault(25)
def test_classes_that_it_does_not_know_are_listed_and_scored_apart(model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "more")
    shutil.move(tmp_path / "more" / "disc", tmp_path / "more" / "dot")
    done = graft("evaluate", model, tmp_path / "more", "-q")
    assert done.exit_code == 0
    assert "12 more images show what the classifier does not know (dot)" in done.stdout
    score, alone = evaluate(model, tmp_path / "more"), evaluate(model, photos)
    assert score.count == 24
    assert score.trust.strangers
    assert score.trust.strangers.classes == {"dot": 12}
    assert score.trust.strangers.accuracy == pytest.approx(score.accuracy * 24 / 36)
    assert score.log_loss == pytest.approx(
        -np.log([own for own, label in _own(model, photos) if label]).mean(), rel=1e-6
    )
    assert alone.trust.strangers is None


def _own(model: Path, photos: Path) -> list[tuple[float, int]]:
    """(probability of the right class, label) of each image."""
    data = read_folder(photos)
    chances, _, _ = load(model).predict_probs(data)
    return [(float(row[label]), int(label)) for row, label in zip(chances, data.labels, strict=True)]


@pytest.mark.fault(25)
def test_wholly_other_classes_and_other_spellings_are_refused(model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "disc", tmp_path / "other" / "dot")
    done = graft("evaluate", model, tmp_path / "other")
    assert done.exit_code == 3
    assert "'dot'" in done.stderr
    assert "'disc', 'frame', 'stripes'" in done.stderr
    shutil.copytree(photos / "disc", tmp_path / "spelt" / "Disc")
    done = graft("evaluate", model, tmp_path / "spelt")
    assert done.exit_code == 3
    assert "'Disc' (there: 'disc')" in done.stderr


@pytest.mark.slow
def test_images_that_were_trained_on_are_found_wherever_they_lie(model: Path, photos: Path, tmp_path: Path) -> None:
    classifier = load(model)
    assert classifier.memory
    assert classifier.memory.tested
    tested = {name.partition("/")[2] + name.partition("/")[0] for name in classifier.memory.tested.names}
    for source in sorted(photos.rglob("*.*")):
        if source.name + source.parent.name in tested:
            target = tmp_path / "tested" / source.parent.name / f"copy of {source.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    again = evaluate(model, tmp_path / "tested")
    assert again.trust.seen == 0
    assert again.accuracy == classifier.report["evaluation"]["accuracy"]
    assert evaluate(model, photos).trust.seen == classifier.report["data"]["train"] == 36 - again.count
    assert "of these images were trained on: the score flatters" in graft("evaluate", model, photos, "-q").stdout


@pytest.mark.slow
def test_bad_images_are_named_and_not_counted(model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "p")
    (tmp_path / "p" / "disc" / "bad.jpg").write_bytes(b"")
    score = evaluate(model, tmp_path / "p")
    assert score.faults == {"disc/bad.jpg": "empty file"}
    assert score.count == 36
    assert "disc/bad.jpg: empty file" in graft("evaluate", model, tmp_path / "p", "-q").stdout
    (tmp_path / "worst" / "disc").mkdir(parents=True)
    (tmp_path / "worst" / "disc" / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the 1 images can be used.*empty file"):
        evaluate(model, tmp_path / "worst")
