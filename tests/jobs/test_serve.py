"""`graft serve`: a saved classifier over HTTP, as the documentation has it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from test_docs import DOCS, blocks

from graft.errors import UsageError
from graft.jobs.serve import export_to_cache
from graft.model.classifier import Classifier, load
from graft.progress import no_progress
from graft_runtime import contract


@pytest.fixture(scope="module")
def url(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real `graft serve model/`."""
    environment = os.environ | {"GRAFT_CACHE": str(tmp_path_factory.mktemp("cache"))}
    command = [sys.executable, "-m", "graft", "serve", str(model), "--port", "0", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment) as it:
        assert it.stdout
        line = it.stdout.readline()
        assert f"{model} answers at http://127.0.0.1:" in line
        yield line.split()[-1].rstrip("/")
        it.terminate()
        assert it.wait(40) == 0


@pytest.mark.slow
def test_the_server_answers_as_the_classifier(url: str, model: Path, photos: Path) -> None:
    paths = sorted(photos.glob("*/*"))[::5]
    want = load(model).predict(paths)
    for path, said in zip(paths, want, strict=True):
        got = httpx.post(f"{url}/v1/predict", content=path.read_bytes(), timeout=30).json()["predictions"][0]
        assert (got["label"], got["unknown"]) == (said.label, said.unknown)
        assert got["probabilities"] == pytest.approx(said.probabilities, abs=1e-5)


def test_the_page_is_there_with_all_that_it_names(url: str) -> None:
    page = httpx.get(url).text
    names = set(re.findall(r'(?:src|href)="([\w./-]+)"', page)) | {"answerer.js"}
    assert len(names) > 2
    for name in names:
        found = httpx.get(f"{url}/{name}")
        assert found.status_code == 200, name
        assert "default-src 'none'" in found.headers["content-security-policy"]


def test_the_examples_of_the_documentation_run(
    url: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(next(photos.glob("*/*.jpg")), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    found = [(kind, text.replace("http://127.0.0.1:8000", url)) for kind, text in blocks(DOCS / "deploy.md")]
    (code,) = [text for kind, text in found if kind == "python"]
    exec(compile(code, "deploy.md", "exec"), {})
    label = capsys.readouterr().out.strip()
    assert label in [*httpx.get(f"{url}/v1/model").json()["classes"], ""]  # of an unknown image
    (script,) = [text for kind, text in found if kind == "js"]
    if node := shutil.which("node"):
        words = [node, "--input-type=module", "--eval", script]
        assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == label
    lines = [line for kind, text in found if kind == "sh" for line in text.splitlines() if line.startswith("curl")]
    assert len(lines) == 2
    for line in lines if shutil.which("curl") else []:
        told = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True).stdout
        assert f'"label":"{label}"' in told


@pytest.mark.slow
def test_a_classifier_is_exported_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    first = export_to_cache(model, None, no_progress)
    before = first.stat().st_mtime_ns
    assert export_to_cache(model, None, no_progress) == first
    assert first.stat().st_mtime_ns == before
    assert first.stem == model.name
    assert export_to_cache(first, None, no_progress) == first
    with pytest.raises(UsageError, match="has its evidence inside"):
        export_to_cache(first, "photos", no_progress)


# --- what lies in the cache -------------------------------------------------------------------------------------------


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


ODD: dict[str, Callable[[Path], Any]] = {
    "sound": lambda path: None,
    "flipped": lambda path: path.write_bytes(path.read_bytes()[::-1]),
    "empty": lambda path: path.write_bytes(b""),
    "pipe": pipe,
    "folder": folder,
}


@pytest.mark.parametrize("odd", ODD)
def test_an_export_in_the_cache_is_made_again_only_where_it_is_of_no_use(
    odd: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path))
    made = list[Path]()

    def export(classifier: Classifier, path: Path, **_: Any) -> None:
        path.write_bytes(contract.append_description(b"", classifier.card, contract.Export()))
        made.append(path)

    monkeypatch.setattr("graft.jobs.export.export.export", export)
    path = export_to_cache(model, None, no_progress)
    ODD[odd](path)
    again = export_to_cache(model, None, no_progress)
    assert (again, len(made)) == (path, 1 if odd == "sound" else 2)
    assert contract.read_description(again.read_bytes())[0] == load(model).card


@pytest.mark.slow
def test_a_file_is_served_without_torch() -> None:
    code = (
        "import sys; from graft.jobs import serve; from graft.progress import no_progress; from pathlib import Path;"
        f"serve.export_to_cache(Path({str(Path(__file__))!r}), None, no_progress);"
        "print('HEAVY', 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "HEAVY False"
