"""An exported file at work: whatever holds images, in order, the faulty ones too; and the program for it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import exported
import numpy as np
import pytest
from PIL import Image

from graft_runtime import cli
from graft_runtime.contract import Export, ModelFileError
from graft_runtime.predictor import BATCH_SIZE, Predictor, load

COLOURS = {"red": (200, 40, 10), "green": (10, 180, 30), "blue": (20, 40, 150)}


def pixels(name: str, height: int = 20, width: int = 30) -> np.ndarray:
    return np.broadcast_to(np.array(COLOURS[name], np.uint8), (height, width, 3))


def png(name: str, height: int = 20, width: int = 30) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(name, height, width)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def predictor() -> Predictor:
    return load(exported.file())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "colours.onnx"
    path.write_bytes(exported.file())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(COLOURS):
        (folder / f"{number}.png").write_bytes(png(name, 20 + number))
    (folder / "3.jpg").write_bytes(b"no image")
    return folder


# --- images ---------------------------------------------------------------------------------------------------------


def test_paths_bytes_arrays_and_pillow_give_the_same_answer(predictor: Predictor, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png("green"))
    ways = [path, str(path), path.read_bytes(), pixels("green"), Image.fromarray(pixels("green"))]
    found = predictor.predict(ways)
    assert {each.label for each in found} == {"green"}
    assert len({each.probability for each in found}) == 1
    assert [predictor.predict(way)[0].answer for way in ways] == [each.answer for each in found]
    assert [each.image for each in found] == [str(path), str(path), "image 2", "image 3", "image 4"]


def test_many_images_of_changing_size_come_in_order_as_if_alone(predictor: Predictor) -> None:
    rng = np.random.default_rng(0)
    sizes = [(20, 30)] * (BATCH_SIZE + 3) + [(31, 7), (20, 30), (1, 400), (400, 1)]
    images = [rng.integers(0, 200, (*size, 3), dtype=np.uint8) for size in sizes]
    together = predictor.predict(images)
    alone = [predictor.predict(image)[0] for image in images]
    assert [each.label for each in together] == [each.label for each in alone]
    np.testing.assert_allclose([e.probability for e in together], [e.probability for e in alone], atol=1e-6)
    stack = np.stack(images[:5])
    assert [each.answer for each in predictor.predict(stack)] == [each.answer for each in predictor.predict(images[:5])]


def test_a_fault_stops_no_other_image(predictor: Predictor, tmp_path: Path) -> None:
    given = [b"", png("red"), b"no image", tmp_path / "nowhere.png", png("blue"), png("red")[:60]]
    found = predictor.predict(given)
    assert [each.label for each in found] == ["", "red", "", "", "blue", ""]
    assert [each.fault for each in found[:3]] == ["empty file", "", "not an image"]
    assert "No such file" in found[3].fault
    assert all(each.fault for each in predictor.predict([b"", b"x"]))
    assert predictor.predict([]) == []


def test_grey_arrays_are_images_and_other_arrays_are_not(predictor: Predictor) -> None:
    assert predictor.predict(np.full((5, 6), 100, np.uint8))[0].probability == pytest.approx(1 / 3)
    for wrong in (np.zeros((4, 4, 3)), np.zeros((2, 2, 2, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match="must be uint8"):
            predictor.predict([wrong])


def test_a_stream_takes_no_more_than_it_needs(predictor: Predictor) -> None:
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield png("red")

    stream = predictor.stream(endless())
    assert next(stream).label == "red"
    assert len(taken) < 10 * BATCH_SIZE + 10 * predictor.threads
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_unknown_by_the_share_that_is_allowed(predictor: Predictor) -> None:
    bright = np.full((4, 4, 3), 255, np.uint8)
    assert (predictor.predict(bright)[0].label, predictor.predict(bright)[0].unknown) == ("", True)
    assert predictor.predict(bright, unknown=0)[0].label == "red"
    assert predictor.predict(pixels("red"))[0].label == "red"
    assert predictor.predict(pixels("red"), unknown=0.5)[0].unknown
    assert load(exported.file(Export())).predict(bright)[0].label == "red", "without strays nothing is unknown"
    with pytest.raises(ValueError, match="from 0 to 1"):
        predictor.predict(bright, unknown=1)


def test_sets_and_thresholds_come_from_the_card(predictor: Predictor) -> None:
    assert predictor.predict(pixels("red"), coverage=0.9)[0].prediction_set == ("red", "green")
    assert predictor.predict(pixels("red"), coverage=0.5)[0].prediction_set == ("red",)
    with pytest.raises(ValueError, match="no prediction sets"):
        load(exported.file(sets=())).predict(pixels("red"), coverage=0.9)
    several = load(exported.file(task="multilabel", thresholds=(0.1, 0.1, 0.9)))
    assert several.predict(pixels("red"))[0].labels == ("red", "green")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ModelFileError, match=r"nowhere\.onnx cannot be read: No such file"):
        load(tmp_path / "nowhere.onnx")
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(ModelFileError, match=r"colours\.onnx is no classifier that can be used: it "):
        load(file)


def test_a_graph_that_onnx_runtime_refuses_is_told() -> None:
    from graft_runtime.contract import TrainingImage, append_description

    broken = exported.model().replace(b"ReduceMax", b"ReduceMix")
    with pytest.raises(ModelFileError, match=r"ONNX Runtime .* cannot run it"):
        load(append_description(broken, exported.card(), Export()))
    with pytest.raises(ModelFileError, match="has evidence, and no output 'nearest'"):
        load(append_description(exported.model(), exported.card(), Export(), [TrainingImage("a.png", ("red",))]))
    renamed = exported.model().replace(b"unknown", b"unknowm")
    with pytest.raises(ModelFileError, match="no output 'unknown'"):
        load(append_description(renamed, exported.card(), Export()))


# --- the program ------------------------------------------------------------------------------------------------------


def ran(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_the_program_prints_what_python_says(file: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = load(file).predict(sorted(folder.iterdir()))
    assert ran("predict", file, folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [json.loads(json.dumps(each.as_dict())) for each in want]
    assert ran("predict", file, folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["red", "green", "blue"]
    assert lines[3].startswith("    -    not judged, not an image  ")


def test_answers_as_a_table_that_replaces_no_file_of_the_users(
    file: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    assert ran("predict", file, folder, "--csv", out, "--coverage", "0.9") == 0
    with out.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert [row["label"] for row in rows] == ["red", "green", "blue", ""]
    assert rows[0]["set"] == "red|green"
    assert rows[3]["fault"] == "not an image"
    assert ran("predict", file, folder, "--csv", out) == 6
    assert "there already" in capsys.readouterr().err
    assert ran("predict", file, folder, "--csv", out, "--force") == 0
    out.write_text("mine", encoding="utf-8")
    assert ran("predict", file, folder, "--csv", out, "--force") == 6
    assert out.read_text(encoding="utf-8") == "mine"


def test_each_mistake_has_its_exit_code(file: Path, folder: Path, tmp_path: Path) -> None:
    assert ran("predict", tmp_path / "no.onnx", folder) == 5
    assert ran("predict", file, tmp_path / "nowhere.png") == 3
    assert ran("predict", file, folder / "3.jpg") == 3
    assert ran("predict", file, folder, "--unknown", "7") == 2
    assert ran("info", tmp_path / "no.onnx") == 5
    assert ran("predict", file) == 2


def test_info_says_what_a_file_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran("info", file) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == list(exported.CLASSES)


def test_torch_is_never_imported(file: Path, folder: Path) -> None:
    code = (
        "import sys, graft_runtime; "
        f"graft_runtime.load({str(file)!r}).predict({str(folder / '0.png')!r}); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'torch', 'graft', 'timm', 'scipy', 'onnx'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
