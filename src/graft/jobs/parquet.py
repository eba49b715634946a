"""Predictions and features as a Parquet file."""

from __future__ import annotations

import csv
import os
import secrets
from itertools import islice
from pathlib import Path
from typing import Any

from graft import atomic
from graft.errors import UsageError
from graft_runtime.table import BASE_COLUMNS, Columns, TableFormat

SUFFIX = ".parquet"
MAX_CELLS = 1_000_000  # of a row group, which is held in memory


# --- Parquet ----------------------------------------------------------------------------------------------------------


def check_parquet() -> None:
    """Raise UsageError where pyarrow is not installed, before any work is done."""
    import_pyarrow()


def import_pyarrow() -> Any:
    """Import pyarrow. Raises UsageError where it is not installed."""
    try:
        import pyarrow as package
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise UsageError("Parquet needs the package pyarrow: pip install 'graft-vision[parquet]'") from error
    return package


def _is_ours(path: Path) -> bool:
    """Whether a file is a Parquet table of predictions."""
    arrow = import_pyarrow()
    try:
        return tuple(arrow.parquet.read_schema(path).names[: len(BASE_COLUMNS)]) == BASE_COLUMNS
    except arrow.ArrowInvalid:
        return False


def _keep_cell(cell: str | float) -> str | float:
    return cell


def _convert_csv(part: Path, place: Path, columns: Columns) -> None:
    """Convert the finished CSV part into a Parquet file, atomically. Raises OSError."""
    arrow = import_pyarrow()
    arrow_types = {str: arrow.string(), float: arrow.float64(), bool: arrow.bool_()}
    types = [arrow_types[kind] for _, kind in columns]
    schema = arrow.schema([(name, arrow_types[kind]) for name, kind in columns])
    for left in [path for path in place.parent.iterdir() if _is_leftover(path, place)]:
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
            for group in iter(lambda: list(islice(rows, max(1, MAX_CELLS // len(columns)))), []):
                cells = (
                    _parse_cells(own, kind) for own, (_, kind) in zip(zip(*group, strict=True), columns, strict=True)
                )
                writer.write_table(arrow.Table.from_arrays(list(map(arrow.array, cells, types)), schema=schema))
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)


def _is_leftover(path: Path, place: Path) -> bool:
    """Whether a killed run left the file here; the log beside it keeps other runs out meanwhile."""
    name = atomic.LEFTOVER.fullmatch(path.name)
    return name is not None and name[1] == place.name and path.is_file()


def _parse_cells(cells: tuple[str, ...], kind: type) -> list[str] | list[float | None] | list[bool | None]:
    """Parse a column of texts, numbers or booleans; the last two are empty for an image with a fault."""
    if kind is bool:
        return [cell == "true" if cell else None for cell in cells]
    return list(cells) if kind is str else [float(cell) if cell else None for cell in cells]


PARQUET = TableFormat(_is_ours, _keep_cell, _convert_csv)
