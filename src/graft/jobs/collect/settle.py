"""Fetched pictures into class folders: what is kept where, and a line for every row of the list."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from graft.jobs.collect.manifest import CONFLICT, DONE, DUPLICATE, FETCHED, REFUSED, SETTLED, WAITING, Line, Outcome
from graft.jobs.collect.rows import Row
from graft_runtime import regular


def settle(
    rows: Sequence[Row], known: Mapping[str, Outcome], before: Sequence[Line], stage: Path, places: Mapping[str, Path]
) -> list[Line]:
    """Move pictures from `stage` to the folder of their label, in the order of the list.

    What an earlier run put somewhere stays there. The same content a second time is a duplicate under the same label, a
    conflict under another one: the first keeps it. Lines of rows that are no longer in the list come last.

    Raises OSError.
    """
    earlier = {line.key: line for line in reversed(before)}  # of a row that was listed twice the first counts
    kept = {line.sha256: line for line in before if line.status == DONE}
    lines: list[Line] = []
    listed: dict[tuple[str, str], Line] = {}
    for row in rows:
        if row.key in listed and not row.fault:
            lines.append(replace(listed[row.key], status=DUPLICATE, reason="listed twice"))
            continue
        line = earlier.get(row.key)
        if line is None or line.status not in SETTLED:
            line = _settled(row, known, kept, stage, places)
        listed[row.key] = line
        lines.append(line)
    return lines + [line for line in before if line.key not in listed]


def _settled(
    row: Row, known: Mapping[str, Outcome], kept: dict[str, Line], stage: Path, places: Mapping[str, Path]
) -> Line:
    if row.fault:
        return _line(row, Outcome(row.url, REFUSED, row.fault))
    outcome = known.get(row.url, Outcome(row.url, WAITING, "not fetched yet"))
    if outcome.status != FETCHED:
        return _line(row, outcome)
    if first := kept.get(outcome.sha256):
        if first.label == row.label:
            return replace(_line(row, outcome), file=first.file, status=DUPLICATE, reason=f"same as {first.url}")
        where = f"same as {first.url}, which is {first.label!r}"
        return replace(_line(row, outcome), status=CONFLICT, reason=where)
    place = places[row.label] / outcome.name
    if fault := _put(stage / outcome.name, place, outcome.sha256):
        return _line(row, replace(outcome, status=REFUSED, reason=fault))
    line = replace(_line(row, outcome), file=f"{place.parent.name}/{place.name}", status=DONE)
    kept[outcome.sha256] = line
    return line


def _put(fresh: Path, place: Path, sha256: str) -> str:
    """Move a picture to its place, where a run that was killed may have put it already; why not, if not."""
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        fresh.rename(place)
    elif _sum(place) != sha256:
        return f"another file is called so: {place.name}"
    return ""


def _sum(place: Path) -> str:
    with regular.opened(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(row: Row, outcome: Outcome) -> Line:
    content = (outcome.sha256, outcome.bytes, outcome.width, outcome.height)
    known = (outcome.when, outcome.status, outcome.reason)
    return Line(row.url, outcome.final_url, "", row.label, *content, row.source, row.licence, *known)
