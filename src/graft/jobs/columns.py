"""A table of answers as a Parquet file, made of the whole part of one in CSV: values with types, in row groups."""

from __future__ import annotations

import csv
import os
import secrets
from itertools import islice
from pathlib import Path
from typing import Any

from graft.errors import UsageError
from graft.model import whole
from graft_runtime.table import OURS, Columns, Form

SUFFIX = ".parquet"
CELLS = 1_000_000  # of a row group, which is held in memory


def check() -> None:
    """Raises UsageError where the package that writes Parquet is not installed, before any work is done."""
    pyarrow()


def pyarrow() -> Any:
    """The package that writes Parquet; raises UsageError where it is not installed."""
    try:
        import pyarrow as package
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UsageError("Parquet needs the package pyarrow: pip install 'graft-vision[parquet]'") from error
    return package


def _is_ours(path: Path) -> bool:
    """Whether a file is a table of answers in Parquet."""
    arrow = pyarrow()
    try:
        return tuple(arrow.parquet.read_schema(path).names[: len(OURS)]) == OURS
    except arrow.ArrowInvalid:
        return False


def _plain(cell: str | float) -> str | float:
    return cell


def _made(part: Path, place: Path, columns: Columns) -> None:
    """The file, whole or not at all, from a part in CSV; raises OSError."""
    arrow = pyarrow()
    kinds = {str: arrow.string(), float: arrow.float64(), bool: arrow.bool_()}
    types = [kinds[kind] for _, kind in columns]
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns])
    for left in [path for path in place.parent.iterdir() if _is_left(path, place)]:
        left.unlink()
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        with (
            part.open(newline="", encoding="utf-8") as file,
            fresh.open("xb") as out,
            arrow.parquet.ParquetWriter(out, schema) as writer,
        ):
            csv.field_size_limit(2**31 - 1)  # a set of thousands of classes is longer than csv expects
            rows = csv.reader(file)
            next(rows)
            for group in iter(lambda: list(islice(rows, max(1, CELLS // len(columns)))), []):
                cells = (_values(own, kind) for own, (_, kind) in zip(zip(*group, strict=True), columns, strict=True))
                writer.write_table(arrow.Table.from_arrays(list(map(arrow.array, cells, types)), schema=schema))
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)


def _is_left(path: Path, place: Path) -> bool:
    """Whether a run that was killed left it here; the log beside it is ours alone meanwhile."""
    name = whole.LEFT.fullmatch(path.name)
    return name is not None and name[1] == place.name and path.is_file()


def _values(cells: tuple[str, ...], kind: type) -> list[str] | list[float | None] | list[bool | None]:
    """Texts as they are; numbers, and yes or no, of which a picture with a fault has none."""
    if kind is bool:
        return [cell == "true" if cell else None for cell in cells]
    return list(cells) if kind is str else [float(cell) if cell else None for cell in cells]


PARQUET = Form(_is_ours, _plain, _made)
