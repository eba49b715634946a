"""Input list of a collection: a URL and a label for each image, and the folder of each label."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from graft.data.readers.columns import COLUMN_NAMES, TableCells
from graft.data.readers.text_table import decode_table_text, parse_cells, read_table_bytes
from graft.errors import DataError, UsageError

URL_COLUMNS = ("url", "urls", "image_url", "link", "href", "src")
SOURCE_COLUMNS = ("source", "page", "source_url", "page_url")
LICENCE_COLUMNS = ("licence", "license")
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)  # file names on Windows
SKIPPED = ("thumbs.db", "desktop.ini", "__macosx")  # names that the reader of class folders skips
MAX_NAME_BYTES = 200  # of a folder's name; file systems allow 255


@dataclass(frozen=True)
class UrlRow:
    """One row of the list. `source` and `licence` only go into the manifest; `fault` is why it cannot be fetched."""

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


def read_rows(path: Path, label: str = "") -> list[UrlRow]:
    """Read the rows of a table (CSV, TSV), or of a text file (.txt) with one URL per line.

    `label` is for a list without labels. Raises DataError and UsageError.
    """
    label = unicodedata.normalize("NFC", label.strip())
    raw = read_table_bytes(path)
    if path.suffix.lower() == ".txt":
        rows = _from_text(path, decode_table_text(str(path), raw), label)
    else:
        rows = _from_table(parse_cells(str(path), raw), label)
    if not rows:
        raise DataError(f"{path} lists no URL.")
    return rows


def _from_text(path: Path, text: str, label: str) -> list[UrlRow]:
    if not label:
        raise UsageError(f"{path} is a list of URLs without labels: say what they show with --label NAME.")
    lines = [line.strip() for line in text.splitlines()]
    return [UrlRow(line, label) for line in lines if line and not line.startswith("#")]


def _from_table(cells: TableCells, label: str) -> list[UrlRow]:
    table_labels, given = _find_column(cells, COLUMN_NAMES["label"]), [label] * len(cells.rows)
    if label and table_labels:
        raise UsageError(f"{cells.where} has a column of labels; --label is for lists without them.")
    urls = _find_column(cells, URL_COLUMNS)
    if lacking := URL_COLUMNS if not urls else COLUMN_NAMES["label"] if not table_labels and not label else ():
        raise DataError(
            f"{cells.where} has no column called {', '.join(lacking[:-1])} or {lacking[-1]}. "
            f"Its columns are {', '.join(map(repr, cells.header))}."
        )
    labels = [unicodedata.normalize("NFC", cell) for cell in table_labels or given]
    none = [""] * len(cells.rows)
    columns = (urls, labels, _find_column(cells, SOURCE_COLUMNS) or none, _find_column(cells, LICENCE_COLUMNS) or none)
    return [UrlRow(*row) for row in zip(*columns, strict=True)]


def _find_column(cells: TableCells, names: Sequence[str]) -> list[str]:
    """Return the first column with one of these names; [] where there is none."""
    header = [name.lower() for name in cells.header]
    at = next((header.index(name) for name in names if name in header), None)
    return [] if at is None else [row[at] for row in cells.rows]


# --- folder names -----------------------------------------------------------------------------------------------------


def assign_folders(labels: Iterable[str]) -> dict[str, str]:
    """Return the folder of each label: the label itself wherever possible.

    Raises DataError for two labels with one folder (also where only case differs, as macOS and Windows ignore it) and
    for a label that is too long.
    """
    found: dict[str, str] = {}
    taken: dict[str, str] = {}
    for label in dict.fromkeys(labels):
        folder = _safe_name(label)
        if len(folder.encode()) > MAX_NAME_BYTES:
            raise DataError(
                f"The label {label[:40]!r}... is too long for the name of a folder. Shorten it in the list."
            )
        other = taken.setdefault(folder.casefold(), label)
        if other != label:
            raise DataError(
                f"The labels {other!r} and {label!r} would fall on one folder, {folder!r}. "
                f"Write them alike in the list if they mean the same, or tell them further apart."
            )
        found[label] = folder
    return found


def _safe_name(label: str) -> str:
    text = unicodedata.normalize("NFC", label)
    text = "".join("_" if _is_unsafe(letter) else letter for letter in text).strip()
    text = re.sub(r"[. ]+$", "_", text)  # Windows drops dots and blanks at the end
    if text.startswith(".") or RESERVED.fullmatch(text) or text.lower() in SKIPPED:
        text = f"_{text.lstrip('.')}"
    return text or "_"


def _is_unsafe(letter: str) -> bool:
    return letter in '/\\:*?"<>|' or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")
