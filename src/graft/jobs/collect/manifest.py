"""Outcome of each URL: the journal during a collection, and manifest.csv after it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from graft import atomic
from graft.errors import OutputError
from graft_runtime import safe_files

MANIFEST = "manifest.csv"
JOURNAL = "journal.jsonl"
MAX_FILE_BYTES = 1 << 32  # of either file: ten million lines

FETCHED = "fetched"  # of an outcome; in a row of the manifest it becomes one of the next three
DONE, DUPLICATE, CONFLICT = "done", "duplicate", "conflict"
REFUSED, FAILED, WAITING = "refused", "failed", "waiting"
SETTLED = (DONE, DUPLICATE, CONFLICT)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one URL: a file, named by its content, or the reason why there is none."""

    url: str
    status: str
    reason: str = ""
    final_url: str = ""
    name: str = ""
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    when: str = ""


@dataclass(frozen=True)
class ManifestRow:
    """One row of manifest.csv; `file` is relative to the folder that it lies in."""

    url: str
    final_url: str
    file: str
    label: str
    sha256: str
    bytes: int
    width: int
    height: int
    source: str
    licence: str
    when: str
    status: str
    reason: str

    @property
    def key(self) -> tuple[str, str]:
        return self.url, self.label

    def to_outcome(self) -> Outcome | None:
        """Return the URL's outcome; None where it was not requested."""
        if self.status == WAITING or not (self.url and self.label):
            return None
        status = FETCHED if self.status in SETTLED else self.status
        what = (self.sha256, self.bytes, self.width, self.height, self.when)
        return Outcome(self.url, status, self.reason, self.final_url, Path(self.file).name, *what)


COLUMNS = [field.name for field in fields(ManifestRow)]
NUMBERS = ("bytes", "width", "height")


class OutcomeJournal:
    """Append-only file of outcomes, one line each: a killed run loses at most the line that it was writing."""

    def __init__(self, path: Path) -> None:
        self.outcomes: dict[str, Outcome] = {}
        raw = safe_files.read_limited(path, MAX_FILE_BYTES) if path.exists() else b""
        kept = raw[: raw.rfind(b"\n") + 1]
        for line in kept.splitlines():
            with suppress(ValueError, TypeError):  # a damaged line: its URL is fetched again
                outcome = Outcome(**json.loads(line))
                self.outcomes[outcome.url] = outcome
        self._file: BinaryIO = path.open("r+b" if path.exists() else "xb")
        self._file.truncate(len(kept))
        self._file.seek(len(kept))

    def add(self, outcome: Outcome) -> None:
        self._file.write(json.dumps(asdict(outcome)).encode() + b"\n")
        self._file.flush()
        self.outcomes[outcome.url] = outcome

    def close(self) -> None:
        self._file.close()


def read(folder: Path) -> list[ManifestRow]:
    """Read the manifest in a folder; [] where there is none. Raises OutputError for one that graft did not write."""
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        text = safe_files.read_limited(path, MAX_FILE_BYTES).decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if header != COLUMNS:
            raise ValueError("its columns are others")
        return [_parse_row(row) for row in rows]
    except (ValueError, csv.Error) as error:  # ValueError includes UnicodeDecodeError
        raise OutputError(f"{path} was not written by graft collect ({error}). Choose another --output.") from error


def write(folder: Path, lines: Iterable[ManifestRow]) -> None:
    """Replace the manifest atomically. Raises OSError."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    table.writerows([_escape_formula(str(value)) for value in astuple(line)] for line in lines)
    with atomic.atomic_file(folder / MANIFEST) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def _parse_row(row: Sequence[str]) -> ManifestRow:
    cells = dict(zip(COLUMNS, map(_unescape_formula, row), strict=True))
    return ManifestRow(**{name: int(cell) if name in NUMBERS else cell for name, cell in cells.items()})  # type: ignore[arg-type]


def _escape_formula(text: str) -> str:
    """Quote what a spreadsheet would run as a formula; `_unescape_formula` is the inverse."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else text


def _unescape_formula(text: str) -> str:
    return text.removeprefix("'")
