"""What the classes of a data set look like: how many pictures each has, in which parts, and under which names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset, tally
from graft.data.finding import Finding
from graft.data.lookalikes import lookalikes
from graft.errors import DataError
from graft_runtime.card import MULTICLASS

FEW = 10  # pictures of a class below which a score of it means little
UNEQUAL = 10  # times as many pictures in the largest class as in the smallest
NAMED = 8  # classes in one sentence
SEVERAL, ALONE = 5, 0.9  # images, and the share of them with a class of their own, that make them no classes


def check_shared(data: Dataset) -> None:
    """Raises DataError where nearly each image has a class of its own, from which nothing can be learned."""
    alone = int((data.counts() == 1).sum())
    if data.task == MULTICLASS and len(data) >= SEVERAL and alone >= ALONE * len(data):
        first = data.classes[int((data.counts() == 1).argmax())]
        raise DataError(
            f"{alone} of the {len(data)} images in {data.root or 'this source'} have a class of their own, such as "
            f"{first!r}: there is nothing to learn. Are these names of files or numbers of rows? A class needs several "
            f"images, better 20."
        )


def few(data: Dataset) -> tuple[str, ...]:
    """The classes with fewer than FEW pictures, but some."""
    return tuple(name for name, count in zip(data.classes, data.counts().tolist(), strict=True) if 0 < count < FEW)


def classes(data: Dataset) -> Iterator[Finding]:
    """Findings about the classes of all usable pictures."""
    counts = dict(zip(data.classes, data.counts().tolist(), strict=True))
    if empty := [name for name, count in counts.items() if not count]:
        yield Finding("empty class", "error", f"No usable picture of {listed(empty)}", "Add some, or drop the class.")
    yield from _parts(data, empty)
    if small := few(data):
        says = f"Fewer than {FEW} pictures of {listed([f'{name} ({counts[name]})' for name in small])}"
        yield Finding("few pictures", "warning", says, "Add pictures: 20 of a class are a start, 100 are comfortable.")
    yield from _balance(counts)
    for sentence in lookalikes(data.classes, data.counts()):
        yield Finding("class names", "warning", sentence, "If so, give both the same name.")


def _parts(data: Dataset, empty: Sequence[str]) -> Iterator[Finding]:
    """Classes that one part of the user's own split lacks."""
    if (data.split == UNSPLIT).all():
        return
    parts = {"training": data.part(UNSPLIT, TRAIN, VALID), "test": data.part(TEST)}
    for name, rows in parts.items():
        lacking = [
            each
            for each, count in zip(data.classes, tally(data.labels[rows], len(data.classes)), strict=True)
            if not count
        ]
        lacking = [each for each in lacking if each not in empty]
        if len(rows) and lacking:
            severity = "error" if name == "training" else "warning"
            advice = (
                "A class that was not trained on is never answered."
                if name == "training"
                else "No score tells of them."
            )
            yield Finding("split", severity, f"The {name} part has no picture of {listed(lacking)}", advice)


def _balance(counts: dict[str, int]) -> Iterator[Finding]:
    there = {name: count for name, count in counts.items() if count}
    if len(there) > 1 and (most := max(there.values())) >= UNEQUAL * (least := min(there.values())):
        big, small = max(there, key=there.__getitem__), min(there, key=there.__getitem__)
        says = f"{big} has {most / least:.0f} times as many pictures as {small}: {most:,} and {least:,}"
        advice = "Look at the score of each class, not at the share of all answers; --recipe balance=... when training."
        yield Finding("imbalance", "warning", says, advice)


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
