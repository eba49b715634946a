"""Findings about a data set, and those about single images: blank, tiny, long, huge, grey, rotated, misnamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.image_stats import ImageStats
from graft_runtime.formats import FORMATS, SUFFIXES_OF_FORMAT
from graft_runtime.terminal import escape_breaks

SEVERITIES = ("error", "warning", "note")  # makes scores lie or training fail; costs accuracy; good to know


def no_cases() -> NDArray[np.intp]:
    """Return no cases: for a finding about the set as a whole."""
    return np.zeros((0, 1), np.intp)


@dataclass(frozen=True, eq=False)
class Finding:
    """`says` and `advice` are sentences for a person; `cases` rows of the data set [cases, images in each].

    `notes` has a few words for each case, or none at all. Worst cases come first.
    """

    kind: str
    severity: str
    says: str
    advice: str
    cases: NDArray[np.intp] = field(default_factory=no_cases)
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        return escape_breaks(f"<Finding {self.kind} ({self.severity}): {self.says}>")

    def map_rows(self, rows: NDArray[np.intp]) -> Finding:
        """Map row numbers of a part of the data set to those of the whole."""
        return replace(self, cases=rows[self.cases])

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        notes = self.notes or [""] * len(self.cases)
        cases = [
            {"images": [names[row] for row in case], "note": note}
            for case, note in zip(self.cases.tolist(), notes, strict=True)
        ]
        entries = {"kind": self.kind, "severity": self.severity, "says": self.says, "advice": self.advice}
        return entries | {"cases": cases}


def single_cases(rows: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return cases of one image each, from rows or from a mask."""
    where = np.flatnonzero(rows) if rows.dtype == bool else rows
    return where.astype(np.intp)[:, None]


def format_count(count: int, what: str, plural: str = "") -> str:
    """Format a count with its unit: '1 image', '2 images'."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def sort_by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Sort findings, the worst first, else in the order in which they were found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


TINY_SIDE = 16  # pixels of the short side
TINY_RATIO = 8  # times smaller than the median image is tiny too
LONG_RATIO = 4  # times the short side; a network sees no more than that of it (backbones/preprocess.py)
HUGE_PIXELS = 25_000_000  # pixels
GREY_SHARE = 0.5  # share of grey images below which they are the odd ones

_FORMAT_OF = {ending: FORMATS.index(name) for name, endings in SUFFIXES_OF_FORMAT.items() for ending in endings}


def find_odd_images(stats: ImageStats, names: Sequence[str]) -> Iterator[Finding]:
    """Yield findings from the statistics of images [n] with these names."""
    if len(stats):
        yield from filter(
            None, (_find_blank(stats), _find_tiny(stats), _find_wrong_endings(stats, names), _find_grey(stats))
        )
        yield from filter(None, (_find_long(stats), _find_huge(stats), _find_rotated(stats)))


def find_unreadable(faults: dict[int, str], count: int) -> Iterator[Finding]:
    """Yield a finding about images that could not be decoded, by their rows among `count`."""
    if faults:
        yield Finding(
            "unreadable",
            "error" if 2 * len(faults) > count else "warning",
            f"{format_count(len(faults), 'image')} cannot be read; every job leaves them out",
            "Get them again from where they came, or delete them.",
            single_cases(np.array(list(faults))),
            list(faults.values()),
        )


def find_misnamed(looks: ImageStats, names: Sequence[str]) -> NDArray[np.bool_]:
    """Return which images have another format than the name's ending says, [n]."""
    named_formats = np.array([_FORMAT_OF.get(PurePath(name).suffix.lower(), -1) for name in names])
    return (named_formats >= 0) & (looks.formats >= 0) & (named_formats != looks.formats)


def _find_blank(looks: ImageStats) -> Finding | None:
    return _build_finding(
        looks.is_blank,
        "blank",
        "warning",
        "{} of a single colour: nothing can be learned from {them}",
        "Delete them, unless such images are what a class is about.",
        [f"all about rgb({red:.0f}, {green:.0f}, {blue:.0f})" for red, green, blue in looks.colours[looks.is_blank]],
    )


def _find_tiny(looks: ImageStats) -> Finding | None:
    short = looks.sizes.min(axis=1)
    tiny = (short < TINY_SIDE) | (TINY_RATIO * short < np.median(short))
    says = "{} too small to show anything, or far smaller than the others"
    return _build_finding(
        tiny, "tiny", "warning", says, "Look for the originals; these may be thumbnails.", _format_sizes(looks, tiny)
    )


def _find_wrong_endings(looks: ImageStats, names: Sequence[str]) -> Finding | None:
    wrong = find_misnamed(looks, names)
    notes = [f"is {FORMATS[looks.formats[row]]}" for row in np.flatnonzero(wrong)]
    says = "{} of another format than {their} ending says"
    return _build_finding(
        wrong, "misnamed", "note", says, "graft goes by the content; for other programs, rename them.", notes
    )


def _find_grey(looks: ImageStats) -> Finding | None:
    rare = looks.is_grey & ~looks.is_blank & (looks.is_grey.mean() < GREY_SHARE)
    says = "{} without colour in a set that has colours"
    return _build_finding(
        rare, "grey", "note", says, "See that they are not all of one class: the lack of colour would give it away."
    )


def _find_long(looks: ImageStats) -> Finding | None:
    sides = looks.sizes
    long = sides.max(axis=1) > LONG_RATIO * sides.min(axis=1)
    says = f"{{}} more than {LONG_RATIO} times as long as wide: only the middle is looked at"
    return _build_finding(long, "long", "note", says, "Crop them to what matters.", _format_sizes(looks, long))


def _find_huge(looks: ImageStats) -> Finding | None:
    huge = looks.sizes.prod(axis=1) > HUGE_PIXELS
    says = f"{{}} larger than {HUGE_PIXELS // 10**6} megapixels: slow to decode, and no network sees so much"
    return _build_finding(
        huge, "huge", "note", says, "A copy of 1,000 pixels a side serves as well.", _format_sizes(looks, huge)
    )


def _find_rotated(looks: ImageStats) -> Finding | None:
    says = "{} stored on {their} side or mirrored, with a note in the file (EXIF) that says so"
    advice = "graft turns them upright. See that the program that will use the model does, too."
    return _build_finding(looks.is_rotated, "turned", "note", says, advice)


def _build_finding(
    which: NDArray[np.bool_], kind: str, severity: str, says: str, advice: str, notes: Sequence[str] = ()
) -> Finding | None:
    count = int(which.sum())
    one = count == 1
    words = {"them": "it" if one else "them", "their": "its" if one else "their"}
    said = says.format(f"{format_count(count, 'image')} {'is' if one else 'are'}", **words)
    return Finding(kind, severity, said, advice, single_cases(which), notes) if count else None


def _format_sizes(looks: ImageStats, which: NDArray[np.bool_]) -> list[str]:
    return [f"{width:.0f} x {height:.0f} pixels" for width, height in looks.sizes[which]]
