"""The faults that graft is to withstand, and what came of each: `make faults` prints the table.

A test that tries a fault says so with `@pytest.mark.fault(7)`; it may try several, and a fault may have several tests.
"""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

FAULTS: dict[int, tuple[str, str]] = {  # number: what is tried, what is expected
    1: ("a file of no bytes", "left out and named: 'empty file'; nothing else changes"),
    2: ("HTML or text called .jpg", "left out and named: 'not an image'"),
    3: (
        "JPEG and PNG cut off anywhere",
        "left out before training: 'truncated'; without its last two bytes a JPEG has all its pixels, and is used",
    ),
    4: (
        "200 bytes zeroed in the middle of a JPEG",
        "decoded or refused, nobody can tell; its features are never mixed up with those of the sound file",
    ),
    5: ("a file deleted while training", "an error that names it, exit code 3; put back, --resume goes on"),
    6: ("files and folders without permission", "left out and named: 'Permission denied'"),
    7: ("every image is bad", "an error before training, with the reasons counted, exit code 3"),
    8: ("half of the images are bad", "trained on the rest; told as 'careful', each named (no limit refuses a set)"),
    9: ("grey images, with and without transparency", "three equal channels"),
    10: ("grey of 12, 16 and 32 bits", "the whole range is scaled: 256 levels of a 16-bit ramp"),
    11: ("floats, with NaN and infinities", "smallest finite value to black, largest to white; none finite: refused"),
    12: ("CMYK of pure red", "red"),
    13: ("transparent colour", "laid on white"),
    14: ("palettes with transparency", "as transparent colour, without a warning"),
    15: ("animations and files of several pages", "the first frame counts"),
    16: ("EXIF orientations 1 to 8, and a broken EXIF block", "eight times the same upright image; as it is stored"),
    17: (
        "13,000 x 13,000 pixels in a PNG of 493 kB, and 40 other bombs",
        "'too large' at once, in no memory, by the decoder and the server",
    ),
    18: ("EPS, FITS, PSD, WMF, JPEG 2000, HDF5, DICOM", "never opened by their readers; told what they are, a way out"),
    19: ("images of 1 x 1, 1 x 5000 and 5000 x 1 pixels", "trained on and answered, the same by an export"),
    20: ("a class folder without images", "named; no class comes of it"),
    21: ("classes of one and two images", "one: trained on, named as untested; two: one on each side"),
    22: ("one class only", "an error that asks for two"),
    23: (
        "class names: 日本, emoji, -rf, <script>, =1+1, line breaks, 200 bytes, accents in two forms",
        "the same through files, screen, HTML, CSV and server; control characters and twins are errors",
    ),
    24: ("classes 1 to 12", "one order in training, file, export, runtime and server"),
    25: ("a test folder that lacks a class or has one more", "matched by name: not judged; listed and scored apart"),
    26: (
        "tables with BOM, CRLF, lone CR, ';', quotes, blank lines, back-slashes, old encodings",
        "the data set of the clean table",
    ),
    27: (
        "rows whose file is missing, that stand there twice, that contradict",
        "named as a fault (an error with --strict, or if most are); counted once; an error",
    ),
    28: (
        "one image in training and test part: copied, saved again, mirrored",
        "kept on one side by graft's own split; in a ready-made one reported",
    ),
    29: ("links to the parent, to themselves, twice to one folder, to nowhere", "each image once, no hang, counted"),
    30: ("paths of 300 characters, blanks, é, line breaks, bytes that are no Unicode", "trained on, escaped; counted"),
    31: (
        "archives with ../, absolute names, links; bombs; 10^6 members; cut or damaged",
        "left out or refused, nothing written outside, no more unpacked than allowed",
    ),
    32: ("a malicious pickle as classifier, weights, checkpoint, export", "refused, and never run"),
    33: (
        "a saved or exported classifier: byte flipped, cut, entry missing, newer, other classes",
        "a message of its own each; exit code 5",
    ),
    34: (
        "the disk is full in fit, checkpoint, cache, export, predict, update, evaluate",
        "exit code 6 with the place; what was there before is whole; with room the same command goes on",
    ),
    35: (
        "an output folder that is read-only, in the way, vanishes, or lies on another file system",
        "told before any work; written as anywhere else",
    ),
    36: ("two runs into one place", "the second is refused within a second; a kill of the first frees it"),
    37: (
        "NaN, infinity or an exploding loss in training",
        "stopped before it touches the weights, the best epoch kept; no such number in any file",
    ),
    38: ("memory runs out in training", "the batch is halved, the result the same; not even one image: an error"),
    39: (
        "a process of the decoder killed or stuck; /dev/shm of 64 kB",
        "no image lost, no hang; training has no processes and needs no shared memory",
    ),
    40: (
        "Ctrl-C, SIGTERM and kill -9 at any moment of fit, check, predict, update, export, collect",
        "old or new, never neither; the same command gives what an undisturbed run gives; 130 for Ctrl-C",
    ),
    41: ("the clock set back and forth; LC_ALL=C, no UTF-8 mode, Turkish", "the same files, byte for byte"),
    42: ("no network, weights absent", "exit code 4 at once, with the places looked in; no socket with --offline"),
    43: (
        "server: no token, bodies too long, of a wrong kind, without end; slow headers and bodies",
        "401, 413, 415, 400, 408, or closed; everybody else is answered",
    ),
    44: (
        "server: model file replaced while it answers, by a good and a bad one; no files left to open",
        "the old one answers until the new one has passed its check; 503 and no end",
    ),
}


def rows(found: Mapping[int, Mapping[str, str]]) -> Iterator[tuple[int, str, str, str]]:
    """Number, what was tried, what was expected, what happened; `found` has the outcome of each test of a fault."""
    for number, (tried, expected) in FAULTS.items():
        outcomes = found.get(number, {})
        failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
        passed = sum(outcome == "passed" for outcome in outcomes.values())
        if failed:
            happened = f"FAILED: {failed[0]}"
        elif passed:
            happened = f"as expected ({passed} test{'s' * (passed > 1)})"
        else:
            happened = "NOT TRIED" if outcomes else "NO TEST"
        yield number, tried, expected, happened


class Outcomes:
    """Hears every test of a fault and prints the table at the end."""

    def __init__(self) -> None:
        self.found: dict[int, dict[str, str]] = defaultdict(dict)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            numbers = {number for mark in item.iter_markers("fault") for number in mark.args}
            item.user_properties.append(("faults", sorted(numbers)))  # what reaches the process that prints

    def pytest_runtest_logreport(self, report: Any) -> None:
        for number in dict(report.user_properties).get("faults", ()):
            before = self.found[number].get(report.nodeid)
            if report.outcome == "failed" or before is None or (before, report.outcome) == ("passed", "skipped"):
                self.found[number][report.nodeid] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if not exitstatus and not all(happened.startswith("as expected") for *_, happened in rows(self.found)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        lines = list(rows(self.found))
        good = sum(happened.startswith("as expected") for *_, happened in lines)
        terminalreporter.section("faults")
        for line in ((0, "what was tried", "what is expected", "what happened"), *lines):
            number, *texts = line
            cells = [textwrap.wrap(text, 40, break_long_words=False) for text in texts]
            for at in range(max(map(len, cells))):
                first = f"F{number:02}" if number and not at else ""
                row = [first.ljust(4), *((cell[at] if at < len(cell) else "").ljust(41) for cell in cells)]
                terminalreporter.write_line(" ".join(row).rstrip())
        terminalreporter.write_line(f"\n{good} of {len(FAULTS)} faults: what happened is what is expected")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes(), "faults-outcomes")
