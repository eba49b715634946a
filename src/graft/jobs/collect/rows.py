"""The list that a collection starts from: a URL and a label for each picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.data.read.table import LABEL, Cells, read_cells, read_text
from graft.errors import DataError, UsageError

URL = ("url", "urls", "image_url", "link", "href", "src")
SOURCE = ("source", "page", "source_url", "page_url")
LICENCE = ("licence", "license")


@dataclass(frozen=True)
class Row:
    """One line of the list; `source` and `licence` only go into the manifest. `fault`: why it cannot be followed."""

    url: str
    label: str
    source: str = ""
    licence: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.url, self.label

    @property
    def fault(self) -> str:
        return "no URL" if not self.url else "" if self.label else "no label"


def read_rows(path: Path, label: str = "") -> list[Row]:
    """The rows of a table (CSV, TSV), or of a text file (.txt) with one URL a line.

    `label` is for a list that says nothing of labels. Raises DataError and UsageError.
    """
    label = unicodedata.normalize("NFC", label.strip())
    rows = _from_text(path, label) if path.suffix.lower() == ".txt" else _from_table(read_cells(path), label)
    if not rows:
        raise DataError(f"{path} lists no URL.")
    return rows


def _from_text(path: Path, label: str) -> list[Row]:
    if not label:
        raise UsageError(f"{path} is a list of URLs without labels: say what they show with --label NAME.")
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [Row(line, label) for line in lines if line and not line.startswith("#")]


def _from_table(cells: Cells, label: str) -> list[Row]:
    at = cells.find(LABEL)
    if label and at is not None:
        raise UsageError(f"{cells.path} has a column {cells.header[at]!r}; --label is for lists without labels.")
    if at is None and not label:
        cells.column(LABEL)  # raises, and says which columns there are
    urls, count = cells.column(URL), len(cells.rows)
    labels = [label] * count if at is None else [unicodedata.normalize("NFC", cell) for cell in cells.column(LABEL)]
    columns = (urls, labels, _optional(cells, SOURCE), _optional(cells, LICENCE))
    return [Row(*row) for row in zip(*columns, strict=True)]


def _optional(cells: Cells, names: Sequence[str]) -> list[str]:
    return cells.column(names) if cells.find(names) is not None else [""] * len(cells.rows)
