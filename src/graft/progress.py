"""Progress of long work: a bar on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

FIRST_LINE_DELAY = 2.0  # seconds after which people want to know
WARM_UP_ITEMS = 16  # things that say nothing about the speed: the network is compiled when the first ones are there
MIN_ELAPSED = 0.01  # seconds in which a whole batch comes: so many tell nothing of the speed
LINE_INTERVAL = 10.0  # seconds between lines where there is no terminal
NOTE_INTERVAL = 0.2  # seconds between looks at a note, which may have to ask a GPU


@dataclass(frozen=True)
class ProgressTask:
    """A task with a note beside the bar, or of which a part was done before.

    `note` is called now and then, between two items; `done_before` items were done by a run that was interrupted.
    """

    name: str
    note: Callable[[], str] = str  # nothing
    done_before: int = 0

    def __str__(self) -> str:
        return self.name


# Shows progress over (things still to do, what they are, how many these are with those done before: 0 if unknown).
ProgressWrapper = Callable[[Iterable[Any], str | ProgressTask, int], Iterable[Any]]


def no_progress(things: Iterable[Any], _what: str | ProgressTask, _count: int) -> Iterable[Any]:
    """Show no progress."""
    return things


@contextmanager
def track_steps(watch: ProgressWrapper, what: str, count: int) -> Iterator[Callable[[], None]]:
    """Show progress of work that is no loop: call the yielded function after each of `count` steps."""
    iterator = iter(watch(range(count), what, count))
    next(iterator, None)  # the first step is under way
    try:
        yield lambda: next(iterator, None)
    finally:
        if close := getattr(iterator, "close", None):
            close()


def show_progress(things: Iterable[Any], what: str | ProgressTask, count: int) -> Iterator[Any]:
    """Show a bar on a terminal, or a line now and then where standard error is a file; nothing for short work."""
    work = what if isinstance(what, ProgressTask) else ProgressTask(what)
    return _show_bar(things, work, count) if sys.stderr.isatty() else _print_lines(things, work, count)


def _show_bar(things: Iterable[Any], work: ProgressTask, count: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    start = due = time.monotonic()
    note = ""
    plain = sys.stdout.isatty()  # otherwise what is printed for a file would be shown above the bar, and not be in it
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=plain) as progress:
        task = progress.add_task(work.name, total=count or None, completed=work.done_before, rate="", note="")
        for done, thing in enumerate(things, 1):
            yield thing
            if time.monotonic() >= due:
                note, due = work.note(), time.monotonic() + NOTE_INTERVAL
            progress.update(task, completed=work.done_before + done, rate=_format_rate(done, start), note=note)


def _print_lines(things: Iterable[Any], work: ProgressTask, count: int) -> Iterator[Any]:
    start = time.monotonic()
    due = start + FIRST_LINE_DELAY
    warm_up = min(WARM_UP_ITEMS, max(count - work.done_before, 0) // 10)
    for done, thing in enumerate(things, 1 - warm_up):
        yield thing
        now = time.monotonic()
        if done <= 0:
            start = now
        elif now >= due and now - start >= MIN_ELAPSED:
            due = now + LINE_INTERVAL
            total = work.done_before + warm_up + done
            left = f"{(now - start) / done * (count - total):.0f} s left" if count else ""
            so_far = f"{total:,} of {count:,}" if count else f"{total:,}"
            parts = [f"{work.name}: {so_far}", _format_rate(done, start), left, work.note()]
            print(", ".join(filter(None, parts)), file=sys.stderr)


def _format_rate(done: int, start: float) -> str:
    """Format the rate: items a second, or seconds for each item."""
    rate = done / max(time.monotonic() - start, 1e-9)
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
