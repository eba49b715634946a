"""What cannot be is told before PyTorch is loaded, whatever the command; the lists kept for that are the real ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from graft.backbones import catalog, weights
from graft.cli import preflight
from graft.heads import designs
from graft.jobs import outputs, runs
from graft.jobs.export import export
from graft.model import storage
from graft.torch import checkpoint, head
from graft.training import plan

# The command line in one process, many times over; torch must not come, and each must end with its exit code.
ASK = """
import json, sys
from typer.testing import CliRunner
from graft.cli import app as cli
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(cli.app, words)
    heavy = [name for name in ("torch", "timm", "sklearn", "onnxruntime") if name in sys.modules]
    print(json.dumps([done.exit_code, done.stderr.strip(), heavy]), flush=True)
    if heavy:
        break
"""

WRONG: list[tuple[str, int, str]] = [
    ("fit nowhere/ -o m", 3, "There is no folder or file nowhere"),
    ("fit photos -o m --against nowhere", 3, "There is no folder or file nowhere"),
    ("fit t.csv -o m --columns fil=a", 2, "Did you mean 'file'"),
    ("fit t.csv -o m --columns label=species", 3, "has no column 'species'"),
    ("fit photos -o m -s tial", 2, "Did you mean 'tail'"),
    ("fit photos -o m -s tail:cutt=0.5", 2, "Did you mean 'cut'"),
    ("fit photos -o m -s probe:head=rigde", 2, "Did you mean 'ridge'"),
    ("fit photos -o m -s probe:layers=lsat", 2, "Did you mean 'last'"),
    ("fit photos -o m -s tail --head mpl", 2, "Did you mean 'mlp'"),
    ("fit photos -o m -s tail --head mlp:hiden=3", 2, "Did you mean 'hidden'"),
    ("fit photos -o m --head mlp", 2, "--head is for strategies that train"),
    ("fit photos -o m -s tail -r epoch=3", 2, "Did you mean 'epochs'"),
    ("fit photos -o m -s tail -r optimizer=adm", 2, "Did you mean 'adam'"),
    ("fit photos -o m -s full -r augment=sttrong", 2, "Did you mean 'strong'"),
    ("fit photos -o m -s tail -r batch=atuo", 2, "Did you mean 'auto'"),
    ("fit photos -o m -s tail -r loss=kl,teacher=nobody", 2, "There is no teacher 'nobody'"),
    ("fit photos -o m --backbone resnet500", 2, "Did you mean 'resnet50"),
    ("fit photos -o m --weights nowhere.pth", 4, "There is no weights file nowhere.pth"),
    ("fit photos -o m --log tensorbord -s tail", 2, "Did you mean 'tensorboard'"),
    ("fit photos -o m --from nowhere.json", 5, "nowhere.json is no saved classifier"),
    ("fit photos -o m --resume", 2, "--resume is for strategies that train"),
    ("fit photos -o t.csv/m", 6, "t.csv is no folder"),
    ("fit photos -o t.csv", 6, "is a file"),
    ("fit photos -o saved", 6, "already holds a classifier"),
    ("predict nowhere photos", 5, "nowhere is no saved classifier: there is no such folder"),
    ("predict model photos", 5, "there is no such folder"),
    ("predict resnet500 photos", 5, "Did you mean 'resnet50"),
    ("predict photos photos", 5, "has no model.json"),
    ("predict saved nowhere.jpg", 3, "There is no file nowhere.jpg"),
    ("predict saved photos --coverage 90", 2, "such as 0.9"),
    ("predict saved photos --unknown 5", 2, "lies from 0 to 1"),
    ("predict saved photos -o no/a.csv", 6, "There is no folder no"),
    ("evaluate nowhere photos", 5, "there is no such folder"),
    ("evaluate saved nowhere", 3, "There is no folder or file nowhere"),
    ("evaluate saved t.csv --columns label=species", 3, "has no column 'species'"),
    ("explain saved nowhere.jpg -o why", 3, "There is no file nowhere.jpg"),
    ("explain saved photos -o t.csv", 6, "t.csv is no folder"),
    ("compare-runs saved nowhere", 5, "there is no such folder"),
    ("report nowhere", 5, "there is no such folder"),
    ("report saved -o no/a.html", 6, "There is no folder no"),
    ("embed nowhere -o f.npz", 3, "There is no folder or file nowhere"),
    ("embed photos -o no/f.npz", 6, "There is no folder no"),
    ("embed photos -o f.npz --backbone resnet500", 2, "There is no network 'resnet500'"),
    ("embed photos -o f.npz --weights no.pth", 4, "There is no weights file"),
    ("check nowhere", 3, "There is no folder or file nowhere"),
    ("check photos -o no/c.html", 6, "There is no folder no"),
    ("check photos --fix t.csv", 6, "t.csv is there already"),
    ("check photos --backbone resnet500", 2, "There is no network 'resnet500'"),
    ("stages resnet500", 2, "There is no network 'resnet500'"),
    ("export saved a.onx -o a.onx", 2, ""),
    ("export saved -o a.onx", 2, "A file for onnx ends in .onnx"),
    ("export saved -o a.onnx --to onx", 2, "Did you mean 'onnx'"),
    ("export saved -o no/a.onnx", 6, "There is no folder no"),
    ("export saved -o a.onnx --check nowhere", 3, "There is no folder or file nowhere"),
    ("export saved -o a.onnx --evidence nowhere", 3, "There is no folder or file nowhere"),
    ("export nowhere -o a.onnx", 5, "there is no such folder"),
    ("serve nowhere", 5, "there is no such folder"),
    ("serve saved --evidence nowhere", 3, "There is no folder or file nowhere"),
    ("update nowhere -o new", 5, "there is no such folder"),
    ("update saved --add nowhere", 3, "There is no folder or file nowhere"),
    ("update saved --rename ab", 2, "--rename has the form old=new"),
    ("update saved -o t.csv", 6, "is a file"),
    ("collect nowhere.csv -o new", 3, "nowhere.csv"),
]


def asked(place: Path, words: Sequence[Sequence[str]]) -> list[tuple[int, str, list[str]]]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(words)], capture_output=True, text=True, check=False, cwd=place
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_what_cannot_be_is_told_before_anything_heavy_is_loaded(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text("file,label\nphotos/cat/1.png,cat\nphotos/dog/1.png,dog\n")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / preflight.CARD).write_text("{}")
    found = asked(tmp_path, [line.split() for line, _, _ in WRONG])
    for (line, code, want), (got, said, heavy) in zip(WRONG, found, strict=False):
        assert (line, got, heavy, want in said) == (line, code, [], True), said
    assert len(found) == len(WRONG)


def test_former_names_and_tags_may_be_named() -> None:
    for name in ("resnet50", "resnet50.a1_in1k", "tv_resnet50", *catalog.ALIASES):
        preflight.check_backbone(name)
        preflight.check_model(name)


def test_what_is_written_down_twice_is_the_same() -> None:
    assert preflight.CARD == storage.CARD
    assert runs.MLFLOW == checkpoint.MLFLOW
    assert (plan.DEFAULT_BACKBONE, plan.RANDOM) == (catalog.DEFAULT, weights.RANDOM)
    assert tuple(export.OPENERS) == outputs.EXPORT_FORMATS
    assert tuple(head.ACTIVATIONS) == designs.ACTIVATIONS
    assert tuple(head.INITIALISERS) == designs.INITIALISERS
