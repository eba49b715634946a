"""A list of URLs to class folders of pictures, top to bottom.

While it is under way, pictures lie in OUTPUT/.collect with a journal of what came of each URL. Only when all URLs are
through are they sorted into class folders, in the order of the list: so a run that was killed and goes on ends with the
same folder as one that was not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from graft.data.read.layout import natural
from graft.errors import OutputError
from graft.jobs.collect import manifest
from graft.jobs.collect.crawl import crawl
from graft.jobs.collect.limits import Limits
from graft.jobs.collect.manifest import (
    CONFLICT,
    DONE,
    DUPLICATE,
    FAILED,
    FETCHED,
    REFUSED,
    WAITING,
    Journal,
    Line,
    Outcome,
)
from graft.jobs.collect.names import folders
from graft.jobs.collect.rows import read_rows
from graft.jobs.collect.settle import settle
from graft.model import whole
from graft.progress import Watch, Work, unwatched

STAGE = ".collect"


@dataclass(frozen=True)
class Collected:
    """What lies in the folder now, and why the rest does not: a line for each row of the list, and of earlier ones."""

    folder: Path
    lines: Sequence[Line]

    def summary(self) -> dict[str, Any]:
        """Counts, with reasons, and the conflicts."""
        states = Counter(line.status for line in self.lines)
        done = [line for line in self.lines if line.status == DONE]
        classes = Counter(line.label for line in done)
        return {
            "folder": str(self.folder),
            "manifest": str(self.folder / manifest.MANIFEST),
            "pictures": len(done),
            "bytes": sum(line.bytes for line in done),
            "classes": {label: classes[label] for label in sorted(classes, key=natural)},
            "duplicates": states[DUPLICATE],
            "conflicts": [f"{line.url}: {line.reason}" for line in self.lines if line.status == CONFLICT],
            REFUSED: self._reasons(REFUSED),
            FAILED: self._reasons(FAILED),
            WAITING: states[WAITING],
        }

    def _reasons(self, status: str) -> dict[str, int]:
        said = Counter(line.reason.partition(": ")[0] for line in self.lines if line.status == status)
        return dict(said.most_common())


def collect(
    source: str | Path,
    output: str | Path,
    *,
    label: str = "",
    limits: Limits | None = None,
    retry: bool = False,
    watch: Watch = unwatched,
) -> Collected:
    """Fetch the pictures that a list of URLs names, and sort them into class folders with a manifest.csv.

    `source` is a table with columns url and label, or a .txt of URLs that are all of one `label`. What was done by an
    earlier run into the same folder is not fetched again; what was refused for good only with `retry`.

    Raises GraftError: UsageError, DataError for a list or labels that cannot be, OutputError for a folder that cannot
    be written to.
    """
    rows, limits, output = read_rows(Path(source), label), limits or Limits(), Path(output)
    places = {name: output / folder for name, folder in folders(row.label for row in rows if not row.fault).items()}
    with _claimed(output) as stage:
        before = manifest.read(output)
        with closing(Journal(stage / manifest.JOURNAL)) as journal:
            known = _known(before, journal, stage, places)
            asked = dict.fromkeys(row.url for row in rows if not row.fault)
            again = (FAILED, REFUSED) if retry else (FAILED,)
            wanted = [url for url in asked if url not in known or known[url].status in again]
            work = Work("pictures", before=len(asked) - len(wanted))
            for outcome in watch(crawl(wanted[: limits.count], stage, limits), work, len(asked)):
                journal.add(outcome)
                known[outcome.url] = outcome
        lines = settle(rows, known, before, stage, places)
        manifest.write(output, lines)
        _clear(stage)
    return Collected(output, lines)


def _known(before: Sequence[Line], journal: Journal, stage: Path, places: Mapping[str, Path]) -> dict[str, Outcome]:
    """What earlier runs found out about URLs: those that ended, and the one that was interrupted."""
    known: dict[str, Outcome] = {}
    for line in before:
        outcome = line.outcome()
        if outcome and not (line.url in known and known[line.url].status == FETCHED):
            known[line.url] = outcome
    lost = {url: each for url, each in journal.outcomes.items() if each.name and not (stage / each.name).exists()}
    if lost:  # killed while it sorted, or the power failed
        there = {path.name for folder in set(places.values()) if folder.is_dir() for path in folder.iterdir()}
        lost = {url: each for url, each in lost.items() if each.name not in there}
    return known | {url: each for url, each in journal.outcomes.items() if url not in lost}


@contextmanager
def _claimed(output: Path) -> Iterator[Path]:
    """The folder for what is under way, kept for this run alone; what a killed writer left is gone."""
    stage, lock = output / STAGE, FileLock(output / f"{STAGE}.lock", timeout=0)
    try:
        stage.mkdir(parents=True, exist_ok=True)
        with lock:
            for path in stage.iterdir():
                if whole.LEFT.fullmatch(path.name):
                    path.unlink()
            yield stage
            Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise OutputError(f"Another run is collecting into {output}. Wait for it, or choose another folder.") from error
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{error.filename or output} cannot be written: {whole.reason(error)}. "
            f"What was fetched is kept: the same command goes on."
        ) from error


def _clear(stage: Path) -> None:
    for path in stage.iterdir():
        path.unlink()
    stage.rmdir()
