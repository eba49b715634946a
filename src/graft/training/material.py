"""What a head is trained and judged on: good pictures, each on one side, near-duplicates together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset
from graft.data.duplicates import near_duplicates
from graft.data.split import folds, split
from graft.errors import DataError
from graft.training.embed import Embedded
from graft.training.heads.problem import Problem, standardised

TEST_SHARE = 0.2
FOLDS = 4


@dataclass(frozen=True)
class Findings:
    """What was noticed about the data: `faults` names each picture left out and why; the rest are counts.

    `alike` pictures have a near-duplicate; `leaks` are test pictures with one among the training pictures, which only
    a ready-made split can have; `missing` classes had not one usable picture.
    """

    faults: dict[str, str]
    ignored: dict[str, int]
    alike: int = 0
    leaks: int = 0
    missing: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """The good pictures with their features and groups; row i of all three is the same picture."""

    data: Dataset
    embedded: Embedded
    groups: NDArray[np.int64]
    findings: Findings
    seed: int = 0
    train: NDArray[np.intp] = field(init=False)
    test: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", self.data.part(TRAIN))
        object.__setattr__(self, "test", self.data.part(TEST))

    def fingerprint(self) -> str:
        """A name for exactly these pictures with these labels, whatever their files are called."""
        named = np.array(self.data.classes, dtype=str)[self.data.labels]
        rows = sorted(zip((digest.tobytes().hex() for digest in self.embedded.digests), named.tolist(), strict=True))
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def problems(self, widths: Sequence[int], views: int) -> dict[str, Problem]:
        """The training part as a Problem for each choice of layers, all views of a picture in one unit and fold."""
        labels, groups = self.data.labels[self.train], self.groups[self.train]
        fold = folds(labels, groups, self.embedded.digests[self.train], FOLDS, self.seed)
        whole = Problem(
            standardised(self.embedded.chosen(self.train, views), widths),
            np.repeat(labels.astype(np.int64), views),
            np.repeat(groups, views),
            np.repeat(fold, views),
            len(self.data.classes),
        )
        return {"last": replace(whole, features=whole.features.only(sum(widths[:-1]))), "all": whole}


def prepare(data: Dataset, embedded: Embedded, seed: int) -> Material:
    """Leave out the faults and what cannot be learned, find near-duplicates, and split.

    Raises DataError when fewer than two classes are left, or a ready-made test part has a class of its own.
    """
    faults = data.named(embedded.faults)
    embedded = _by_content(embedded, data.labels)
    good = data.take(embedded.rows)
    missing = tuple(name for name, count in zip(data.classes, good.counts(), strict=True) if not count)
    good = _renumbered(good, missing, faults)
    groups = near_duplicates(embedded, embedded.digests)
    parted = replace(good, split=_parts(good, groups, embedded.digests, seed))
    _check_known(parted)
    findings = Findings(
        faults=faults,
        ignored=dict(data.ignored),
        alike=int((np.bincount(groups)[groups] > 1).sum()),
        leaks=int(np.isin(groups[parted.part(TEST)], groups[parted.part(TRAIN)]).sum()),
        missing=missing,
        untested=_untested(parted),
    )
    if len(np.unique(groups[parted.part(TRAIN)])) < 2:
        raise DataError("All training pictures are near-duplicates of each other. Add pictures that differ.")
    if (good.split != UNSPLIT).any():
        groups = _without_tests(groups, parted.part(TRAIN), embedded)
    return Material(parted, embedded, groups, findings, seed)


def _by_content(embedded: Embedded, labels: NDArray[np.int32]) -> Embedded:
    """The pictures in the order of their contents: sums are then the same to the bit, whatever files are called."""
    order = np.lexsort((labels[embedded.rows], *embedded.digests.T))
    return replace(embedded, rows=embedded.rows[order], digests=embedded.digests[order])


def _without_tests(groups: NDArray[np.int64], train: NDArray[np.intp], embedded: Embedded) -> NDArray[np.int64]:
    """The groups with the training part's found among itself, so that no test picture decides on its folds."""
    apart = groups + len(groups)
    apart[train] = near_duplicates(embedded.chosen(train), embedded.digests[train])
    return apart


def _renumbered(good: Dataset, missing: Sequence[str], faults: dict[str, str]) -> Dataset:
    """The table without classes that lost all their pictures."""
    left = tuple(name for name in good.classes if name not in missing)
    if len(left) < 2:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(faults.values()).most_common(5))
        raise DataError(
            f"Fewer than two classes have a picture that can be used: {len(faults)} pictures were left out"
            f"{f' ({reasons})' if reasons else ''}."
        )
    number = {name: at for at, name in enumerate(left)}
    table = np.array([number.get(name, -1) for name in good.classes], np.int32)
    return replace(good, classes=left, labels=table[good.labels])


def _parts(data: Dataset, groups: NDArray[Any], digests: NDArray[np.uint8], seed: int) -> NDArray[np.int8]:
    """TRAIN or TEST for each picture: the user's own split where there is one, else one of ours.

    A validation part joins the training part, since the probe chooses by out-of-fold evidence; where there is no test
    part it is the test part, untouched until the score.
    """
    if (data.split == UNSPLIT).all():
        return split(data.labels, groups, digests, TEST_SHARE, seed)
    held_out = TEST if (data.split == TEST).any() else VALID
    return np.where(data.split == held_out, TEST, TRAIN).astype(np.int8)


def _check_known(data: Dataset) -> None:
    trained = np.bincount(data.labels[data.part(TRAIN)], minlength=len(data.classes))
    if unknown := [name for name, count in zip(data.classes, trained, strict=True) if not count]:
        raise DataError(
            f"The training part has no usable picture of {', '.join(unknown)}, the test part has. "
            f"Add training pictures of these classes, or take them out of the test part."
        )


def _untested(data: Dataset) -> tuple[str, ...]:
    tested = np.bincount(data.labels[data.part(TEST)], minlength=len(data.classes))
    return tuple(name for name, count in zip(data.classes, tested, strict=True) if not count)
