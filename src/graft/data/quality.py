"""Images that are odd by themselves: blank, tiny, long, huge, grey among coloured ones, turned, misnamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.image_stats import Looks
from graft_runtime.formats import FORMATS, SUFFIXES_OF_FORMAT

SEVERITIES = ("error", "warning", "note")  # makes scores lie or training fail; costs accuracy; good to know


def nothing() -> NDArray[np.intp]:
    """The cases of a finding about the set as a whole."""
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
    cases: NDArray[np.intp] = field(default_factory=nothing)
    notes: Sequence[str] = ()

    def __repr__(self) -> str:
        return f"<Finding {self.kind} ({self.severity}): {self.says}>"

    def of(self, rows: NDArray[np.intp]) -> Finding:
        """The same finding where the images were rows of a part of the data set."""
        return replace(self, cases=rows[self.cases])

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Everything, ready for JSON."""
        notes = self.notes or [""] * len(self.cases)
        cases = [
            {"images": [names[row] for row in case], "note": note}
            for case, note in zip(self.cases.tolist(), notes, strict=True)
        ]
        named = {"kind": self.kind, "severity": self.severity, "says": self.says, "advice": self.advice}
        return named | {"cases": cases}


def column(rows: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.intp]:
    """Cases of one image each, from rows or from a mask."""
    where = np.flatnonzero(rows) if rows.dtype == bool else rows
    return where.astype(np.intp)[:, None]


def counted(count: int, what: str, plural: str = "") -> str:
    """'1 image', '2 images'."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first, else in the order in which they were found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


TINY = 16  # pixels of the short side
SMALLER = 8  # times smaller than the median image is tiny too
LONG = 4  # times the short side; a network sees no more than that of it (backbones/preprocess.py)
HUGE = 25_000_000  # pixels
RARE = 0.5  # share of grey images below which they are the odd ones

_FORMAT_OF = {ending: FORMATS.index(name) for name, endings in SUFFIXES_OF_FORMAT.items() for ending in endings}


def odd(looks: Looks, names: Sequence[str]) -> Iterator[Finding]:
    """What the looks of images [n] with these names tell; rows are theirs."""
    if len(looks):
        yield from filter(None, (_blank(looks), _tiny(looks), _misnamed(looks, names), _grey(looks)))
        yield from filter(None, (_long(looks), _huge(looks), _turned(looks)))


def unreadable(faults: dict[int, str], count: int) -> Iterator[Finding]:
    """Images that could not be decoded, by their rows among `count`."""
    if faults:
        yield Finding(
            "unreadable",
            "error" if 2 * len(faults) > count else "warning",
            f"{counted(len(faults), 'image')} cannot be read; every job leaves them out",
            "Get them again from where they came, or delete them.",
            column(np.array(list(faults))),
            list(faults.values()),
        )


def misnamed(looks: Looks, names: Sequence[str]) -> NDArray[np.bool_]:
    """Whether the content has another format than the name's ending says."""
    said = np.array([_FORMAT_OF.get(PurePath(name).suffix.lower(), -1) for name in names])
    return (said >= 0) & (looks.formats >= 0) & (said != looks.formats)


def _blank(looks: Looks) -> Finding | None:
    return _finding(
        looks.blank,
        "blank",
        "warning",
        "{} of a single colour: nothing can be learned from {them}",
        "Delete them, unless such images are what a class is about.",
        [f"all about rgb({red:.0f}, {green:.0f}, {blue:.0f})" for red, green, blue in looks.colours[looks.blank]],
    )


def _tiny(looks: Looks) -> Finding | None:
    short = looks.sizes.min(axis=1)
    tiny = (short < TINY) | (SMALLER * short < np.median(short))
    says = "{} too small to show anything, or far smaller than the others"
    return _finding(
        tiny, "tiny", "warning", says, "Look for the originals; these may be thumbnails.", _sized(looks, tiny)
    )


def _misnamed(looks: Looks, names: Sequence[str]) -> Finding | None:
    wrong = misnamed(looks, names)
    notes = [f"is {FORMATS[looks.formats[row]]}" for row in np.flatnonzero(wrong)]
    says = "{} of another format than {their} ending says"
    return _finding(
        wrong, "misnamed", "note", says, "graft goes by the content; for other programs, rename them.", notes
    )


def _grey(looks: Looks) -> Finding | None:
    rare = looks.grey & ~looks.blank & (looks.grey.mean() < RARE)
    says = "{} without colour in a set that has colours"
    return _finding(
        rare, "grey", "note", says, "See that they are not all of one class: the lack of colour would give it away."
    )


def _long(looks: Looks) -> Finding | None:
    sides = looks.sizes
    long = sides.max(axis=1) > LONG * sides.min(axis=1)
    says = f"{{}} more than {LONG} times as long as wide: only the middle is looked at"
    return _finding(long, "long", "note", says, "Crop them to what matters.", _sized(looks, long))


def _huge(looks: Looks) -> Finding | None:
    huge = looks.sizes.prod(axis=1) > HUGE
    says = f"{{}} larger than {HUGE // 10**6} megapixels: slow to decode, and no network sees so much"
    return _finding(huge, "huge", "note", says, "A copy of 1,000 pixels a side serves as well.", _sized(looks, huge))


def _turned(looks: Looks) -> Finding | None:
    says = "{} stored on {their} side or mirrored, with a note in the file (EXIF) that says so"
    advice = "graft turns them upright. See that the program that will use the model does, too."
    return _finding(looks.turned, "turned", "note", says, advice)


def _finding(
    which: NDArray[np.bool_], kind: str, severity: str, says: str, advice: str, notes: Sequence[str] = ()
) -> Finding | None:
    count = int(which.sum())
    one = count == 1
    words = {"them": "it" if one else "them", "their": "its" if one else "their"}
    said = says.format(f"{counted(count, 'image')} {'is' if one else 'are'}", **words)
    return Finding(kind, severity, said, advice, column(which), notes) if count else None


def _sized(looks: Looks, which: NDArray[np.bool_]) -> list[str]:
    return [f"{width:.0f} x {height:.0f} pixels" for width, height in looks.sizes[which]]
