"""Whether one classifier is better than another, by the same test pictures: paired, so that luck with these cancels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.errors import DataError, UsageError
from graft.model.bootstrap import Interval, around, draws
from graft.model.memory import Exam, Memory
from graft.model.ranking import ranked
from graft_runtime.card import MULTICLASS

SURE = 0.05  # the chance of being taken in by luck that a verdict may have
BETTER, WORSE, EVEN = "better", "worse", "not distinguishable"


@dataclass(frozen=True)
class Comparison:
    """The first classifier against the second on `shared` test pictures, found by their content.

    `verdict` is 'better', 'worse' or 'not distinguishable' of the first; `difference` is its `metric` less that of the
    second, with the interval that holds the true difference with 95 % confidence (paired bootstrap). `p` is the chance
    of so lopsided a split between equals (McNemar's exact test; None for several labels, where the interval decides).
    `only_first` and `only_second` count what just one of them answers right; `trained_on` which of the shared pictures
    the first, or the second, learned from; `other` those that the two were given different labels for, left out.
    """

    verdict: str
    metric: str
    first: float
    second: float
    difference: float
    interval: Interval
    p: float | None
    log_loss: float | None
    log_loss_interval: Interval | None
    shared: int
    only_first: int
    only_second: int
    tested: tuple[int, int]
    trained_on: tuple[int, int]
    other: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ClassChange:
    """How often the first and the second classifier find one class, on `count` shared test pictures that show it.

    `gained` pictures only the first answers with it, `lost` only the second. `verdict` is that of the first; as there
    are many classes to be unlucky with, Holm's method (1979) keeps the chance of any false 'worse' or 'better' at SURE.
    """

    name: str
    count: int
    first: float
    second: float
    gained: int
    lost: int
    p: float
    verdict: str


@dataclass(frozen=True)
class Side:
    """A classifier as it enters a comparison."""

    name: str
    task: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]
    memory: Memory | None

    @property
    def tested(self) -> Exam:
        """Its test pictures. Raises DataError where it has none."""
        if self.memory is None or self.memory.tested is None:
            raise DataError(
                f"{self.name} remembers no test picture: it was not scored by `graft fit`, or by an earlier version. "
                "Train it again, with pictures to spare for a test."
            )
        return self.memory.tested


def compare(first: Side, second: Side) -> Comparison:
    """Raises UsageError for classifiers of two kinds, and DataError where they share no test picture."""
    if first.task != second.task:
        raise UsageError(f"{first.name} and {second.name} answer two kinds of question: {first.task}, {second.task}.")
    one, two = first.tested, second.tested
    rows = _shared(one.digests, two.digests)
    if not len(rows):
        raise DataError(
            f"{first.name} and {second.name} share none of their {len(one):,} and {len(two):,} test pictures, so they "
            "cannot be compared. Train both on the same pictures with the same seed, or give both the same test part."
        )
    agreed = _agreed(first, second, rows)
    if not agreed.any():
        raise DataError(f"{first.name} and {second.name} were given other labels for each of the pictures they share.")
    kept = rows[agreed]
    facts = {
        "shared": len(kept),
        "tested": (len(one), len(two)),
        "trained_on": (_seen(first, two), _seen(second, one)),
        "other": int((~agreed).sum()),
    }
    return (_of_one if first.task == MULTICLASS else _of_several)(first, second, kept, facts)


def by_class(first: Side, second: Side) -> list[ClassChange]:
    """The same for each class that both know and a shared picture shows, in the order of the first's classes."""
    rows = _shared(first.tested.digests, second.tested.digests)
    rows = rows[_agreed(first, second, rows)]
    one, two = (_table_of_right(side, rows[:, at]) for at, side in enumerate((first, second)))
    found = []
    for name in first.classes:
        if name in one and name in two and len(one[name]):
            gained, lost = int((one[name] & ~two[name]).sum()), int((two[name] & ~one[name]).sum())
            recalls = float(one[name].mean()), float(two[name].mean())
            found.append(ClassChange(name, len(one[name]), *recalls, gained, lost, mcnemar(gained, lost), EVEN))
    return _judged(found)


def _judged(found: list[ClassChange]) -> list[ClassChange]:
    """With verdicts, by Holm's method: the least p first, until one is not sure enough for those that are left."""
    told = list(found)
    order = sorted(range(len(found)), key=lambda at: found[at].p)
    for place, at in enumerate(order):
        if found[at].p * (len(found) - place) >= SURE:
            break
        told[at] = replace(found[at], verdict=BETTER if found[at].gained > found[at].lost else WORSE)
    return told


def _table_of_right(side: Side, rows: NDArray[np.intp]) -> dict[str, NDArray[np.bool_]]:
    """For each class whether it was answered for the pictures that show it."""
    labels = side.tested.labels[rows]
    if side.task == MULTICLASS:
        said = _answered(side.tested, rows)
        return {name: said[labels == at] == at for at, name in enumerate(side.classes)}
    chances = _table(side.tested, rows, len(side.classes))
    limits = side.thresholds or [0.5] * len(side.classes)
    return {name: chances[labels[:, at] > 0, at] >= limits[at] for at, name in enumerate(side.classes)}


def mcnemar(only_first: int, only_second: int) -> float:
    """The chance that two equal classifiers split so lopsidedly what just one of them answers right (McNemar 1947)."""
    from scipy.special import bdtr  # here, because it takes half a second to import

    fewer = min(only_first, only_second)  # twice the tail of the binomial distribution of a fair coin
    return min(1.0, 2 * float(bdtr(fewer, only_first + only_second, 0.5)))


def _of_one(first: Side, second: Side, rows: NDArray[np.intp], facts: dict[str, Any]) -> Comparison:
    sides = ((first.tested, rows[:, 0]), (second.tested, rows[:, 1]))
    right = [_answered(tested, own) == tested.labels[own] for tested, own in sides]
    losses = [-np.log(np.maximum(tested.own[own].astype(np.float64), 1e-15)) for tested, own in sides]
    alone = [int((right[at] & ~right[1 - at]).sum()) for at in (0, 1)]
    gain, loss = right[0].astype(float) - right[1], losses[0] - losses[1]
    p = mcnemar(*alone)
    difference = float(gain.mean())
    return Comparison(
        verdict=EVEN if p >= SURE else BETTER if difference > 0 else WORSE,
        metric="accuracy",
        first=float(right[0].mean()),
        second=float(right[1].mean()),
        difference=difference,
        interval=paired(gain),
        p=p,
        log_loss=float(loss.mean()),
        log_loss_interval=paired(loss),
        only_first=alone[0],
        only_second=alone[1],
        **facts,
    )


def _of_several(first: Side, second: Side, rows: NDArray[np.intp], facts: dict[str, Any]) -> Comparison:
    """By the mean average precision over the labels that both give and that some shared picture has."""
    common = [name for name in first.classes if name in second.classes]
    tables, said = [], []
    for side, own in ((first, rows[:, 0]), (second, rows[:, 1])):
        columns = [side.classes.index(name) for name in common]
        chances = _table(side.tested, own, len(side.classes))[:, columns]
        tables.append(chances)
        said.append(chances >= np.asarray(side.thresholds or [0.5] * len(side.classes))[columns])
    columns = [first.classes.index(name) for name in common]
    there = first.tested.labels[rows[:, 0]][:, columns] > 0
    right = [(each == there).all(axis=1) for each in said]
    whole = np.ones((1, len(rows)))
    one, two = (float(np.nanmean(ranked(table, there, whole)[0])) for table in tables)
    drawn = [
        np.nanmean(ranked(tables[0], there, block)[0], axis=1) - np.nanmean(ranked(tables[1], there, block)[0], axis=1)
        for block in draws(len(rows), 200)
    ]
    low, high = around(np.concatenate(drawn), one - two, -1.0, 1.0)
    return Comparison(
        verdict=BETTER if low > 0 else WORSE if high < 0 else EVEN,
        metric="mean_average_precision",
        first=one,
        second=two,
        difference=one - two,
        interval=(low, high),
        p=None,
        log_loss=None,
        log_loss_interval=None,
        only_first=int((right[0] & ~right[1]).sum()),
        only_second=int((right[1] & ~right[0]).sum()),
        **facts,
    )


def paired(differences: NDArray[np.float64]) -> Interval:
    """Where the mean of what two classifiers differ by on each picture [n] lies with 95 % confidence."""
    drawn = [block @ differences / len(differences) for block in draws(len(differences))]
    return around(np.concatenate(drawn), float(differences.mean()), -np.inf, np.inf)


def _answered(tested: Exam, rows: NDArray[np.intp]) -> NDArray[np.integer]:
    """The answers, as numbers of the classifier's own classes."""
    return tested.columns[rows, tested.chances[rows].argmax(axis=1)]


def _table(tested: Exam, rows: NDArray[np.intp], classes: int) -> NDArray[np.float64]:
    """Probabilities [n, classes]; those that are not remembered are 0."""
    table = np.zeros((len(rows), classes))
    np.put_along_axis(table, tested.columns[rows].astype(np.intp), tested.chances[rows].astype(np.float64), axis=1)
    return table


def _shared(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Rows [shared, 2] of the contents that both have, each once."""
    places = [{digest.tobytes(): at for at, digest in enumerate(digests)} for digests in (one, two)]
    both = [(at, places[1][digest]) for digest, at in places[0].items() if digest in places[1]]
    return np.array(both, np.intp).reshape(-1, 2)


def _agreed(first: Side, second: Side, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """For which pictures both were given the same labels, by name."""
    one, two = first.tested.labels[rows[:, 0]], second.tested.labels[rows[:, 1]]
    return np.array([_named(first, a) == _named(second, b) for a, b in zip(one, two, strict=True)])


def _named(side: Side, label: Any) -> frozenset[str]:
    return frozenset(side.classes[at] for at in (np.flatnonzero(label) if np.ndim(label) else [label]))


def _seen(side: Side, tested: Exam) -> int:
    """How many of the other's test pictures this one was trained on."""
    assert side.memory
    return int(side.memory.seen(tested.digests).sum())
