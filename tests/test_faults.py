"""The list of faults: each has a test, the page prints it, and the table tells what happened."""

from __future__ import annotations

import re
from pathlib import Path

from faults import FAULTS, rows

ROOT = Path(__file__).parents[1]


def test_each_fault_has_a_test_and_each_mark_a_fault() -> None:
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("runtime/tests/**/*.py")]
    marks = [mark for file in files for mark in re.findall(r"mark\.fault\(([\d, ]+)\)", file.read_text("utf-8"))]
    tried = {int(number) for mark in marks for number in mark.split(",")}
    assert tried == set(FAULTS) == set(range(1, 45))


def test_the_page_is_the_list() -> None:
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8").replace("`<script>`", "<script>")
    listed = [line for line in page.splitlines() if line.startswith("| F")]
    assert listed == [f"| F{number:02} | {tried} | {expected} |" for number, (tried, expected) in FAULTS.items()]


def test_what_happened_is_told_for_each() -> None:
    found = {1: {"a": "passed", "b": "passed"}, 2: {"a": "passed", "b": "failed"}, 3: {"a": "skipped"}}
    told = {number: happened for number, _, _, happened in rows(found)}
    assert [told[number] for number in (1, 2, 3, 4)] == ["as expected (2 tests)", "FAILED: b", "NOT TRIED", "NO TEST"]
