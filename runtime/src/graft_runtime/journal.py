"""Resumable writing of rows to a file: a stopped run goes on where it ended.

Beside `answers.csv` grow `answers.csv.part`, the rows, and `answers.csv.part.log`: a line that describes the
run, then one for each block of rows with how far the part is whole, and a checksum. Both go when the last
row is there. A block is what went through the network together: going on from the end of one, the same images share
a batch as in a run that nobody stopped, so that the numbers are the same to the last bit.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

try:
    import fcntl
except ImportError:  # Windows, where two runs into one file are not told apart
    fcntl = None

LOG_KIND = "graft answers 1"  # by which a log is known as ours


@dataclass(frozen=True)
class Mark:
    """How far a part is whole: so many rows, of which so many are faults, up to this byte, with this checksum."""

    rows: int = 0
    faults: int = 0
    end: int = 0
    sum: int = 0


def _open(path: Path, mode: str) -> BinaryIO:
    """Open a file without following a symbolic link, which somebody else may have left there."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return cast(BinaryIO, open(path, mode, buffering=0, opener=opener))


class Journal:
    """The rows of one file. `mark` is how far it is; a fresh one is at its beginning, with the heading to come.

    Raises OSError, with a message for people, for a part that was left and is not to be gone on with, one of another
    run, one that another run is writing to, and a disk that is full.
    """

    def __init__(self, place: Path, about: Mapping[str, Any], *, resume: bool, force: bool) -> None:
        check_leftovers(place, resume=resume, force=force)
        self.place, (self.part, self._log_path) = place, _part_paths(place)
        self.mark = Mark()
        is_resumed = resume and _has_content(self._log_path)
        try:
            with ExitStack() as files:
                self._log = files.enter_context(_open(self._log_path, "r+b" if is_resumed else "a+b"))
                _lock(self._log, place)
                again = is_resumed and self.part.exists()
                self._rows = files.enter_context(_open(self.part, "r+b" if again else "wb"))
                if is_resumed:
                    self._resume(about)
                else:
                    self._log.truncate(0)
                    _write(self._log, json.dumps({"kind": LOG_KIND} | dict(about)).encode() + b"\n")
                self._files = files.pop_all()
        except OSError as error:
            raise self._explain(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._files.close()

    def add(self, rows: Iterable[Sequence[object]], count: int = 0, faults: int = 0) -> None:
        """Append a block of rows with its number of images and faults; written unbuffered before this returns."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        data = text.getvalue().encode("utf-8", "backslashreplace")  # names of files may be no Unicode
        old = self.mark
        mark = Mark(old.rows + count, old.faults + faults, old.end + len(data), zlib.crc32(data, old.sum))
        try:
            _write(self._rows, data)
            _write(self._log, f"{mark.rows} {mark.faults} {mark.end} {mark.sum}\n".encode())
        except OSError as error:
            raise self._explain(error) from error
        self.mark = mark

    def finish(self, publish: Callable[[Path, Path], None]) -> None:
        """Flush to disk, `publish` the part as the final file, and delete the log."""
        try:
            os.fsync(self._rows.fileno())
            self._rows.close()
            publish(self.part, self.place)
            self.part.unlink(missing_ok=True)
            self._log.close()
            self._log_path.unlink()
        except OSError as error:
            raise self._explain(error) from error

    def _resume(self, about: Mapping[str, Any]) -> None:
        """Truncate both files after the last complete block of the same run. Raises OSError for another run."""
        lines = self._log.read().split(b"\n")
        begun = _parse_header(lines[0])
        if begun is None:
            raise OSError(f"{self._log_path} was not written by graft. Move it, or choose another name.")
        if differs := ", ".join(_list_differences(begun, about)):
            raise OSError(
                f"{self.part} was begun otherwise: {differs}. Give the same command as then, or use --force without "
                "--resume to start anew."
            )
        kept = len(lines[0]) + 1
        for line, mark in _parse_marks(lines[1:-1]):  # what follows the last end of a line is torn
            data = self._rows.read(mark.end - self.mark.end)
            if mark.end != self.mark.end + len(data) or zlib.crc32(data, self.mark.sum) != mark.sum:
                break
            self.mark, kept = mark, kept + len(line) + 1
        for file, end in ((self._rows, self.mark.end), (self._log, kept)):
            file.truncate(end)
            file.seek(end)

    def _explain(self, error: OSError) -> OSError:
        if error.errno is None:  # one of ours
            return error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "the disk is full" if full else error.strerror or str(error)
        kept = f"{self.mark.rows:,} answers are kept"
        return OSError(f"{self.place} cannot be written: {what}. {kept}: the same command with --resume goes on.")


def check_leftovers(place: Path, *, resume: bool, force: bool) -> None:
    """Raise OSError if an earlier run left files behind, unless `resume` or `force`."""
    part, log = _part_paths(place)
    if part.exists() and not log.exists():
        raise FileExistsError(f"{part} is there, and no run of graft belongs to it. Move it, or choose another name.")
    if _has_content(log):
        with log.open("rb") as file:
            if _parse_header(file.readline()) is None:
                raise FileExistsError(f"{log} was not written by graft. Move it, or choose another name.")
    if part.exists() and not (resume or force):
        raise FileExistsError(
            f"{part} is there: an earlier run was stopped. Use --resume to go on with it, or --force to start anew."
        )


def _has_content(log: Path) -> bool:
    """Whether the log has content: on a full disk even the first line may be missing."""
    return log.exists() and log.stat().st_size > 0


def _part_paths(place: Path) -> tuple[Path, Path]:
    return place.with_name(f"{place.name}.part"), place.with_name(f"{place.name}.part.log")


def _parse_header(line: bytes) -> dict[str, Any] | None:
    """Parse the first line of a log; None if graft did not write it."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.get("kind") == LOG_KIND else None


def _list_differences(begun: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences between the two runs in words; long values are not spelled out."""
    for name, now in about.items():
        then = begun.get(name)
        if then != json.loads(json.dumps(now)):
            short = max(len(str(then)), len(str(now))) < 30
            yield f"{name} was {then} and is {now}" if short else f"{name} is another"


def _parse_marks(lines: Iterable[bytes]) -> Iterator[tuple[bytes, Mark]]:
    """Yield (line, mark) of each block of a log, as far as it is intact."""
    for line in lines:
        numbers = line.split()
        if len(numbers) != 4 or not all(number.isdigit() for number in numbers):
            return
        yield line, Mark(*map(int, numbers))


def _write(file: Any, data: bytes) -> None:
    """Write all of the data: an unbuffered write may be partial."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _lock(log: BinaryIO | Any, place: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(f"Another run is writing to {place}. Wait for it, or choose another name.") from error
