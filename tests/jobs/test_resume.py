"""Killed and resumed = never killed: real processes, SIGKILL at any step, every tensor compared."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensors import same

from graft.errors import ModelError, OutputError, UsageError
from graft.jobs.fit import fit
from graft.model import history
from graft.model.classifier import Classifier
from graft.progress import ProgressTask, no_progress
from graft.torch import finetune
from graft.training.plan import Plan

RECIPE = "epochs=2,batch=8,rate=0.0005,mixup=0.2,ema=0.9,blend=none"  # no blend: the epoch wins and is refitted
OPTIONS = {"backbone": "test_resnet", "recipe": RECIPE, "offline": True}
UPDATES = 2 * 3  # of the training by which all is chosen: two epochs of 24 images
STRATEGIES = ["tail:cut=0.5,views=2", "lp-ft", "full", "tail:cut=layer1,until=layer3", "tail:last=2"]


@pytest.fixture(autouse=True)
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each update, not once a minute."""
    monkeypatch.setattr(finetune, "SAVE_EVERY", 0.0)


def killed(photos: Path, weights: Path, output: Path, strategy: str, after: int, resume: bool) -> int:
    """Train in a process of its own, which is killed after so many updates; its exit code.

    A fork of a process that has imported everything and done nothing: where autograd has run, a fork may not run it.
    """
    work = (photos, weights, output, strategy, after, resume)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["graft.jobs.fit", "graft.torch.finetune"])
    process = context.Process(target=train_until, args=work)
    process.start()
    process.join(240)
    return process.exitcode or 0


def train_until(photos: Path, weights: Path, output: Path, strategy: str, after: int, resume: bool) -> None:
    """`fit` with a checkpoint after each update, until the process kills itself."""
    done = 0

    def watch(things: Iterable[Any], what: str | ProgressTask, _count: int) -> Iterable[Any]:
        nonlocal done
        for thing in things:
            if str(what).startswith("updates") and done == after:
                os.kill(os.getpid(), signal.SIGKILL)
            done += str(what).startswith("updates")
            yield thing

    finetune.SAVE_EVERY = 0.0
    fit(photos, output, strategy=strategy, weights=weights, resume=resume, watch=watch, **OPTIONS)


@pytest.fixture(scope="module")
def undisturbed(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Classifier]:
    """A tail that nothing came in between of."""
    folder = tmp_path_factory.mktemp("undisturbed") / "model"
    return folder, fit(photos, folder, strategy=STRATEGIES[0], weights=weights, **OPTIONS)


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(STRATEGIES[0], marks=[pytest.mark.fault(40), pytest.mark.slow]),
        *(pytest.param(each, marks=pytest.mark.slow) for each in STRATEGIES[1:]),
    ],
)
def test_killed_and_resumed_is_never_killed(strategy: str, photos: Path, weights: Path, tmp_path: Path) -> None:
    """Of the whole run the features are computed, of the others they are read: that must not matter either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
        _compare_runs(strategy, photos, weights, tmp_path)


def _compare_runs(strategy: str, photos: Path, weights: Path, tmp_path: Path) -> None:
    whole = fit(photos, tmp_path / "whole", strategy=strategy, weights=weights, **OPTIONS)
    broken = tmp_path / "broken"
    for after, resume in ((2, False), (2, True), (UPDATES - 3, True)):  # the last one in the refit, on all images
        assert killed(photos, weights, broken, strategy, after, resume) == -signal.SIGKILL
        assert not broken.exists()
        assert list((tmp_path / "broken.run").glob("checkpoint-*.pt"))
    resumed = fit(photos, broken, strategy=strategy, weights=weights, resume=True, **OPTIONS)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []
    assert resumed.card.temperature == whole.card.temperature
    assert curves(resumed.report) == curves(whole.report)
    assert not (tmp_path / "broken.run").exists()


def curves(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in epoch.items() if name != "seconds"} for epoch in report["training"]["history"]
    ]


@pytest.mark.slow
def test_a_run_is_not_mixed_up_with_another(photos: Path, weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    with pytest.raises(UsageError, match="nothing to resume"):
        fit(photos, output, strategy="tail", weights=weights, resume=True, **OPTIONS)
    assert killed(photos, weights, output, "tail:cut=0.5", 2, False) == -signal.SIGKILL
    with pytest.raises(
        OutputError, match=r"interrupted run is in .*model\.run: go on with --resume, or start again with --force"
    ):
        fit(photos, output, strategy="tail:cut=0.5", weights=weights, **OPTIONS)
    changed = {**OPTIONS, "recipe": RECIPE.replace("rate=0.0005", "rate=0.001")}
    with pytest.raises(UsageError, match=r"(?s)another one:.*recipe rate: was 0.0005, now 0.001"):
        fit(photos, output, strategy="tail:cut=0.5", weights=weights, resume=True, **changed)
    fewer = tmp_path / "fewer"
    shutil.copytree(photos, fewer)
    next(fewer.glob("*/*.jpg")).unlink()
    with pytest.raises(UsageError, match=r"(?s)another one:.*images: was"):
        fit(fewer, output, strategy="tail:cut=0.5", weights=weights, resume=True, **OPTIONS)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    photos: Path, weights: Path, tmp_path: Path, undisturbed: tuple[Path, Classifier]
) -> None:
    output = tmp_path / "model"
    assert killed(photos, weights, output, STRATEGIES[0], 5, False) == -signal.SIGKILL
    older, newest = sorted((tmp_path / "model.run").glob("checkpoint-*.pt"))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])  # as a full disk leaves it
    resumed = fit(photos, output, strategy=STRATEGIES[0], weights=weights, resume=True, **OPTIONS)
    assert same(resumed, undisturbed[1])
    assert any(
        "damaged" in each and older.stem.split("-")[1].lstrip("0") in each for each in resumed.report["troubles"]
    )


@pytest.mark.slow
def test_what_was_chosen_is_written_and_can_be_repeated(
    photos: Path, weights: Path, tmp_path: Path, undisturbed: tuple[Path, Classifier]
) -> None:
    folder, first = undisturbed
    card = json.loads((folder / "model.json").read_text())
    assert card["choices"] == {
        "strategy": STRATEGIES[0],
        "head": "",
        "recipe": RECIPE,
        "backbone": "test_resnet",
        "seed": 0,
        "weights": "",
        "task": "multiclass",
    }
    assert card["recipe"]["rate"] == 0.0005
    assert card["recipe"]["batch"] == 8
    again = fit(photos, tmp_path / "two", plan=Plan.read(folder / "model.json"), weights=weights, offline=True)
    assert first.card.cut == again.card.cut
    assert same(again, first)
    other = fit(photos, plan=Plan.read(folder), recipe="epochs=1,blend=none", seed=3, weights=weights, offline=True)
    assert other.card.recipe["epochs"] == 1
    assert (other.card.choices["strategy"], other.card.choices["seed"]) == (STRATEGIES[0], 3)
    with pytest.raises(ModelError, match="is no saved classifier"):
        fit(photos, plan=Plan.read(tmp_path / "nothing.json"))


@pytest.mark.slow
def test_what_was_cached_before_changes_nothing(
    photos: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple[Path, Classifier]
) -> None:
    """Another seed holds out other images: the cached activations of the two fixed views come in other batches."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    for seed in (3, 0):
        last = fit(photos, strategy=STRATEGIES[0], weights=weights, seed=seed, **OPTIONS)
    assert same(last, undisturbed[1])


def test_the_history_stays_with_the_classifier(undisturbed: tuple[Path, Classifier]) -> None:
    folder, trained = undisturbed
    rows = history.read(folder / "history.csv")
    assert [row.number for row in rows] == [1, 2]
    assert [row.loss for row in rows] == [row["loss"] for row in trained.report["training"]["history"]]
    assert no_progress([1], "", 1) == [1]
