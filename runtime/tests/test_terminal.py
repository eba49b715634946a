"""What a terminal would obey is shown instead, wherever text goes out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import exported
import pytest
from exported import image

from graft_runtime import cli
from graft_runtime.terminal import escape_breaks, say

EVIL = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202egpj\x7f\r\x00"
SHOWN = r"\u001b]0;title\u0007\u001b[31mred\u009b2J\u202egpj\u007f\u000d\u0000"
OTHERS = "Käse 蛋糕 👩\u200d🔬 می\u200cخواهم\tx"


def test_orders_are_shown_and_all_else_stays(capsys: pytest.CaptureFixture[str]) -> None:
    say(EVIL, OTHERS)
    say("two\nlines", file=sys.stderr)
    assert capsys.readouterr() == (f"{SHOWN} {OTHERS}\n", "two\nlines\n")


def test_json_means_the_same_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    say(json.dumps({EVIL: OTHERS}, indent=2, ensure_ascii=False))
    out = capsys.readouterr().out
    assert json.loads(out) == {EVIL: OTHERS}
    assert not set(EVIL[i] for i in range(len(EVIL)) if not EVIL[i].isprintable()) & set(out)


def test_a_name_never_looks_like_two_lines() -> None:
    assert escape_breaks({"a\nb": ["c\n", ("\x1b", 1, None, True)]}) == {
        r"a\u000ab": [r"c\u000a", (r"\u001b", 1, None, True)]
    }


def test_names_of_files_and_classes_pass_the_program_as_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[31mred\x9b2J\u202egpj\n"
    file, good, bad = tmp_path / "colours.onnx", tmp_path / f"{name}.png", tmp_path / f"bad{name}.png"
    file.write_bytes(exported.file(classes=(name, "green", "blue")))
    good.write_bytes(image((90, 10, 10)))
    bad.write_bytes(b"none")
    table = tmp_path / "a.csv"
    for words in (
        ["predict", str(file), str(good), str(bad)],
        ["predict", str(file), str(good), str(bad), "--json"],
        ["predict", str(file), str(good), str(bad), "-o", str(table)],
        ["predict", str(file), f"{name}missing"],
        ["predict", f"{name}.onnx", str(good)],
        ["predict", str(file), str(good), f"--{name}"],
        ["info", str(file)],
    ):
        with pytest.raises(SystemExit):
            cli.main(words)
        for out in capsys.readouterr():
            assert not set("\x1b\x9b\u202e") & set(out), words
            assert "\n.png" not in out
