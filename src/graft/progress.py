"""Progress that a person can follow: what is done, how fast, and how long it will take still."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]  # shows progress over (things, what they are, how many)

PATIENCE = 2.0  # seconds after which people want to know
WARM_UP = 16  # things that say nothing about the speed: the network is compiled when the first ones are there
REMIND = 10.0  # seconds between lines where there is no terminal


def unwatched(things: Iterable[Any], _what: str, _count: int) -> Iterable[Any]:
    """No progress shown."""
    return things


def watched(things: Iterable[Any], what: str, count: int) -> Iterator[Any]:
    """A bar on the terminal, or a line now and then where standard error is a file; nothing for short work."""
    return _bar(things, what, count) if sys.stderr.isatty() else _lines(things, what, count)


def _bar(things: Iterable[Any], what: str, count: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=count, rate="")
        for done, thing in enumerate(things):
            yield thing
            progress.update(task, completed=done + 1, rate=_rate(done + 1, start))


def _lines(things: Iterable[Any], what: str, count: int) -> Iterator[Any]:
    start = time.monotonic()
    due = start + PATIENCE
    for done, thing in enumerate(things, 1 - WARM_UP):
        yield thing
        now = time.monotonic()
        if done <= 0:
            start = now
        elif now >= due:
            due = now + REMIND
            left = (now - start) / done * (count - WARM_UP - done)
            print(f"{what}: {done + WARM_UP:,} of {count:,}, {_rate(done, start)}, {left:.0f} s left", file=sys.stderr)


def _rate(done: int, start: float) -> str:
    return f"{done / max(time.monotonic() - start, 1e-9):.0f}/s"
