"""One thing that is wrong or odd with a data set: what, how bad, what to do, and which pictures show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

SEVERITIES = ("error", "warning", "note")  # makes scores lie or training fail; costs accuracy; good to know


def nothing() -> NDArray[np.intp]:
    """The cases of a finding about the set as a whole."""
    return np.zeros((0, 1), np.intp)


@dataclass(frozen=True, eq=False)
class Finding:
    """`says` and `advice` are sentences for a person; `cases` rows of the data set [cases, pictures in each].

    `notes` has a few words for each case, or none at all. Worst cases come first.
    """

    kind: str
    severity: str
    says: str
    advice: str
    cases: NDArray[np.intp] = field(default_factory=nothing)
    notes: Sequence[str] = ()

    def of(self, rows: NDArray[np.intp]) -> Finding:
        """The same finding where the pictures were rows of a part of the data set."""
        return replace(self, cases=rows[self.cases])

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Everything, ready for JSON."""
        notes = self.notes or [""] * len(self.cases)
        cases = [
            {"pictures": [names[row] for row in case], "note": note}
            for case, note in zip(self.cases.tolist(), notes, strict=True)
        ]
        named = {"kind": self.kind, "severity": self.severity, "says": self.says, "advice": self.advice}
        return named | {"cases": cases}


def column(rows: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.intp]:
    """Cases of one picture each, from rows or from a mask."""
    where = np.flatnonzero(rows) if rows.dtype == bool else rows
    return where.astype(np.intp)[:, None]


def counted(count: int, what: str, plural: str = "") -> str:
    """'1 picture', '2 pictures'."""
    return f"{count:,} {what if count == 1 else plural or what + 's'}"


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first, else in the order in which they were found."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))
