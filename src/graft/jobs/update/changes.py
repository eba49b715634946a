"""What is to become of the classes: correct, rename, merge, remove, add, always in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import Labels
from graft.data.lookalikes import listed
from graft.errors import UsageError
from graft.model.memory import Exam

Names = dict[str, str | None]  # what each class is called afterwards; None: it is removed


@dataclass(frozen=True)
class Changes:
    """All that one update does. `rename` is {old: new}, `merge` {new: the classes that become it}."""

    rename: Mapping[str, str] = field(default_factory=dict)
    merge: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remove: Sequence[str] = ()
    correct: Any = None
    add: Sequence[Any] = ()

    @property
    def nothing(self) -> bool:
        """Whether all stays as it is."""
        return self.only_names and not self.rename

    @property
    def only_names(self) -> bool:
        """Whether no picture gets another label than its fellows."""
        return not (self.merge or len(self.remove) or self.correct or self.add)

    def names(self, classes: Sequence[str]) -> Names:
        """What becomes of each class. Raises UsageError for classes that are not there, and names that are."""
        names: Names = {name: name for name in classes}
        for old in self.rename:
            check_known(old, classes, "rename")
        names |= self.rename
        called = [name for name in names.values() if name is not None]
        for new in self.rename.values():
            _check_name(new)
            if called.count(new) > 1:
                raise UsageError(
                    f"There would be two classes {new!r} after renaming. To make one of both, merge them: "
                    f"--merge '{'+'.join(old for old, name in names.items() if name == new)}={new}'."
                )
        for new, parts in self.merge.items():
            names = _merged(names, new, parts)
        for name in self.remove:
            check_known(name, [each for each in names.values() if each is not None], "remove")
            names = {old: None if each == name else each for old, each in names.items()}
        return names


def kept(names: Names) -> tuple[str, ...]:
    """The classes afterwards, each in the place of the first that it was made of."""
    return tuple(dict.fromkeys(name for name in names.values() if name is not None))


def numbers(names: Names, classes: Sequence[str]) -> NDArray[np.int32]:
    """For each old class its number among the `classes` afterwards; -1 where it is removed."""
    place = {name: at for at, name in enumerate(classes)}
    return np.array([-1 if name is None else place[name] for name in names.values()], np.int32)


def relabelled(labels: NDArray[np.integer], to: NDArray[np.int32], count: int) -> Labels:
    """Labels in the new numbers; -1 for a picture of a class that is removed. of several, any of those merged."""
    if labels.ndim == 1:
        return to[labels]
    found = np.zeros((len(labels), count), np.uint8)
    for old, new in enumerate(to.tolist()):
        if new >= 0:
            found[:, new] |= labels[:, old] > 0
    return found


def answered(exam: Exam, labels: NDArray[Any], to: NDArray[np.int32], count: int) -> Exam:
    """The test pictures that are left, with the old answers in the new classes: `to` has a number for each old one.

    Probabilities of merged classes are added; an answer that is no longer a class keeps a number of its own. Of
    several labels, where each has a probability of its own, a merged one gets the largest.
    """
    places = to.copy()
    places[to < 0] = np.arange(count, count + int((to < 0).sum()))
    rows = np.flatnonzero(labels >= 0) if labels.ndim == 1 else np.arange(len(labels))
    labels, chances, columns = labels[rows], exam.chances[rows], places[exam.columns[rows]]
    table = np.zeros((len(rows), int(places.max(initial=0)) + 1), np.float32)
    gather = np.add if labels.ndim == 1 else np.maximum
    gather.at(table, (np.arange(len(rows))[:, None], columns), chances)
    own = table[np.arange(len(rows)), labels] if labels.ndim == 1 else np.empty(0, np.float32)
    shown = np.zeros((len(rows), table.shape[1]), np.uint8)
    if labels.ndim == 2:
        shown[:, : labels.shape[1]] = labels
    return Exam(
        digests=exam.digests[rows],
        names=tuple(exam.names[row] for row in rows.tolist()),
        labels=labels if labels.ndim == 1 else shown,
        chances=table,
        columns=np.broadcast_to(np.arange(table.shape[1], dtype=np.int32), table.shape),
        own=own,
        strange=exam.strange[rows] if len(exam.strange) else exam.strange,
    )


def check_known(name: str, classes: Sequence[str], what: str) -> None:
    """Raises UsageError, with names that are near, for a class that is not there."""
    if name not in classes:
        near = get_close_matches(name, classes, n=3)
        there = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {listed(classes, 12)}."
        raise UsageError(f"There is no class {name!r} to {what}. {there}")


def _merged(names: Names, new: str, parts: Sequence[str]) -> Names:
    there = [each for each in names.values() if each is not None]
    _check_name(new)
    for part in parts:
        check_known(part, there, "merge")
    if new in there and new not in parts:
        raise UsageError(
            f"There is a class {new!r} already. To put {', '.join(parts)} into it, name it among those that are "
            f"merged: --merge '{'+'.join([*parts, new])}={new}'."
        )
    if len(set(parts)) < 2:
        raise UsageError(f"A merge takes two classes or more, as in --merge 'a+b=c'. Got {'+'.join(parts)}={new}.")
    return {old: new if each in parts else each for old, each in names.items()}


def _check_name(name: str) -> None:
    if not name.strip() or not name.isprintable():
        raise UsageError(f"A class name has letters that can be printed. Got {name!r}.")
