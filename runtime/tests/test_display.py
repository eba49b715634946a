"""Blocks of HTML for notebooks: right numbers, escaped names, and no address that anything would be fetched from."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from graft_runtime import display
from graft_runtime.decide import Answer
from graft_runtime.prediction import Neighbour, Prediction
from graft_runtime.thumbnail import make_thumbnail

HOSTILE = "<script>alert('&')</script>\n\x1b[2J\udc80"


def test_a_name_is_escaped_and_short() -> None:
    assert display.escape_text(HOSTILE) == (
        "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;\\u000a\\u001b[2J\\udc80"
    )
    assert display.escape_text("a" * 200) == "a" * 40 + "…" + "a" * 40
    display.escape_text(HOSTILE).encode()  # a lone surrogate, from a file name that is not UTF-8, could not be sent


def test_bars_are_as_long_as_their_values() -> None:
    made = display.bars({"cat": 30.0, "dog": 15.0}, ["30", "15"], 30.0)
    assert made.index("width:100.0%") < made.index("dog") < made.index("width:50.0%")


def test_an_interval_is_drawn_where_it_lies() -> None:
    made = display.draw_interval(0.9, 0.8, 0.95, 0.25)
    assert 'class="range" x="800.0" y="16" width="150.0"' in made
    assert 'class="value" x="898.0"' in made
    assert 'class="guess" x="248.5"' in made


def test_a_confusion_matrix_tints_hits_and_mistakes() -> None:
    made = display.confusion_matrix(["cat", "dog"], [[9, 1], [0, 0]])
    assert f"{display.HIT} 40%" in made  # 9 of 10, times 45
    assert f"{display.MISS} 10%" in made  # at least 10: one mistake is seen too
    assert made.count("color-mix") == 2
    assert made.count("<tr") == 3


def test_a_thumbnail_has_the_longer_side_and_the_colour(tmp_path: Path) -> None:
    Image.new("RGB", (300, 100), (200, 30, 40)).save(tmp_path / "red.png")
    small = display.read_thumbnail(tmp_path / "red.png", 60)
    assert small is not None
    assert (small.width, small.height) == (60, 20)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(small.base64_text))))
    assert np.abs(seen.astype(int) - (200, 30, 40)).max() <= 6


@pytest.mark.parametrize("name", ["gone.png", "folder", "text.png", "no\0name"])
def test_what_is_no_image_has_no_thumbnail(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.png").write_text("no image")
    assert display.read_thumbnail(str(tmp_path / name)) is None


def test_an_image_is_embedded_and_never_fetched() -> None:
    small = make_thumbnail(np.zeros((4, 4, 3), np.uint8), 4)
    assert small.uri in display.embedded_image(small.uri)
    assert display.embedded_image("https://example.org/pixel.gif") == ""
    assert display.embedded_image(None) == ""
    assert '"><b>' not in display.embedded_image('data:image/jpeg;base64,"><b>')


# --- a prediction -----------------------------------------------------------------------------------------------------


def answer(**changes: object) -> Answer:
    known = {f"class {at}": 0.5 / 2**at for at in range(8)}
    return Answer(
        **({"label": "class 0", "probability": 0.5, "probabilities": known, "labels": ("class 0",)} | changes)
    )


def test_a_prediction_shows_its_image_label_and_likeliest_classes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 20)).save(path)
    shown = Prediction("a.png", answer(prediction_set=("class 0", "class 1")), path=str(path))._repr_html_()
    assert "class 0 (50.0%)" in shown
    assert "data:image/jpeg;base64," in shown
    assert "class 4" in shown
    assert "class 5" not in shown
    assert "25.0%" in shown
    assert "Prediction set: class 0, class 1" in shown
    path.unlink()
    assert "<img" not in Prediction("a.png", answer(), path=str(path))._repr_html_()


def test_an_unknown_image_is_said_to_be_unknown_with_its_neighbours() -> None:
    near = Neighbour("<b>near.png", ("cat",), 0.25, make_thumbnail(np.zeros((4, 4, 3), np.uint8), 4).uri)
    shown = Prediction("image 0", answer(unknown=True, labels=()), nearest=(near,))._repr_html_()
    assert "Unknown: like none of the training images" in shown
    assert "&lt;b&gt;near.png" in shown
    assert "0.25" in shown
    assert "data:image/jpeg" in shown
    assert "base64" not in repr(near)


def test_a_fault_is_said_and_has_no_bars() -> None:
    shown = Prediction(HOSTILE, None, "not an image")._repr_html_()
    assert "Not judged: not an image" in shown
    assert "<script" not in shown
    assert "background:#" not in shown


def test_an_image_in_memory_shows_no_file_that_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename("image 0")
    assert "<img" not in Prediction("image 0", answer())._repr_html_()


def test_a_name_cannot_write_to_the_terminal() -> None:
    assert "\x1b" not in repr(Prediction("\x1b[2J.png", answer(label="\x1b[31m")))
    assert repr(Prediction("\x1b[2J.png", None, "no")).endswith("\\u001b[2J.png>")
