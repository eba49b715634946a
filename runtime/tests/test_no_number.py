"""A network that gives no number for an image: a fault of that image, wherever it is asked, and never NaN in JSON."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exported
import numpy as np
import pytest
from exported import image
from serving import Running, running

from graft_runtime import cli, strict_json
from graft_runtime.card import MULTILABEL
from graft_runtime.decide import NOT_FINITE, build_answers, compute_probabilities, find_finite_rows
from graft_runtime.predictor import load

BLACK, RED = image((0, 0, 0)), image((90, 10, 10))


def strict(text: str) -> Any:
    """JSON as other languages read it."""

    def refused(word: str) -> None:
        pytest.fail(f"{word} stands in {text[:200]}")

    return json.loads(text, parse_constant=refused)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "colours.onnx"
    path.write_bytes(exported.without_numbers())
    return path


@pytest.fixture
def server(file: Path) -> Iterator[Running]:
    with running(file) as server:
        yield server


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", ["multiclass", MULTILABEL])
@pytest.mark.fault(37)
def test_logits_that_are_no_numbers_have_no_answer(value: float, task: str) -> None:
    logits = np.array([[value, 1.0], [2.0, 1.0]])
    chances = compute_probabilities(logits, 1.0, task)
    none, answer = build_answers(chances, ("a", "b"), task)
    assert none is None
    assert answer
    assert answer.label == "a"
    assert find_finite_rows(logits, chances).tolist() == [False, True]


def test_the_other_images_are_answered(file: Path) -> None:
    said = load(file).predict([RED, BLACK, RED])
    assert [(each.label, each.fault) for each in said] == [("red", ""), ("", NOT_FINITE), ("red", "")]


def test_the_program_ends_as_for_an_image_that_cannot_be_read(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "black.png").write_bytes(BLACK)
    for words in (["--json"], []):
        with pytest.raises(SystemExit) as ended:
            cli.main(["predict", str(file), str(tmp_path / "black.png"), *words])
        assert ended.value.code == 3
        out = capsys.readouterr().out
        assert NOT_FINITE in out
        assert not words or strict(out)[0]["fault"] == NOT_FINITE


def test_the_server_tells_it_and_lives_on(server: Running) -> None:
    answer = server.post(content=BLACK)
    assert (answer.status_code, strict(answer.text)["predictions"][0]["fault"]) == (422, NOT_FINITE)
    given = {"name": "file", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(BLACK).decode()]}
    answer = server.post("/v2/models/colours/infer", json={"inputs": [given]})
    assert answer.status_code == 422
    assert NOT_FINITE in answer.text
    assert server.lives()


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[" * 99 + "]" * 99, "[" * 10**5])
def test_json_with_what_is_no_number_or_has_no_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no number|nested more than 64 deep"):
        strict_json.loads(text)


def test_what_is_written_can_be_read_by_anybody() -> None:
    value = {"a": [1.5, float("nan"), (float("inf"), None)], "b": {"c": -float("inf")}, "d": sys.maxsize}
    assert strict(strict_json.dumps(value)) == {"a": [1.5, None, [None, None]], "b": {"c": None}, "d": sys.maxsize}
    deepest = 64 * "[" + 64 * "]"
    assert strict_json.dumps(strict_json.loads(deepest)) == deepest
