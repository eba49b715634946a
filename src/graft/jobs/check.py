"""What is wrong or odd with a data set, before anything is trained on it: read, look, find."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.backbones.stages import probed
from graft.backbones.weights import file_of
from graft.data.classes import classes
from graft.data.dataset import SPLITS, Dataset
from graft.data.duplicates import joined
from graft.data.faults import odd, unreadable
from graft.data.finding import Finding, by_severity, column, counted
from graft.data.read.source import read_source
from graft.data.split import folds
from graft.data.twins import Twins, find_twins, found
from graft.jobs import gallery
from graft.model.calibrate import temperature
from graft.progress import Watch, unwatched
from graft.training.embed import Embedded, Looked, embed, look_at
from graft.training.heads.choose import choose
from graft.training.material import FOLDS, Findings, Material, check_labelled
from graft.training.shortcuts import Shortcut, shortcuts
from graft.training.suspects import Suspects, outliers, suspects
from graft_runtime.card import MULTICLASS
from graft_runtime.decide import probabilities

Seen = Embedded | Looked


@dataclass(frozen=True, eq=False)
class Report:
    """What `check` found in `data`, the worst first; `usable` are the rows that can be decoded.

    `twins` has a row for each of these. `doubted` names by its row what each label that is likely wrong may be.
    """

    data: Dataset
    usable: NDArray[np.intp]
    findings: list[Finding]
    twins: Twins | None
    doubted: dict[int, str]
    shortcuts: list[Shortcut]
    seconds: float

    def __repr__(self) -> str:
        return f"<Report on {self.data!r}: {counted(len(self.findings), 'finding')}>"

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        names, good = self.data.names(), self.data.take(self.usable)
        parts = np.bincount(self.data.split, minlength=len(SPLITS)).tolist()
        return {
            "source": self.data.root,
            "pictures": len(self.data),
            "usable": len(self.usable),
            "task": self.data.task,
            "classes": dict(zip(self.data.classes, good.counts().tolist(), strict=True)),
            "parts": {name or "undecided": count for name, count in zip(SPLITS, parts, strict=True) if count},
            "columns": self.data.columns,
            "ignored": dict(self.data.ignored),
            "shortcuts": [asdict(each) for each in self.shortcuts],
            "findings": [each.as_dict(names) for each in self.findings],
            "seconds": round(self.seconds, 3),
        }

    def write(self, path: str | Path, *, force: bool = False) -> None:
        """One HTML file that shows the pictures of each finding; raises OutputError rather than overwrite."""
        gallery.write(gallery.page(self.data, self.findings, self.as_dict()), Path(path), force=force)


def check(
    source: Any,
    *,
    against: Any = None,
    backbone: str = catalog.DEFAULT,
    weights: str | Path | None = None,
    offline: bool = False,
    columns: str = "",
    boxes: bool = False,
    quick: bool = False,
    seed: int = 0,
    watch: Watch = unwatched,
) -> Report:
    """Look for what makes scores lie, training fail or accuracy suffer; nothing of the source is changed.

    Files that cannot be read, copies and near-duplicates (across a split, under different labels), odd pictures, small
    and unequal classes, labels that are likely wrong, outliers, and classes that something else than the subject gives
    away. `source`, `against`, `columns` and `boxes` are as in `graft.fit`. Features are cached: a `fit` afterwards is
    quicker. `quick` uses no network: near-duplicates are found by perceptual hashes alone, doubtful labels and outliers
    not.

    Raises GraftError as `fit` does, for what cannot be read at all; what is found is in the report.

    >>> import graft
    >>> [finding.says for finding in graft.check("photos/").findings]  # doctest: +SKIP
    ['2 pictures have a near-duplicate in another part of your split: the score flatters']
    """
    start = time.monotonic()
    data = read_source(source, columns=columns, boxes=boxes, against=against, watch=watch)
    check_labelled(data)
    frozen = None if quick else probed(load_backbone(backbone, file_of(weights), offline))
    seen = embed(frozen, data, seed=seed, watch=watch) if frozen else look_at(data, watch=watch)
    features = seen if isinstance(seen, Embedded) else None
    good = data.take(seen.rows)
    twins = find_twins(features, seen.digests, seen.hashes, good.labels, good.split, watch) if len(good) else None
    groups = joined(twins.groups, good.groups) if twins else np.zeros(0, np.int64)
    judged = doubted(good, features, groups, frozen.widths, seed, watch) if frozen and features else None
    doubts = judged.named(good) if judged else {}
    clues = _shortcuts(good, seen, groups, seed)
    inside = [*_in_pictures(good, seen, twins), *_doubted(good, doubts), *_outliers(features)]
    findings = [
        *unreadable(seen.faults, len(data)),
        *(each.of(seen.rows) for each in inside),
        *classes(good),
        *_told(clues),
    ]
    named = {int(seen.rows[row]): name for row, name in doubts.items()}
    seconds = time.monotonic() - start
    return Report(data, seen.rows, by_severity(findings), twins, named, clues, seconds)


def _in_pictures(good: Dataset, seen: Seen, twins: Twins | None) -> Iterator[Finding]:
    """Findings whose cases are rows of the usable pictures."""
    if twins:
        yield from found(twins, good, seen.looks.hashes)
        yield from odd(seen.looks, good.names())


def _outliers(embedded: Embedded | None) -> Iterator[Finding]:
    if embedded and len(far := outliers(embedded)):
        says = f"{counted(len(far), 'picture')} unlike all others"
        yield Finding("outlier", "note", says, "See that they belong to the set at all.", column(far))


def doubted(
    good: Dataset,
    embedded: Embedded,
    groups: NDArray[np.int64],
    widths: Sequence[int],
    seed: int,
    watch: Watch = unwatched,
) -> Suspects | None:
    """Labels in doubt by a ridge head that never saw the picture nor its near-duplicates; of test pictures too."""
    unknown = good.task == MULTICLASS and (good.labels < 0).any()
    if len(np.unique(groups)) < 2 or np.count_nonzero(good.counts()) < 2 or unknown:
        return None
    problems = Material(good, embedded, groups, Findings({}, {}), seed).problems(widths, 1, np.arange(len(good)))
    logits = choose("ridge", "auto", problems, watch=watch).solution.logits
    chances = probabilities(logits, temperature(logits, good.labels)[0], good.task)
    return suspects(chances, good.labels)


def _doubted(good: Dataset, doubts: Mapping[int, str]) -> Iterator[Finding]:
    if doubts:
        says = f"{counted(len(doubts), 'label')} in doubt: a head that never saw the picture gives another one"
        advice = "Look from the top, and correct what is wrong; hard pictures with true labels are worth keeping."
        notes = [f"rather {other}?" for other in doubts.values()]
        yield Finding("label", "warning", says, advice, column(np.array(list(doubts))), notes)


def _shortcuts(good: Dataset, seen: Seen, groups: NDArray[np.int64], seed: int) -> list[Shortcut]:
    if good.task != MULTICLASS or not len(good):
        return []
    return list(shortcuts(seen.looks, good.labels, folds(good.labels, groups, seen.digests, FOLDS, seed)))


def _told(clues: list[Shortcut]) -> Iterator[Finding]:
    for clue in clues:
        if clue.telling:
            says = f"The {clue.what} alone tells {clue.accuracy:.0%} of the classes ({clue.chance:.0%} by chance)"
            advice = "A network may learn that instead of the subject. Take all pictures in the same way."
            yield Finding("shortcut", "warning", says, advice)
