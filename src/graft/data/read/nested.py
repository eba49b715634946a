"""Folders inside class folders: parts of the split, or folders of the same names that may be the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from graft.data.dataset import TRAIN, UNSPLIT
from graft.data.lookalikes import listed
from graft.errors import DataError

OUTER, INNER = "outer", "inner"  # as in --columns label=inner
LOOSE = 0.05  # share of the images that lie in a class folder itself, beside folders that may be classes


class Row(NamedTuple):
    """A picture: its class, its part of the split, its path below the root, the folders between it and the class's."""

    label: str
    part: int
    path: str
    inside: tuple[str, ...] = ()


def level_of(columns: str) -> str:
    """'inner' or 'outer' where these options say nothing else than which folders are the classes; else ''."""
    said = columns.replace(" ", "").removeprefix("label=")
    return said if said in (OUTER, INNER) and columns.strip().startswith("label") else ""


def settled(
    where: str, rows: Sequence[Row], parts: Mapping[str, int], classes: tuple[str, ...] | None, level: str
) -> list[Row]:
    """The rows with parts found inside class folders, and with the inner folders as classes where these are meant.

    Where every class folder has folders of the same names, `level` or a classifier's `classes` say which of the two
    are the classes. Raises DataError where nothing does.
    """
    rows = _parted(rows, parts)
    if level == INNER:
        if lost := next((row for row in rows if not row.inside), None):
            raise DataError(f"{lost.path} in {where} lies in no inner folder, which label=inner takes for the class.")
        return _inner(rows)
    same = _same(rows)
    if not same or level == OUTER:
        return list(rows)
    outer = sorted({row.label for row in rows})
    if classes and set(outer) <= set(classes):
        return list(rows)
    if classes and same <= {name.casefold() for name in classes}:
        return _inner(rows)
    inner = sorted({row.inside[0] for row in rows if row.inside})
    raise DataError(
        f"{where} has folders of the same names inside each of its folders, so it can be read in two ways: "
        f"{len(outer)} classes {listed(outer, 5)}, with --columns label={OUTER}; or {len(inner)} classes "
        f"{listed(inner, 5)}, with --columns label={INNER}. In Python columns='label={INNER}'. "
        f"Or name one of the folders, as in {where}/{outer[0]}."
    )


def _parted(rows: Sequence[Row], parts: Mapping[str, int]) -> Sequence[Row]:
    """Rows whose class folders each hold train and test folders, with these as the parts."""
    first = [parts.get(row.inside[0].lower(), UNSPLIT) if row.inside else UNSPLIT for row in rows]
    whole = {row.label for row, part in zip(rows, first, strict=True) if part == TRAIN} == {row.label for row in rows}
    if UNSPLIT in first or len(set(first)) < 2 or not whole or any(row.part != UNSPLIT for row in rows):
        return rows
    return [row._replace(part=part, inside=row.inside[1:]) for row, part in zip(rows, first, strict=True)]


def _same(rows: Sequence[Row]) -> set[str]:
    """The names, without capitals, that folders inside every class folder have; none unless that is a sign."""
    inside: dict[str, set[str]] = {row.label: set() for row in rows}
    for row in rows:
        inside[row.label].update(row.inside[:1])
    names = [{name.casefold() for name in each} for each in inside.values()]
    if len(names) < 2 or sum(not row.inside for row in rows) > LOOSE * len(rows):
        return set()
    common, every = set.intersection(*names), set.union(*names)
    return common if len(common) > 1 and 2 * len(common) >= len(every) else set()


def _inner(rows: Sequence[Row]) -> list[Row]:
    return [row._replace(label=row.inside[0], inside=row.inside[1:]) for row in rows]
