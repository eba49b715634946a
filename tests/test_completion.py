"""Completion as a shell asks for it: the real program, its candidates, and nothing heavy imported for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_architecture import HEAVY

from graft.backbones import catalog
from graft.training.strategies import STRATEGIES

GRAFT = str(Path(sys.executable).with_name("graft"))
CASES = [
    ("graft fit photos/ --strategy t", ["tail", "two-phase"]),
    ("graft fit photos/ -s ", list(STRATEGIES)),
    ("graft fit photos/ --head ", ["linear", "mlp", "conv"]),
    ("graft fit photos/ --backbone tf_efficientnet_lite", [f"tf_efficientnet_lite{at}" for at in range(5)]),
    ("graft embed photos/ --backbone resnet101c", ["resnet101c"]),
    ("graft stages convnextv2_at", ["convnextv2_atto"]),
    ("graft export model/ --to o", ["onnx", "openvino"]),
    ("graft predict model/ photo.jpg --device c", ["cpu", "cuda"]),
    ("graft e", ["embed", "evaluate", "explain", "export"]),
    ("graft fit --back", ["--backbone"]),
    ("graft fit pho", []),  # the shell completes files itself
]


def complete(line: str, program: list[str], shell: str = "bash") -> str:
    """What the program answers to a shell that completes the last word of a line."""
    words = line.split(" ")
    asked = {"_GRAFT_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    asked["_TYPER_COMPLETE_ARGS"] = line
    done = subprocess.run(program, env=os.environ | asked, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize(("line", "want"), CASES)
def test_candidates_in_bash(line: str, want: list[str]) -> None:
    assert complete(line, [GRAFT]).split() == want


def test_candidates_in_zsh() -> None:
    assert complete("graft fit --strategy t", [GRAFT], "zsh") == '_arguments \'*: :(("tail"\n"two-phase"))\'\n'


def test_every_network_is_a_candidate() -> None:
    found = complete("graft fit --backbone ", [GRAFT]).split()
    assert found == [*catalog.ALIASES, *catalog.list_names()]


@pytest.mark.parametrize("line", [line for line, _ in CASES])
def test_nothing_heavy_is_imported_for_it(line: str) -> None:
    code = (
        "import atexit, sys; from graft.cli import app; sys.argv = ['graft']\n"
        f"atexit.register(lambda: print('loaded', *(sys.modules.keys() & set({HEAVY}))))\n"
        "app.main()"
    )
    assert complete(line, [sys.executable, "-c", code]).splitlines()[-1] == "loaded"


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_the_script_for_bash_completes(tmp_path: Path) -> None:
    """As a person has it: installed into a home of its own, read by bash, and asked."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/graft").symlink_to(GRAFT)
    home = os.environ | {"HOME": str(tmp_path), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    script = """
        graft --install-completion > installed.txt
        source .bashrc
        COMP_WORDS=(graft fit photos/ --strategy t); COMP_CWORD=4
        _graft_completion graft
        echo "${COMPREPLY[@]}"
    """
    bash = ["bash", "--norc", "-c", script]
    done = subprocess.run(bash, cwd=tmp_path, env=home, capture_output=True, text=True, check=False)
    assert done.stdout == "tail two-phase\n", done.stderr
    assert "bash completion installed in" in (tmp_path / "installed.txt").read_text()
