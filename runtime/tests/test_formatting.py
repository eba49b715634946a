"""On a terminal no class can be taken for what the program itself says."""

from __future__ import annotations

import pytest

from graft_runtime.decide import Answer
from graft_runtime.formatting import format_answer, join_names
from graft_runtime.prediction import Prediction

NAMES = (
    "unknown",
    "(unknown)",
    "none of the labels",
    "(none of the labels)",
    "not judged, empty file",
    "a, b",
    "a",
    "b",
)


def said(*labels: str, unknown: bool = False, among: tuple[str, ...] | None = None) -> str:
    chances = dict.fromkeys(NAMES, 0.5)
    return format_answer(Prediction("x.png", Answer("a", 0.5, chances, labels, among, unknown)).as_dict())


def test_behind_a_percentage_stand_names_of_classes_alone() -> None:
    own = [said(unknown=True), said(), format_answer(Prediction("x.png", None, "empty file").as_dict())]
    assert own == ["    -    (unknown)", "    -    (none of the labels)", "    -    not judged, empty file"]
    named = [said(name) for name in NAMES] + [said("a", "b")]
    assert len({*own, *named}) == len(own) + len(named)
    assert all(line.startswith("  50.0%  ") for line in named)


@pytest.mark.parametrize(
    ("names", "want"), [(["a", "b"], "a, b"), (["a, b"], '"a, b"'), (['"a', 'b"'], r'"\"a", "b\""'), (["日"], "日")]
)
def test_a_name_with_a_comma_is_told_from_two_names(names: list[str], want: str) -> None:
    assert join_names(names) == want
