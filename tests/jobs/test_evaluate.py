"""The score on other labelled pictures, matched by the names of the class folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from graft import cli
from graft.data.read.folder import read_folder
from graft.errors import DataError
from graft.jobs.evaluate import evaluate
from graft.model.classifier import load


def graft(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_the_score_is_what_the_answers_say(model: Path, photos: Path) -> None:
    classifier, data = load(model), read_folder(photos)
    chances, _, _ = classifier.probabilities(data)
    score = evaluate(model, photos)
    assert score.count == 36
    assert score.accuracy == float((chances.argmax(axis=1) == data.labels).mean())
    assert score.log_loss == pytest.approx(float(-np.log(chances[np.arange(36), data.labels]).mean()))
    assert [sum(row) for row in score.confusion] == [each.count for each in score.classes] == [12, 12, 12]
    assert evaluate(classifier, photos) == evaluate(classifier, data) == score
    assert json.loads(graft("evaluate", model, photos, "--json", "-q").stdout) == json.loads(
        json.dumps(score.as_dict())
    )


def test_only_fit_says_that_it_never_saw_the_pictures(model: Path, photos: Path) -> None:
    done = graft("evaluate", model, photos, "-q")
    assert "right on 36 pictures" in done.stdout
    assert "never saw" not in done.stdout


def test_a_class_that_is_not_there_is_not_judged(model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos / "stripes", tmp_path / "two" / "stripes")
    shutil.copytree(photos / "disc", tmp_path / "two" / "disc")
    score = evaluate(model, tmp_path / "two")
    assert [each.count for each in score.classes] == [12, 0, 12]
    assert {each.name for each in score.judged()} == {"disc", "stripes"}
    assert score.macro_f1 == pytest.approx(np.mean([score.classes[0].f1, score.classes[2].f1]))
    shutil.rmtree(tmp_path / "two" / "disc")
    assert evaluate(model, tmp_path / "two").count == 12  # one class suffices to be judged by


def test_a_folder_of_an_unknown_class_is_refused_with_both_lists(model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "more")
    shutil.move(tmp_path / "more" / "disc", tmp_path / "more" / "dot")
    done = graft("evaluate", model, tmp_path / "more")
    assert done.exit_code == 3
    assert "'dot'" in done.stderr
    assert "'disc', 'frame', 'stripes'" in done.stderr


def test_bad_pictures_are_named_and_not_counted(model: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "p")
    (tmp_path / "p" / "disc" / "bad.jpg").write_bytes(b"")
    score = evaluate(model, tmp_path / "p")
    assert score.faults == {"disc/bad.jpg": "empty file"}
    assert score.count == 36
    assert "disc/bad.jpg: empty file" in graft("evaluate", model, tmp_path / "p", "-q").stdout
    (tmp_path / "worst" / "disc").mkdir(parents=True)
    (tmp_path / "worst" / "disc" / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"None of the 1 pictures can be read.*empty file"):
        evaluate(model, tmp_path / "worst")
