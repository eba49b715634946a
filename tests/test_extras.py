"""What is not installed is named in one line, with the command that brings it, before any work."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

import graft
from graft import extras
from graft.cli.options import report_errors
from graft.errors import UsageError
from graft.jobs import outputs
from graft.training.plan import Plan

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TRAIN = "pip install 'graft-vision[train]', or, without what only GPUs need, uv pip install --torch-backend cpu "
REST = f"installed: {TRAIN}'graft-vision[train]'."
NAMES = {"sklearn": "scikit-learn", "mlflow": "mlflow-skinny"}  # what a package is installed as


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine without this package: None is how Python notes that it is not to be had."""
    monkeypatch.setitem(sys.modules, request.param, None)


@pytest.mark.parametrize("package", extras.EXTRAS)
def test_each_package_stands_in_its_extra_and_not_among_what_graft_needs(package: str) -> None:
    name = NAMES.get(package, package)
    brought = [text.partition(">")[0] for text in PROJECT["optional-dependencies"][extras.EXTRAS[package]]]
    assert name in brought
    assert name not in [text.partition(">")[0] for text in PROJECT["dependencies"]]


def test_what_is_there_is_not_asked_for() -> None:
    for package in extras.EXTRAS:
        if find_spec(package):
            extras.require_package(package, "This")


@pytest.mark.parametrize("without", ["torch"], indirect=True)
@pytest.mark.parametrize("strategy", ["tail", "full:", "lora", "scratch", "two-phase"])
@pytest.mark.usefixtures("without")
def test_a_strategy_that_trains_needs_torch(strategy: str) -> None:
    with pytest.raises(UsageError) as caught:
        Plan(strategy).check()
    assert str(caught.value) == (
        f"The strategy {strategy.rstrip(':')!r} needs PyTorch, which is not installed: {TRAIN}'graft-vision[train]'."
    )


@pytest.mark.parametrize("without", ["torch"], indirect=True)
@pytest.mark.usefixtures("without")
def test_what_only_looks_does_not() -> None:
    for strategy in ("probe", "probe:head=ridge", "early-features"):
        Plan(strategy).check()
    assert outputs.choose_format(None, Path("a.onnx"), False, without_images=True) == "onnx"


@pytest.mark.parametrize("without", ["peft"], indirect=True)
@pytest.mark.usefixtures("without")
def test_lora_needs_peft_as_well_and_the_others_do_not() -> None:
    with pytest.raises(UsageError, match="The strategy 'lora' needs peft, which is not installed"):
        Plan("lora").check()
    Plan("norm").check()


@pytest.mark.parametrize("without", ["torch"], indirect=True)
@pytest.mark.usefixtures("without")
def test_an_export_to_torch_needs_it() -> None:
    with pytest.raises(UsageError, match="An export to torch needs PyTorch"):
        outputs.choose_format(None, Path("a.pt2"), False, without_images=True)


@pytest.mark.parametrize("without", ["sklearn"], indirect=True)
@pytest.mark.usefixtures("without")
def test_the_estimator_needs_scikit_learn() -> None:
    with pytest.raises(UsageError, match=r"graft.ImageClassifier needs scikit-learn, which is not installed"):
        _ = graft.ImageClassifier


def test_what_a_job_imports_and_is_not_there_is_one_line_too(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['httpx2'] = None; from graft.cli import app as cli; sys.argv[0] = 'graft'; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "collect", "list.csv", "-o", "photos"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        2,
        "graft: `graft collect` as it was asked for needs httpx2, which is not installed: "
        "pip install 'graft-vision[collect]'.\n",
    )


@pytest.mark.parametrize(("name", "said"), [("torch.nn", "PyTorch"), ("timm", "timm")])
def test_a_part_of_a_package_stands_for_it(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, report_errors("predict to a file"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err == f"graft: `graft predict` as it was asked for needs {said}, which is not {REST}\n"


def test_any_other_module_that_is_missing_is_a_fault_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError), report_errors("fit"):
        raise ModuleNotFoundError("No module named 'graft.nothing'", name="graft.nothing")
