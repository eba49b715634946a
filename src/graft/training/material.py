"""What a head is trained and judged on: good pictures, each on one side, near-duplicates together."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data import dataset as table
from graft.data.classes import few
from graft.data.dataset import TEST, TRAIN, UNLABELLED, UNSPLIT, VALID, Dataset
from graft.data.duplicates import joined, near_duplicates
from graft.data.faults import misnamed
from graft.data.finding import counted
from graft.data.lookalikes import lookalikes
from graft.data.split import folds, lasting, stratified
from graft.data.twins import NOBODY, Twins, find_twins, pairs_of, repeated
from graft.errors import DataError
from graft.progress import Watch, unwatched
from graft.training.embed import Embedded
from graft.training.heads.problem import Problem, standardised
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.screen import MANY, listed

TEST_SHARE = 0.2
VALID_SHARE = 0.15  # of the training part, where tuning needs pictures to choose by
FOLDS = 4


@dataclass(frozen=True)
class Findings:
    """What was noticed about the data: `faults` names each picture left out and why; the rest are counts.

    `alike` pictures have a near-duplicate; `leaks` are test pictures with one, or one of their own group, among the
    training pictures, which only a ready-made split can have; `missing` classes had not one usable picture. `columns`
    are what those of a table were taken for; `alike_names` are sentences about classes that may be one. `conflicts`
    are sentences about pictures of the same content with different labels, `disputed` pictures have a near-duplicate
    with another label; `few` are classes of a handful, `misnamed` pictures of another format than their ending says.
    `placeholders` are sentences about images that likely stand where others are missing.
    `suspects` are sentences about labels that are likely wrong, the most doubtful first. `graft check` shows them all.
    """

    faults: dict[str, str]
    ignored: dict[str, int]
    alike: int = 0
    leaks: int = 0
    missing: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    columns: str = ""
    alike_names: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    disputed: int = 0
    few: tuple[str, ...] = ()
    misnamed: int = 0
    placeholders: tuple[str, ...] = ()
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True)
class Material:
    """The good pictures with their features and groups; row i of all three is the same picture.

    `train` are all pictures that a head may be solved on, and among them `valid` those that the user set aside for
    choosing; `test` are for the score alone. `given` is whether a person made the split.
    """

    data: Dataset
    embedded: Embedded
    groups: NDArray[np.int64]
    findings: Findings
    seed: int = 0
    given: bool = False
    train: NDArray[np.intp] = field(init=False)
    valid: NDArray[np.intp] = field(init=False)
    test: NDArray[np.intp] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "train", self.data.part(TRAIN, VALID))
        object.__setattr__(self, "valid", self.data.part(VALID))
        object.__setattr__(self, "test", self.data.part(TEST))

    def fingerprint(self) -> str:
        """A name for exactly these pictures with these labels, whatever their files are called."""
        names = [digest.tobytes().hex() for digest in self.embedded.digests]
        rows = sorted(zip(names, _named(self.data), strict=True))
        return hashlib.sha256(repr(rows).encode()).hexdigest()

    def targets(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        """What to train these pictures towards, [rows, classes]: 1 for each class that a picture shows."""
        return table.targets(self.data.labels[rows], len(self.data.classes))

    def inner(self, share: float = VALID_SHARE) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The training part as rows to tune on and rows held out to choose by.

        The held out ones are the user's validation part, without the pictures of a class that the others lack; where
        there is no such part, about `share` of each class. Then near-duplicates stay on one side, every class keeps a
        picture to tune on, and with a handful of pictures nothing may be left to hold out.
        """
        if len(self.valid):
            lacking = table.tally(self.data.labels[self.data.part(TRAIN)], len(self.data.classes)) == 0
            needed = self.targets(self.valid)[:, lacking].any(axis=1)
            held_out = self.valid[~needed]
        else:
            digests = self.embedded.digests[self.train]
            part = stratified(self.data.labels[self.train], self.groups[self.train], digests, share, self.seed)
            held_out = self.train[part == TEST]
        return np.setdiff1d(self.train, held_out), held_out

    def problems(self, widths: Sequence[int], views: int, rows: NDArray[np.intp] | None = None) -> dict[str, Problem]:
        """The training part, or these rows of it, as a Problem for each choice of layers.

        All views of a picture are in one unit and fold.
        """
        rows = self.train if rows is None else rows
        labels, groups = self.data.labels[rows], self.groups[rows]
        fold = folds(labels, groups, self.embedded.digests[rows], FOLDS, self.seed)
        whole = Problem(
            standardised(self.embedded.chosen(rows, views), widths),
            np.repeat(labels if labels.ndim == 2 else labels.astype(np.int64), views, axis=0),
            np.repeat(groups, views),
            np.repeat(fold, views),
            len(self.data.classes),
        )
        return {"last": replace(whole, features=whole.features.only(sum(widths[:-1]))), "all": whole}


def prepare(
    data: Dataset, embedded: Embedded, seed: int, given: bool | None = None, watch: Watch = unwatched
) -> Material:
    """Leave out the faults and what cannot be learned, find near-duplicates, and split.

    `given` is for a table that grew: the parts that pictures have stand, and it says whether a person made them.

    Raises DataError when fewer than two classes are left, a ready-made test part has a class of its own, or some
    pictures have labels and others none that is known.
    """
    check_labelled(data)
    faults = data.named(embedded.faults)
    embedded = _by_content(embedded, data.labels)
    good = data.take(embedded.rows)
    missing = tuple(name for name, count in zip(data.classes, good.counts(), strict=True) if not count)
    good = _renumbered(good, missing, faults)
    twins = find_twins(embedded, embedded.digests, embedded.hashes, good.labels, good.split, watch)
    groups = joined(twins.groups, good.groups)
    parted = replace(good, split=(_parts if given is None else _grown)(good, groups, embedded.digests, seed))
    given = bool((good.split != UNSPLIT).any()) if given is None else given
    _check_known(parted)
    findings = Findings(
        faults=faults,
        ignored=dict(data.ignored),
        alike=int((np.bincount(twins.groups)[twins.groups] > 1).sum()),
        leaks=int(np.isin(groups[parted.part(TEST)], groups[parted.part(TRAIN, VALID)]).sum()),
        missing=missing,
        untested=_untested(parted),
        columns=data.columns,
        alike_names=tuple(lookalikes(data.classes, data.counts())),
        conflicts=tuple(_conflicts(parted, twins)),
        disputed=int((twins.disputed != NOBODY).sum()),
        few=few(parted),
        placeholders=tuple(_placeholders(parted, twins, embedded)),
        misnamed=int(misnamed(embedded.looks, parted.names()).sum()) if len(embedded.looks) else 0,
    )
    if len(np.unique(groups[parted.part(TRAIN, VALID)])) < 2:
        raise DataError("All training pictures are near-duplicates of each other. Add pictures that differ.")
    if given:
        groups = _without_tests(groups, good, parted.part(TRAIN, VALID), embedded, watch)
    return Material(parted, embedded, groups, findings, seed, given)


def check_labelled(data: Dataset) -> None:
    """Raises DataError where some pictures have labels and others none that is known."""
    unknown = int((data.labels == UNLABELLED).sum()) if data.task == MULTICLASS else 0
    if 0 < unknown < len(data):
        raise DataError(f"{unknown} of {len(data)} pictures have no label. Leave them out, or label them.")


def described(data: Dataset, mark: str = ", ", none: str = "no label") -> list[str]:
    """The label of each picture in words; several are joined by `mark`."""
    return [each if isinstance(each, str) else mark.join(each) or none for each in _named(data)]


def _named(data: Dataset) -> list[Any]:
    """The label of each picture in words; where there may be several, a list."""
    names = np.array(data.classes, dtype=str)
    if data.task == MULTILABEL:
        return [names[row > 0].tolist() for row in data.labels]
    return names[data.labels].tolist()


def _by_content(embedded: Embedded, labels: NDArray[np.integer]) -> Embedded:
    """The pictures in the order of their contents: sums are then the same to the bit, whatever files are called."""
    order = np.lexsort((*np.atleast_2d(labels[embedded.rows].T), *embedded.digests.T))
    return embedded.take(order)


def _without_tests(
    groups: NDArray[np.int64], good: Dataset, train: NDArray[np.intp], embedded: Embedded, watch: Watch
) -> NDArray[np.int64]:
    """The groups with the training part's found among itself, so that no test picture decides on its folds."""
    apart = groups + len(groups)
    own = None if good.groups is None else good.groups[train]
    apart[train] = joined(_alike(embedded.take(train), watch), own)
    return apart


def _alike(embedded: Embedded, watch: Watch) -> NDArray[np.int64]:
    return near_duplicates(embedded, embedded.digests, embedded.hashes, watch)


def _conflicts(data: Dataset, twins: Twins) -> Iterator[str]:
    """Pictures of the same content with different labels, in words."""
    said = described(data)
    for one, two in pairs_of(twins.disputed).tolist():
        if twins.first[one] == twins.first[two]:
            yield f"{data.name(one)} ({said[one]}) and {data.name(two)} ({said[two]}) are the same picture"


def _placeholders(data: Dataset, twins: Twins, embedded: Embedded) -> Iterator[str]:
    """Images that likely stand where others are missing, in words."""
    blank = embedded.looks.blank if len(embedded.looks) else np.zeros(len(data), bool)
    if blank.any():
        some = f"{counted(int(blank.sum()), 'image')} of a single colour, such as {data.name(int(blank.argmax()))}"
        yield f"{some}: placeholders for missing ones?"
    for row, count in repeated(twins.first).items():
        if not blank[row]:
            yield f"{count:,} images are the very same, such as {data.name(row)}: a placeholder for missing ones?"


def _renumbered(good: Dataset, missing: Sequence[str], faults: dict[str, str]) -> Dataset:
    """The table without classes that lost all their pictures."""
    left = tuple(name for name in good.classes if name not in missing)
    several = good.task == MULTILABEL
    if len(left) < (1 if several else 2):
        reasons = ", ".join(f"{count} x {reason}" for reason, count in Counter(faults.values()).most_common(5))
        raise DataError(
            f"{'No class has' if several else 'Fewer than two classes have'} a picture that can be used: "
            f"{len(faults)} pictures were left out{f' ({reasons})' if reasons else ''}."
        )
    number = {name: at for at, name in enumerate(left)}
    if several:
        return replace(good, classes=left, labels=good.labels[:, [name in number for name in good.classes]])
    renamed = np.array([number.get(name, -1) for name in good.classes], np.int32)
    return replace(good, classes=left, labels=renamed[good.labels])


def _parts(data: Dataset, groups: NDArray[Any], digests: NDArray[np.uint8], seed: int) -> NDArray[np.int8]:
    """The part of each picture: the user's own split where there is one, else one of ours.

    Where there is no test part, the validation part is the test part, untouched until the score.
    """
    if (data.split == UNSPLIT).all():
        return lasting(data.labels, groups, digests, TEST_SHARE, seed)
    if (data.split == TEST).any():
        return np.where(data.split == UNSPLIT, TRAIN, data.split).astype(np.int8)
    return np.where(data.split == VALID, TEST, TRAIN).astype(np.int8)


def _grown(data: Dataset, groups: NDArray[Any], digests: NDArray[np.uint8], seed: int) -> NDArray[np.int8]:
    """The part of each picture where some have theirs: a new one goes with its near-duplicates, else by its content.

    One that joins two parts is for training.
    """
    part, new = data.split.copy(), data.split == UNSPLIT
    if data.task == MULTILABEL and new.any():  # the whole set would decide, and change what stands
        part[new] = lasting(data.labels[new], groups[new], digests[new], TEST_SHARE, seed)
    elif new.any():
        part[new] = lasting(data.labels, groups, digests, TEST_SHARE, seed)[new]
    for code in (TEST, VALID, TRAIN):
        part[new & np.isin(groups, groups[data.split == code])] = code
    return part


def _check_known(data: Dataset) -> None:
    trained = table.tally(data.labels[data.part(TRAIN, VALID)], len(data.classes))
    if unknown := [name for name, count in zip(data.classes, trained, strict=True) if not count]:
        raise DataError(
            f"The training part has no usable picture of {listed(unknown, MANY)}, the test part has. "
            f"Add training pictures of these classes, or take them out of the test part."
        )


def _untested(data: Dataset) -> tuple[str, ...]:
    tested = table.tally(data.labels[data.part(TEST)], len(data.classes))
    return tuple(name for name, count in zip(data.classes, tested, strict=True) if not count)
