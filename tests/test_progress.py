"""Progress: everything comes through, in order, and what is said of the time is right."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from graft import progress
from graft.progress import ProgressTask, no_progress, show_progress, track_steps


class Clock:
    """A clock that only moves when somebody works."""

    def __init__(self) -> None:
        self.now = 100.0

    def work(self, count: int, seconds: float, first: float = 0.0) -> Iterator[int]:
        for number in range(count):
            self.now += seconds + (first if not number else 0)
            yield number


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock.now)
    return clock


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("what", ["images", ProgressTask("steps", lambda: "loss 0.4 [best]", 7)])
def test_everything_comes_through_in_order(
    monkeypatch: pytest.MonkeyPatch, what: str | ProgressTask, terminal: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert list(show_progress(range(20), what, 27)) == list(no_progress(range(20), what, 27)) == list(range(20))


def test_short_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    list(show_progress(clock.work(100, 0.019), "images", 100))
    assert capsys.readouterr() == ("", "")


def test_lines_say_how_long_it_still_takes_once_it_is_warm(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    list(show_progress(clock.work(1000, 0.05, first=30), "images", 1000))
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "images: 17 of 1,000, 20/s, 49 s left"  # 983 times 0.05; the first 30 seconds do not count
    assert others[0] == "images: 217 of 1,000, 20/s, 39 s left"
    assert len(others) == 4


def test_the_time_left_is_right_when_a_part_was_done_before(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    list(show_progress(clock.work(50, 0.5), ProgressTask("steps", done_before=950), 1000))
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "steps: 956 of 1,000, 2.0/s, 22 s left"  # 5 of 50 to warm up
    assert others == ["steps: 976 of 1,000, 2.0/s, 12 s left", "steps: 996 of 1,000, 2.0/s, 2 s left"]


def test_work_of_unknown_length_says_how_far_it_is(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    list(show_progress(clock.work(1000, 0.02), "files found", 0))
    assert capsys.readouterr().err.splitlines() == ["files found: 101, 50/s", "files found: 602, 50/s"]


def test_a_note_is_asked_when_it_is_shown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    asked = []

    def note() -> str:
        asked.append(clock.now)
        return f"loss 0.{len(asked)}"

    list(show_progress(clock.work(9, 4), ProgressTask("steps", note), 9))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "steps: 1 of 9, 4.0 s each, 32 s left, loss 0.1",
        "steps: 4 of 9, 4.0 s each, 20 s left, loss 0.2",
        "steps: 7 of 9, 4.0 s each, 8 s left, loss 0.3",
    ]
    assert asked == [104.0, 116.0, 128.0]


def test_the_bar_shows_what_was_done_before_the_rate_and_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    list(show_progress(range(3), ProgressTask("steps", lambda: "loss 0.4 [best]", 7), 10))
    last = terminal.getvalue().rsplit("steps", 1)[1]
    assert "7/10" in terminal.getvalue()
    assert "10/10" in last
    assert "loss 0.4 [best]" in last
    assert "s each" in last


@pytest.mark.parametrize("piped", [False, True])
def test_what_is_printed_for_a_file_goes_into_it(monkeypatch: pytest.MonkeyPatch, piped: bool) -> None:
    """rich sends what is printed meanwhile to its own terminal, which is standard error."""
    terminal, output = Terminal(), io.StringIO() if piped else Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setenv("TERM", "xterm")
    for each in show_progress(range(1), "steps", 1):
        print("printed", each)
    assert ("printed 0" in output.getvalue()) is piped
    assert ("printed 0" in terminal.getvalue()) is not piped


def test_a_watch_that_knows_only_texts_can_show_work() -> None:
    def plain(things: Any, what: str | ProgressTask, count: int) -> Any:
        assert f"{count} {what}" == "3 steps"
        return things

    watch: progress.ProgressWrapper = plain
    assert list(watch(range(3), ProgressTask("steps", lambda: "loss"), 3)) == [0, 1, 2]


@pytest.mark.parametrize("calls", [0, 2, 3, 9])
def test_steps_of_work_that_is_no_loop_are_counted(calls: int) -> None:
    seen: list[int] = []

    def watch(things: Iterable[Any], what: str | ProgressTask, count: int) -> Iterator[Any]:
        assert (what, count) == ("head", 3)
        for thing in things:
            seen.append(thing)
            yield thing
        seen.append(-1)

    for how in (watch, no_progress):
        with track_steps(how, "head", 3) as step:
            for _ in range(calls):
                step()
    assert seen == [0, 1, 2, -1][: calls + 1]
