"""What became of each URL: the journal while a collection is under way, and manifest.csv when it is over."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from graft.errors import OutputError
from graft.model import whole
from graft_runtime import regular

MANIFEST = "manifest.csv"
JOURNAL = "journal.jsonl"
MOST = 1 << 32  # bytes of either: ten million lines

FETCHED = "fetched"  # of an outcome; a line of the manifest says which of the next three that means
DONE, DUPLICATE, CONFLICT = "done", "duplicate", "conflict"
REFUSED, FAILED, WAITING = "refused", "failed", "waiting"
SETTLED = (DONE, DUPLICATE, CONFLICT)


@dataclass(frozen=True)
class Outcome:
    """What came of one URL: a file, by the name that its content gives it, or the reason why there is none."""

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
class Line:
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

    def outcome(self) -> Outcome | None:
        """What is known of the URL from this line; None where it was not asked for."""
        if self.status == WAITING or not (self.url and self.label):
            return None
        status = FETCHED if self.status in SETTLED else self.status
        what = (self.sha256, self.bytes, self.width, self.height, self.when)
        return Outcome(self.url, status, self.reason, self.final_url, Path(self.file).name, *what)


COLUMNS = [field.name for field in fields(Line)]
NUMBERS = ("bytes", "width", "height")


class Journal:
    """Outcomes as they come, one line each: a run that is killed loses at most the line that it was writing."""

    def __init__(self, path: Path) -> None:
        self.outcomes: dict[str, Outcome] = {}
        raw = regular.read(path, MOST) if path.exists() else b""
        kept = raw[: raw.rfind(b"\n") + 1]
        for line in kept.splitlines():
            with suppress(ValueError, TypeError):  # a damaged line: its URL is asked for again
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


def read(folder: Path) -> list[Line]:
    """The lines of the manifest in a folder, none if there is none. Raises OutputError for one that is not ours."""
    path = folder / MANIFEST
    if not path.exists():
        return []
    try:
        text = regular.read(path, MOST).decode()
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if header != COLUMNS:
            raise ValueError("its columns are others")
        return [_line(row) for row in rows]
    except (ValueError, csv.Error) as error:  # UnicodeDecodeError among them
        raise OutputError(f"{path} was not written by graft collect ({error}). Choose another --output.") from error


def write(folder: Path, lines: Iterable[Line]) -> None:
    """Replace the manifest, whole or not at all. Raises OSError."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(COLUMNS)
    table.writerows([_harmless(str(value)) for value in astuple(line)] for line in lines)
    with whole.file(folder / MANIFEST) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))


def _line(row: Sequence[str]) -> Line:
    cells = dict(zip(COLUMNS, map(_plain, row), strict=True))
    return Line(**{name: int(cell) if name in NUMBERS else cell for name, cell in cells.items()})  # type: ignore[arg-type]


def _harmless(text: str) -> str:
    """Spreadsheets run what begins like a formula; `_plain` is the way back."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "'")) else text


def _plain(text: str) -> str:
    return text.removeprefix("'")
