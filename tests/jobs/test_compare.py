"""Two saved classifiers on the command line and in Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import graft
from graft.cli import app
from graft.data.dataset import TEST, TRAIN
from graft.data.readers.folder import read_folder
from graft.jobs.fit import fit
from graft.model.classifier import load


def run(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def other(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs") / "other"
    fit(photos, folder, strategy="probe:head=ncm,layers=last")
    return folder


def test_the_verdict_rests_on_what_both_answered(model: Path, other: Path) -> None:
    found = graft.compare_runs(model, other)
    one, two = load(model), load(other)
    assert found == graft.compare_runs(one, two)
    assert found.first == pytest.approx(one.report["evaluation"]["accuracy"])
    assert found.second == pytest.approx(two.report["evaluation"]["accuracy"])
    assert found.shared == one.report["data"]["test"]
    assert found.trained_on == (0, 0)
    losses = one.report["evaluation"]["log_loss"] - two.report["evaluation"]["log_loss"]
    assert found.log_loss == pytest.approx(losses, abs=1e-5)


def test_the_command_line_says_what_python_says(model: Path, other: Path) -> None:
    done = run("compare-runs", model, other)
    assert done.exit_code == 0
    assert "not distinguishable" in done.stdout
    read = json.loads(run("compare-runs", model, other, "--json").stdout)
    assert read == json.loads(json.dumps(graft.compare_runs(model, other).as_dict()))


def test_test_parts_that_overlap_share_some_and_it_is_told_who_trained_on_whose_test(
    photos: Path, tmp_path: Path
) -> None:
    data = read_folder(photos)
    for name, every in (("thirds", 3), ("halves", 2)):
        split = np.where(np.arange(36) % every == 0, TEST, TRAIN).astype(np.int8)
        fit(replace(data, split=split), tmp_path / name, strategy="probe:head=ridge,layers=last")
    found = graft.compare_runs(tmp_path / "thirds", tmp_path / "halves")
    assert (found.shared, found.tested, found.trained_on) == (6, (12, 18), (12, 6))
    shown = run("compare-runs", tmp_path / "thirds", tmp_path / "halves").stdout
    assert "thirds was trained on 12 of the test images of" in shown


def test_what_cannot_be_compared_says_why(model: Path, tmp_path: Path) -> None:
    missing = run("compare-runs", model, tmp_path / "nowhere")
    assert missing.exit_code == 5
    assert "is no saved classifier" in missing.stderr
    bare = load(model)
    (tmp_path / "bare").mkdir()
    type(bare)(bare.network, bare.card).save(tmp_path / "bare" / "model")
    refused = run("compare-runs", model, tmp_path / "bare" / "model")
    assert refused.exit_code == 3
    assert "remembers no test image" in refused.stderr
