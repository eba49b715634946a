"""Fetch a list of image URLs into class folders with a manifest.

During a run, images are kept in OUTPUT/.collect with a journal of the outcome of each URL. Only after all URLs have
been tried are they sorted into class folders, in the order of the list: so a run that was killed and resumed ends with
the same folder as one that was not.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from graft import atomic
from graft.data.readers.columns import COLUMN_NAMES, TableCells
from graft.data.readers.folder import natural_key
from graft.data.readers.tables import decode_table_text, parse_cells, read_table_bytes
from graft.errors import DataError, OutputError, UsageError
from graft.jobs.collect import manifest
from graft.jobs.collect.crawl import crawl
from graft.jobs.collect.fetch import FetchLimits
from graft.jobs.collect.manifest import (
    CONFLICT,
    DONE,
    DUPLICATE,
    FAILED,
    FETCHED,
    REFUSED,
    SETTLED,
    WAITING,
    ManifestRow,
    Outcome,
    OutcomeJournal,
)
from graft.progress import ProgressTask, ProgressWrapper, no_progress
from graft_runtime import safe_files

STAGING_FOLDER = ".collect"


@dataclass(frozen=True)
class CollectResult:
    """Result of a collection: a manifest row for each row of the list, and for those of earlier lists."""

    folder: Path
    rows: Sequence[ManifestRow]

    def summary(self) -> dict[str, Any]:
        """Return counts by class and status, with reasons, and the conflicts, for JSON."""
        states = Counter(line.status for line in self.rows)
        done = [line for line in self.rows if line.status == DONE]
        classes = Counter(line.label for line in done)
        return {
            "folder": str(self.folder),
            "manifest": str(self.folder / manifest.MANIFEST),
            "images": len(done),
            "bytes": sum(line.bytes for line in done),
            "classes": {label: classes[label] for label in sorted(classes, key=natural_key)},
            "duplicates": states[DUPLICATE],
            "conflicts": [f"{line.url}: {line.reason}" for line in self.rows if line.status == CONFLICT],
            REFUSED: self._reasons(REFUSED),
            FAILED: self._reasons(FAILED),
            WAITING: states[WAITING],
        }

    def _reasons(self, status: str) -> dict[str, int]:
        counts = Counter(line.reason.partition(": ")[0] for line in self.rows if line.status == status)
        return dict(counts.most_common())


def collect(
    source: str | Path,
    output: str | Path,
    *,
    label: str = "",
    limits: FetchLimits | None = None,
    retry: bool = False,
    watch: ProgressWrapper = no_progress,
) -> CollectResult:
    """Fetch the images of a list of URLs into class folders with a manifest.csv.

    `source` is a table with columns url and label, or a .txt of URLs that are all of one `label`. What an earlier run
    fetched into the same folder is not fetched again; URLs refused for good are tried again only with `retry`.

    Raises GraftError: UsageError, DataError for an invalid list or labels, OutputError for a folder that cannot be
    written to.
    """
    rows, limits, output = read_rows(Path(source), label), limits or FetchLimits(), Path(output)
    class_folders = {
        name: output / folder for name, folder in assign_folders(row.label for row in rows if not row.fault).items()
    }
    with _lock_output(output) as staging:
        old_lines = manifest.read(output)
        with closing(OutcomeJournal(staging / manifest.JOURNAL)) as journal:
            known = _load_outcomes(old_lines, journal, staging, class_folders)
            urls = dict.fromkeys(row.url for row in rows if not row.fault)
            again = (FAILED, REFUSED) if retry else (FAILED,)
            wanted = [url for url in urls if url not in known or known[url].status in again]
            work = ProgressTask("images", done_before=len(urls) - len(wanted))
            for outcome in watch(crawl(wanted[: limits.max_urls], staging, limits), work, len(urls)):
                journal.add(outcome)
                known[outcome.url] = outcome
        lines = sort_into_folders(rows, known, old_lines, staging, class_folders)
        manifest.write(output, lines)
        _clear(staging)
    return CollectResult(output, lines)


def _load_outcomes(
    old_lines: Sequence[ManifestRow], journal: OutcomeJournal, staging: Path, class_folders: Mapping[str, Path]
) -> dict[str, Outcome]:
    """Return the outcomes by URL of earlier runs: from the manifest, and from the journal of an interrupted run."""
    known: dict[str, Outcome] = {}
    for line in old_lines:
        outcome = line.to_outcome()
        if outcome and not (line.url in known and known[line.url].status == FETCHED):
            known[line.url] = outcome
    lost = {url: each for url, each in journal.outcomes.items() if each.name and not (staging / each.name).exists()}
    if lost:  # killed while it sorted, or the power failed
        sorted_names = {
            path.name for folder in set(class_folders.values()) if folder.is_dir() for path in folder.iterdir()
        }
        lost = {url: each for url, each in lost.items() if each.name not in sorted_names}
    return known | {url: each for url, each in journal.outcomes.items() if url not in lost}


@contextmanager
def _lock_output(output: Path) -> Iterator[Path]:
    """Lock the output for this run, remove the leftovers of a killed one, and give the staging folder."""
    staging, lock = output / STAGING_FOLDER, FileLock(output / f"{STAGING_FOLDER}.lock", timeout=0)
    try:
        staging.mkdir(parents=True, exist_ok=True)
        with lock:
            for path in staging.iterdir():
                if atomic.LEFTOVER.fullmatch(path.name):
                    path.unlink()
            yield staging
            Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise OutputError(f"Another run is collecting into {output}. Wait for it, or choose another folder.") from error
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{error.filename or output} cannot be written: {atomic.describe_error(error)}. "
            f"What was fetched is kept: the same command goes on."
        ) from error


def _clear(staging: Path) -> None:
    for path in staging.iterdir():
        path.unlink()
    staging.rmdir()


# --- sorting into class folders ---------------------------------------------------------------------------------------


def sort_into_folders(
    rows: Sequence[UrlRow],
    known: Mapping[str, Outcome],
    old_lines: Sequence[ManifestRow],
    staging: Path,
    class_folders: Mapping[str, Path],
) -> list[ManifestRow]:
    """Move images from `staging` to the folder of their label, in the order of the list; return the manifest's rows.

    Images of an earlier run stay where they are. The same content a second time is a duplicate under the same label, a
    conflict under another one: the first is kept. Rows that are no longer in the list come last. Raises OSError.
    """
    earlier = {line.key: line for line in reversed(old_lines)}  # of a row that was listed twice the first counts
    kept = {line.sha256: line for line in old_lines if line.status == DONE}
    lines: list[ManifestRow] = []
    listed: dict[tuple[str, str], ManifestRow] = {}
    for row in rows:
        if row.key in listed and not row.fault:
            lines.append(replace(listed[row.key], status=DUPLICATE, reason="listed twice"))
            continue
        line = earlier.get(row.key)
        if line is None or line.status not in SETTLED:
            line = _place_row(row, known, kept, staging, class_folders)
        listed[row.key] = line
        lines.append(line)
    return lines + [line for line in old_lines if line.key not in listed]


def _place_row(
    row: UrlRow,
    known: Mapping[str, Outcome],
    kept: dict[str, ManifestRow],
    staging: Path,
    class_folders: Mapping[str, Path],
) -> ManifestRow:
    if row.fault:
        return _build_row(row, Outcome(row.url, REFUSED, row.fault))
    outcome = known.get(row.url, Outcome(row.url, WAITING, "not fetched yet"))
    if outcome.status != FETCHED:
        return _build_row(row, outcome)
    if first := kept.get(outcome.sha256):
        if first.label == row.label:
            return replace(_build_row(row, outcome), file=first.file, status=DUPLICATE, reason=f"same as {first.url}")
        where = f"same as {first.url}, which is {first.label!r}"
        return replace(_build_row(row, outcome), status=CONFLICT, reason=where)
    place = class_folders[row.label] / outcome.name
    if fault := _move_image(staging / outcome.name, place, outcome.sha256):
        return _build_row(row, replace(outcome, status=REFUSED, reason=fault))
    line = replace(_build_row(row, outcome), file=f"{place.parent.name}/{place.name}", status=DONE)
    kept[outcome.sha256] = line
    return line


def _move_image(fresh: Path, place: Path, sha256: str) -> str:
    """Move an image to its folder, where a killed run may have put it already; return why not, '' on success."""
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        fresh.rename(place)
    elif _file_sha256(place) != sha256:
        return f"another file is called so: {place.name}"
    return ""


def _file_sha256(place: Path) -> str:
    with safe_files.open_regular(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build_row(row: UrlRow, outcome: Outcome) -> ManifestRow:
    content = (outcome.sha256, outcome.bytes, outcome.width, outcome.height)
    known = (outcome.when, outcome.status, outcome.reason)
    return ManifestRow(row.url, outcome.final_url, "", row.label, *content, row.source, row.licence, *known)


# --- input list -------------------------------------------------------------------------------------------------------

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
