"""The list that a collection starts from: a URL and a label for each picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.data.read.columns import GUESSED, Cells
from graft.data.read.table import cells_of, content, text_of
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
    raw = content(path)
    if path.suffix.lower() == ".txt":
        rows = _from_text(path, text_of(str(path), raw), label)
    else:
        rows = _from_table(cells_of(str(path), raw), label)
    if not rows:
        raise DataError(f"{path} lists no URL.")
    return rows


def _from_text(path: Path, text: str, label: str) -> list[Row]:
    if not label:
        raise UsageError(f"{path} is a list of URLs without labels: say what they show with --label NAME.")
    lines = [line.strip() for line in text.splitlines()]
    return [Row(line, label) for line in lines if line and not line.startswith("#")]


def _from_table(cells: Cells, label: str) -> list[Row]:
    said, given = _column(cells, GUESSED["label"]), [label] * len(cells.rows)
    if label and said:
        raise UsageError(f"{cells.where} has a column of labels; --label is for lists without them.")
    urls = _column(cells, URL)
    if lacking := URL if not urls else GUESSED["label"] if not said and not label else ():
        raise DataError(
            f"{cells.where} has no column called {', '.join(lacking[:-1])} or {lacking[-1]}. "
            f"Its columns are {', '.join(map(repr, cells.header))}."
        )
    labels = [unicodedata.normalize("NFC", cell) for cell in said or given]
    none = [""] * len(cells.rows)
    columns = (urls, labels, _column(cells, SOURCE) or none, _column(cells, LICENCE) or none)
    return [Row(*row) for row in zip(*columns, strict=True)]


def _column(cells: Cells, names: Sequence[str]) -> list[str]:
    """The first column that is called one of these names; nothing where there is none."""
    called = [name.lower() for name in cells.header]
    at = next((called.index(name) for name in names if name in called), None)
    return [] if at is None else [row[at] for row in cells.rows]
