"""--device: what is chosen is where networks run, and what cannot be is told before any work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from graft import device
from graft.cli import app
from graft.errors import UsageError
from graft.torch import engine


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    device.use(device.AUTO)


@pytest.mark.parametrize(("cuda", "mps", "want"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_a_gpu_where_there_is_one(cuda: bool, mps: bool, want: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert engine.device() == torch.device(want)


@pytest.mark.parametrize("name", ["cpu", "cuda", "mps"])
def test_what_is_named_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device.use(name)
    assert (device.current_device(), engine.device()) == (name, torch.device(name))


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_a_gpu_that_is_not_there_is_told_and_not_chosen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"finds no device '{name}' here. Leave the device out, or choose cpu"):
        device.use(name)
    assert device.current_device() == device.AUTO


def test_a_gpu_needs_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match="The device 'cuda' needs PyTorch, which is not installed"):
        device.use("cuda")


def test_an_exported_file_runs_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (tmp_path / "a.onnx").touch()
    with pytest.raises(UsageError, match="is an exported file, which runs on the CPU"):
        device.use("cuda", tmp_path / "a.onnx")
    device.use("cuda", tmp_path)
    assert device.current_device() == "cuda"


@pytest.mark.parametrize("words", ["fit {0} -o m", "predict {1} {0}", "embed {0} -o f.npz", "evaluate {1} {0}"])
def test_every_command_that_runs_a_network_takes_it(words: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").touch()
    asked = words.format(tmp_path, model).replace("-o ", f"-o {tmp_path}/").split()
    done = CliRunner().invoke(app.app, [*asked, "--device", "gpu"])
    assert (done.exit_code, done.stderr) == (2, "graft: A device is auto, cpu, cuda, mps. Got 'gpu'.\n")
