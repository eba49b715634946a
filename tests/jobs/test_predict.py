"""Images to answers on the command line and in a CSV file, which must never replace a file of the user's."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner, Result

import graft_runtime
from graft.cli import app
from graft.errors import DataError, ModelError, OutputError
from graft.jobs.export.export import export
from graft.jobs.predict import predict, write
from graft.model.classifier import load
from graft_runtime.card import Card
from graft_runtime.decide import Answer
from graft_runtime.prediction import Prediction
from graft_runtime.table import COLUMNS, PredictOptions, join_labels


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_command_line_and_python_and_the_classifier_agree(model: Path, photos: Path) -> None:
    want = [each.as_dict() for each in load(model).predict(sorted((photos / "disc").iterdir()))]
    assert [each.as_dict() for each in predict(model, [photos / "disc"])] == want
    done = graft("predict", model, photos / "disc", "--json", "-q")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == want
    lines = graft("predict", model, photos / "disc", "-q").stdout.splitlines()
    assert [line.split()[-1] for line in lines] == [each["image"] for each in want]
    assert [line.split()[1] for line in lines] == [each["label"] for each in want]


def test_a_folder_stands_for_its_images_and_files_come_in_the_order_given(model: Path, photos: Path) -> None:
    last, first = photos / "stripes" / "03.jpg", photos / "disc" / "00.png"
    found = predict(model, [last, photos, first])
    assert len(found) == 38
    assert (found[0].image, found[-1].image) == (str(last), str(first))
    assert [each.image for each in found[1:-1]] == sorted(each.image for each in found[1:-1])


def test_a_folder_named_like_an_image_is_a_folder(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "all" / "trip.jpg").mkdir(parents=True)
    shutil.copy(photos / "disc" / "00.png", tmp_path / "all" / "trip.jpg")
    assert [(each.label, each.fault) for each in predict(model, [tmp_path / "all"])] == [("disc", "")]


def test_what_is_not_there_is_told_before_any_work(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no file .*nowhere\.jpg"):
        predict(model, [tmp_path / "nowhere.jpg"])
    (tmp_path / "empty").mkdir()
    done = graft("predict", model, tmp_path / "empty")
    assert done.exit_code == 3
    assert "holds no images" in done.stderr
    with pytest.raises(ModelError, match="is no saved classifier"):
        predict(tmp_path / "empty", [])


def test_faults_alone_exit_with_3_and_with_an_answer_among_them_0(model: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no")
    done = graft("predict", model, tmp_path / "bad.jpg")
    assert done.exit_code == 3
    assert "not judged, not an image" in done.stdout
    assert graft("predict", model, tmp_path / "bad.jpg", photos / "disc" / "00.png").exit_code == 0


def test_the_csv_says_what_the_json_says(model: Path, photos: Path, tmp_path: Path) -> None:
    odd = tmp_path / '=2+5 日本, "x".png'
    shutil.copy(photos / "frame" / "00.png", odd)
    (tmp_path / "bad.jpg").write_bytes(b"")
    done = graft("predict", model, odd, tmp_path / "bad.jpg", "--csv", tmp_path / "answers.csv", "-q")
    assert done.exit_code == 0
    assert "2 answers written" in done.stdout
    assert "bad.jpg: empty file" in done.stdout
    want = predict(model, [odd])[0]
    good, bad = rows(tmp_path / "answers.csv")
    assert list(good) == [*COLUMNS, *(f"probability of {name}" for name in ("disc", "frame", "stripes"))]
    assert good["image"] == str(odd)
    assert good["label"] == "frame"
    assert float(good["probability"]) == pytest.approx(want.probability, abs=1e-6)
    assert sum(float(good[f"probability of {name}"]) for name in ("disc", "frame", "stripes")) == pytest.approx(1)
    assert (bad["label"], bad["fault"], bad["unknown"], bad["probability of disc"]) == ("", "empty file", "", "")


class Sage:
    """Answers whatever it was told to, in blocks of three."""

    identity = "sage"

    def __init__(self, said: list[Prediction], classes: tuple[str, ...]) -> None:
        self.said, self.classes = said, classes
        self.card = Card(classes, {}, {}, {}, "probe", 1.0)

    def predict_blocks(
        self, images: Any, *, start: int = 0, coverage: float | None = None, unknown: float = 0.05
    ) -> Iterator[list[Prediction]]:
        return (self.said[at : at + 3] for at in range(start, len(images), 3))


def written(
    said: list[Prediction], classes: tuple[str, ...], path: Path, force: bool = False, top: int = 0, **asked: float
) -> None:
    """The table of these answers."""
    images = [path.parent / f"{number}.png" for number in range(len(said))]
    for image in images:
        image.touch()
    write(Sage(said, classes), images, path, PredictOptions(top=top, **asked), force=force)


@pytest.mark.fault(23)
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path, start: str) -> None:
    name = f"{start}cmd|' /C calc'!A0"
    answer = Answer(name, 0.75, {name: 0.75, "b": 0.25}, (name,))
    written([Prediction(f"{start}1.png", answer)], (name, "b"), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell.startswith(start)] == []
    assert cells.count("'" + join_labels([name])) == 1
    assert f"'{start}1.png" in cells


CHANCES = {"c": 0.1, "a": 0.9, "b": 0.6}
SAID = [Prediction(f"{len(labels)}.png", Answer("a", 0.9, CHANCES, labels)) for labels in ((), ("a",), ("a", "b"))]
SAID.append(Prediction('=\n"3".png', None, "not an image"))


def test_several_labels_are_joined_in_the_csv(tmp_path: Path) -> None:
    written(SAID, tuple(CHANCES), tmp_path / "a.csv")
    assert [(each["image"], each["label"]) for each in rows(tmp_path / "a.csv")] == [
        *(("0.png", ""), ("1.png", "a"), ("2.png", "a|b"), ('\'=\n"3".png', ""))
    ]


def test_of_many_classes_the_likeliest_are_enough(tmp_path: Path) -> None:
    written(SAID, tuple(CHANCES), tmp_path / "a.csv", top=2)
    first, *_, last = rows(tmp_path / "a.csv")
    assert list(first)[5:] == ["class 1", "probability 1", "class 2", "probability 2"]
    assert list(first.values())[5:] == ["a", "0.9", "b", "0.6"]
    assert list(last.values())[3:] == ["not an image", "", "", "", "", ""]
    written(SAID, tuple(CHANCES), tmp_path / "b.csv", top=9)
    assert len(rows(tmp_path / "b.csv")[0]) == 5 + 2 * 3


@pytest.mark.parametrize("top", [0, 2])
def test_parquet_holds_what_the_csv_holds_with_types(tmp_path: Path, top: int) -> None:
    for name in ("a.csv", "a.parquet"):
        written(SAID, tuple(CHANCES), tmp_path / name, top=top)
    table = parquet.read_table(tmp_path / "a.parquet")
    assert {str(kind) for kind in table.schema.types} == {"string", "double", "bool"}
    plain = [
        {
            name: "" if cell is None else str(cell).lower() if name == "unknown" else str(cell)
            for name, cell in row.items()
        }
        for row in table.to_pylist()
    ]
    want = rows(tmp_path / "a.csv")
    want[-1]["image"] = want[-1]["image"][1:]  # a formula is harmless in Parquet
    assert plain == want
    assert table["probability"].to_pylist() == [0.9, 0.9, 0.9, 0.0]
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.suffix != ".png") == [".csv", ".parquet"]


def test_parquet_is_written_in_groups_that_find_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.jobs.predict.MAX_CELLS", 15)
    chances = CHANCES | {"d": 0.2}
    said = [Prediction(f"{number}.png", Answer("a", 0.9, chances, ("a",))) for number in range(12)]
    written(said, tuple(chances), tmp_path / "a.parquet")
    found = parquet.ParquetFile(tmp_path / "a.parquet")
    assert found.metadata.num_row_groups == 12
    assert found.read()["image"].to_pylist() == [each.image for each in said]


def test_parquet_holds_sets_of_thousands_of_classes_and_no_name_twice(tmp_path: Path) -> None:
    names = ("probability of label", "label", *(f"{number:05} of a species with a long name" for number in range(5000)))
    said = [Prediction("0.png", Answer("label", 1.0, dict.fromkeys(names, 0.5), ("label",), names))]
    (tmp_path / "0.png").touch()
    write(Sage(said, names), [tmp_path / "0.png"], tmp_path / "a.parquet", PredictOptions(coverage=0.9))
    found = parquet.read_table(tmp_path / "a.parquet")
    assert found["set"].to_pylist() == ["|".join(names)]
    assert found.column_names[6:8] == ["probability of probability of label", "probability of label"]
    assert len(set(found.column_names)) == 6 + len(names)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("top", [0, 2])
def test_no_class_can_be_called_like_a_word_of_the_programs_own(tmp_path: Path, name: str, top: int) -> None:
    names = (*COLUMNS, "set", "class 1", "probability 1", "a|b", "a", "b", "=1", "'=1")
    each = dict.fromkeys(names, 1 / len(names))
    said = [Prediction(f"{at}.png", Answer(own, 0.5, each, (own,), (own,))) for at, own in enumerate(names)]
    said += [Prediction("u.png", Answer("unknown", 0.5, each, (), ("a", "b"), unknown=True))]
    written(said, names, tmp_path / name, top=top, coverage=0.9)
    table = parquet.read_table(tmp_path / name).to_pylist() if name == "a.parquet" else rows(tmp_path / name)
    assert len(table[0]) == len(COLUMNS) + 1 + (2 * top or len(names)), "each column has a name of its own"
    labels = [row["label"] for row in table]
    assert len(set(labels)) == len(labels)
    assert (labels[-1], str(table[-1]["unknown"]).lower()) == ("", "true")
    assert {str(row["unknown"]).lower() for row in table[:-1]} == {"false"}
    assert table[-1]["set"] == "a|b" != table[names.index("a|b")]["set"]


def test_half_a_parquet_file_of_a_run_that_was_killed_goes(tmp_path: Path) -> None:
    half, others = tmp_path / ".a.parquet.0123abcd", [tmp_path / ".b.parquet.0123abcd", tmp_path / ".a.parquet.mine"]
    for path in (half, *others):
        path.write_text("half")
    written(SAID, tuple(CHANCES), tmp_path / "a.parquet")
    assert (half.exists(), [path.exists() for path in others]) == (False, [True, True])


@pytest.mark.parametrize("name", ["a.csv", pytest.param("a.parquet", marks=pytest.mark.slow)])
def test_a_table_is_replaced_only_with_force_and_only_if_graft_wrote_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for count in (1, 2):
        written(SAID[:count], tuple(CHANCES), path, force=True)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="is there already"):
        written(SAID, tuple(CHANCES), path)
    assert path.read_bytes() == before
    for mine in ("photo.jpg", f"mine{path.suffix}"):
        (tmp_path / mine).write_text("mine")
        with pytest.raises(OutputError, match="not even --force"):
            written(SAID, tuple(CHANCES), tmp_path / mine, force=True)
        assert (tmp_path / mine).read_text() == "mine"


KILLED = """
import os, signal, sys
from graft_runtime import journal
write, blocks = journal._write, []
def half(file, data):
    blocks.append(1)
    if len(blocks) == 6:  # half of the second block of rows
        write(file, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(file, data)
journal._write = half
from graft.cli import app as cli
cli.main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("a.csv", marks=pytest.mark.fault(40)), pytest.param("a.parquet", marks=pytest.mark.slow)]
)
def test_killed_while_it_writes_and_resumed_is_never_killed(
    model: Path, photos: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos/disc/05.jpg").write_bytes(b"broken")
    whole, words = tmp_path / f"whole-{name}", ["predict", model, tmp_path / "photos", "--coverage", "0.9", "-q"]
    assert graft(*words, "-o", whole).exit_code == 0
    out = tmp_path / "cut" / name
    out.parent.mkdir()
    command = [sys.executable, "-c", KILLED, *map(str, words), "-o", str(out)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    again = graft(*words, "-o", out)
    assert again.exit_code == 6
    assert "--resume to go on with it, or --force to start anew" in again.stderr
    done = graft(*words, "-o", out, "--resume")
    assert done.exit_code == 0, done.stderr
    assert f"36 answers written to {out}, 9 of them before it was stopped" in done.stdout
    assert out.read_bytes() == whole.read_bytes()
    assert list(out.parent.iterdir()) == [out]


def test_what_belongs_to_a_file_needs_one(model: Path, photos: Path) -> None:
    for words in (["--resume"], ["--top", "3"]):
        done = graft("predict", model, photos, *words)
        assert done.exit_code == 2
        assert "name one with --output" in done.stderr


@pytest.mark.slow
def test_an_exported_file_answers_in_place_of_the_folder(model: Path, photos: Path, tmp_path: Path) -> None:
    export(model, tmp_path / "a.onnx")
    want = [each.as_dict() for each in graft_runtime.load(tmp_path / "a.onnx").predict(sorted(photos.glob("disc/*")))]
    assert [each.as_dict() for each in predict(tmp_path / "a.onnx", [photos / "disc"])] == want
    code = (
        "import sys; from graft.cli import app as cli\ntry: cli.main()\nexcept SystemExit: pass\n"
        "print('HEAVY', [name for name in ('torch', 'timm', 'sklearn') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, "predict", tmp_path / "a.onnx", photos / "disc", "-o", tmp_path / "a.csv"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert [each["label"] for each in rows(tmp_path / "a.csv")] == [each["label"] for each in want]
    (tmp_path / "a.onnx").write_bytes(b"no model")
    assert graft("predict", tmp_path / "a.onnx", photos / "disc").exit_code == 5
    assert graft("predict", tmp_path / "none.onnx", photos / "disc").exit_code == 5


def test_a_csv_that_cannot_be_written_is_told_before_any_image_is_judged(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.jobs.predict.open_model", lambda *_: pytest.fail("work was done first"))
    (tmp_path / "mine.jpg").write_text("mine")
    for place, force in (("no/where.csv", False), ("mine.jpg", False), ("mine.jpg", True), (".", True)):
        words = ["predict", model, photos, "--csv", tmp_path / place, *(["--force"] if force else [])]
        done = graft(*words)
        assert done.exit_code == 6, place
        assert done.stderr.startswith("graft: ")
    assert (tmp_path / "mine.jpg").read_text() == "mine"


def test_sets_and_unknown_images_are_shown_in_each_form(model: Path, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "odd.png")
    given = [photos / "disc" / "00.png", tmp_path / "odd.png"]
    want = load(model).predict(given, coverage=0.95)
    assert [each.unknown for each in want] == [False, True]
    done = graft("predict", model, *given, "--coverage", "0.95", "-q")
    known, odd = done.stdout.splitlines()
    assert ", ".join(want[0].prediction_set or ()) in known
    assert odd.startswith("    -    (unknown)")
    assert f"(nearest is {want[1].nearest[0].image}: {want[1].nearest[0].labels[0]})" in odd
    read = json.loads(graft("predict", model, *given, "--coverage", "0.95", "--json", "-q").stdout)
    assert read == [each.as_dict() for each in want]
    assert (read[1]["label"], read[1]["labels"], read[1]["unknown"]) == ("", [], True)
    graft("predict", model, *given, "--coverage", "0.95", "--csv", tmp_path / "a.csv", "-q")
    first, second = rows(tmp_path / "a.csv")
    assert list(first) == [*COLUMNS, "set", *(f"probability of {name}" for name in ("disc", "frame", "stripes"))]
    assert (first["set"], first["unknown"]) == ("|".join(want[0].prediction_set or ()), "false")
    assert (second["label"], second["unknown"]) == ("", "true")


def test_nothing_is_unknown_to_who_asks_for_none(model: Path, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "odd.png")
    for words in (["--no-unknown"], ["--unknown", "0"]):
        assert "-    (unknown)" not in graft("predict", model, tmp_path / "odd.png", "-q", *words).stdout
    done = graft("predict", model, tmp_path / "odd.png", "--unknown", "1.5")
    assert done.exit_code == 2
    assert "lies from 0 to 1" in done.stderr
    done = graft("predict", model, tmp_path / "odd.png", "--coverage", "90")
    assert done.exit_code == 2
    assert "such as 0.9" in done.stderr
