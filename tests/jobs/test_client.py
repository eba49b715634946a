"""The client of docs/client.md, in JavaScript, gives the answers of the classifier."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from graft.jobs.export import web
from graft.jobs.export.export import export
from graft.model.classifier import load
from graft_runtime.image import decode

PAGE = Path(__file__).parents[2] / "docs/client.md"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package that the example needs: that of NODE_PATH, or installed anew."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node:
        pytest.skip("needs Node, which is not installed")
    given = Path(os.environ.get("NODE_PATH") or "nowhere")
    if (given / "onnxruntime-web").is_dir():
        return given
    folder = tmp_path_factory.mktemp("npm")
    if not npm:
        pytest.skip("needs npm, which is not installed, or NODE_PATH with onnxruntime-web")
    shutil.copytree(web.HERE / "npm", folder, dirs_exist_ok=True)  # the one pin that `graft export --to web` has too
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    if done.returncode:
        pytest.skip(f"{web.PACKAGE} cannot be had from the npm registry: {done.stderr.strip()[-200:]}")
    return folder / "node_modules"


@pytest.mark.slow
def test_the_javascript_of_the_page_gives_the_answers_of_the_classifier(
    modules: Path, model: Path, photos: Path, tmp_path: Path
) -> None:
    export(model, tmp_path / "shapes.onnx")
    (program,) = re.findall(r"^```js\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "client.mjs").write_text(program, encoding="utf-8")
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "contract.js").write_bytes((web.PAGE / "contract.js").read_bytes())
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    classifier = load(model)
    strange = np.random.default_rng(0).integers(0, 256, (1, 400, 3), dtype=np.uint8)
    for image in [
        decode(next(photos.glob("*/00.png")).read_bytes()),
        decode(next(photos.glob("*/01.jpg")).read_bytes()),
        strange,
    ]:
        (tmp_path / "pixels.rgb").write_bytes(image.tobytes())
        words = ["node", "client.mjs", "shapes.onnx", "pixels.rgb", *map(str, image.shape[:2])]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said, want = json.loads(done.stdout), classifier.predict(image)[0]
        assert said["label"] == want.label
        assert said["probabilities"] == pytest.approx(want.probabilities, abs=1e-4)
