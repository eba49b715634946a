"""What `pip install graft-runtime` brings: a program that answers, without PyTorch, and how large it all is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import exported
import numpy as np
import pytest
from PIL import Image

ROOM = Path(__file__).parents[1]
MOST = 170  # MB: ONNX Runtime and numpy are 130 of them


@pytest.mark.slow
def test_a_fresh_installation_answers_without_pytorch(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        pytest.skip("needs uv beside Python, as `make setup` puts it there")
    shutil.copytree(ROOM, tmp_path / "runtime", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    place, python = tmp_path / "fresh", tmp_path / "fresh/bin/python"
    bounds, dist = ["-c", ROOM.parent / "constraints.txt"], tmp_path / "dist"
    commands = (
        ["build", "-q", "--wheel", "--out-dir", dist, tmp_path / "runtime"],
        ["venv", "-q", "--python", sys.executable, place],
        ["pip", "install", "-q", "--python", python, *bounds, "--find-links", dist, "graft-runtime"],
    )
    for words in commands:
        done = subprocess.run([uv, *words], capture_output=True, text=True, check=False)
        if done.returncode and "error sending request" in done.stderr:
            pytest.skip("needs the package registry")
        assert done.returncode == 0, done.stderr
    (tmp_path / "colours.onnx").write_bytes(exported.file())
    Image.fromarray(np.full((9, 9, 3), (200, 10, 10), np.uint8)).save(tmp_path / "red.png")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [place / "bin/graft-runtime", "predict", tmp_path / "colours.onnx", tmp_path / "red.png"]
    done = subprocess.run(words, env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "red"
    assert not list(place.glob("lib/*/site-packages/torch*"))
    (page,) = place.glob("lib/*/site-packages/graft_runtime/page")
    names = {file.name for file in (ROOM / "src/graft_runtime/page").iterdir()}
    assert {file.name for file in page.iterdir()} == names > {"index.html", "page.js", "style.css"}
    size = sum(file.stat().st_size for file in place.glob("lib/*/site-packages/**/*") if file.is_file())
    assert size < MOST * 1e6, f"{size / 1e6:.0f} MB"
