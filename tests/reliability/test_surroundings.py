"""The clock, the language of the system, signals, and files of strangers: nothing of it changes what graft does."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from programs import NETWORK, QUICK, contents, graft, started

from graft.torch.checkpoint import TrainingRun

SLOW = """
from graft.features.store import Store
import time
add = Store.add
def slow(self, keys, rows):
    add(self, keys, rows)
    print("added", flush=True, file=sys.stderr)
    time.sleep(20)
import sys
Store.add = slow
"""
TENSORS = "model.safetensors", "memory.safetensors"


@pytest.mark.fault(41)
def test_a_clock_that_jumps_changes_nothing(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour back at every other look; images and cache from the year 2100."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    honest, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: honest() - 3600 * (next(looks) % 2))
    root = shutil.copytree(photos, tmp_path / "p")
    for run in ("computed", "cached"):
        done = graft("fit", root, "-o", tmp_path / run, *NETWORK, *QUICK)
        assert done.exit_code == 0, done.stderr
        for path in [*root.rglob("*"), *(tmp_path / "cache").rglob("*")]:
            os.utime(path, (4102444800, 4102444800))
        assert [contents(tmp_path / run)[name] for name in TENSORS] == [contents(model)[name] for name in TENSORS]


@pytest.mark.slow
@pytest.mark.fault(41)
def test_the_language_of_the_system_changes_nothing(photos: Path, model: Path, tmp_path: Path) -> None:
    plain = {
        **os.environ,
        "LC_ALL": "tr_TR.UTF-8",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "",
    }
    with started("", "fit", photos, "-o", tmp_path / "m", *NETWORK, *QUICK, env=plain) as program:
        _, told = program.communicate(timeout=120)
    assert program.returncode == 0, told
    assert [contents(tmp_path / "m")[name] for name in TENSORS] == [contents(model)[name] for name in TENSORS]


@pytest.mark.slow
@pytest.mark.fault(40)
@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGINT, signal.SIGINT], 130), ([signal.SIGTERM], -signal.SIGTERM)],
    ids=["Ctrl-C twice", "SIGTERM"],
)
def test_a_signal_ends_it_at_once_and_the_same_command_gives_the_same(
    photos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: list[int], code: int
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    words = ["fit", photos, "-o", tmp_path / "m", *NETWORK, *QUICK]
    with started(SLOW, *words) as program:
        assert program.stderr
        assert program.stderr.readline() == "added\n"
        began = time.monotonic()
        for each in signals:
            program.send_signal(each)
        _, told = program.communicate(timeout=60)
        assert time.monotonic() - began < 10
    assert (program.returncode, "Traceback" in told) == (code, False), told
    assert not (tmp_path / "m").exists()
    assert graft(*words).exit_code == 0
    assert contents(tmp_path / "m")[TENSORS[0]] == contents(model)[TENSORS[0]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "m"]


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, trace: Path) -> None:
        self._trace = str(trace)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._trace,)


@pytest.mark.fault(32)
def test_no_reader_runs_a_pickle(photos: Path, model: Path, tmp_path: Path) -> None:
    trace, evil = tmp_path / "ran", tmp_path / "evil.pt"
    torch.save({"evil": Runs(trace)}, evil)
    torch.load(evil, weights_only=False)
    trace.rmdir()  # it would have been there
    photo, folder = photos / "disc/00.png", shutil.copytree(model, tmp_path / "folder")
    shutil.copy(evil, folder / "model.safetensors")
    shutil.copy(evil, tmp_path / "evil.onnx")
    shutil.copy(evil, tmp_path / "evil.npz")
    for code, words in (
        (5, ["predict", evil, photo]),
        (5, ["predict", tmp_path / "evil.onnx", photo]),
        (5, ["predict", folder, photo]),
        (5, ["update", folder, "-o", tmp_path / "new", "--rename", "disc=dot"]),
        (4, ["fit", photos, "-o", tmp_path / "new", "--weights", evil, "--backbone", "test_resnet"]),
        (3, ["fit", tmp_path / "evil.npz", "-o", tmp_path / "new"]),
    ):
        done = graft(*words)
        assert (done.exit_code, done.stderr.count("\n")) == (code, 1), (words, done.output)
        assert not trace.exists(), words


@pytest.mark.fault(32)
def test_a_checkpoint_that_somebody_exchanged_is_not_run(tmp_path: Path) -> None:
    trace, place = tmp_path / "ran", tmp_path / "m.run"
    with TrainingRun.begin(place, {}) as run:
        assert run.save(1, {"numbers": torch.ones(3)})
        (path,) = place.glob("checkpoint-*.pt")
        torch.save({"state": Runs(trace)}, path)
        with pytest.raises(Exception, match="damaged"):
            run.load_latest()
    assert not trace.exists()
