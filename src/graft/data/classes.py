"""What the classes of a data set look like: how many images each has, in which parts, and under which names."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN, UNSPLIT, VALID, Dataset, count_labels
from graft.data.quality import Finding
from graft.errors import DataError
from graft_runtime.card import MULTICLASS


def find_similar_names(classes: Sequence[str], counts: NDArray[np.integer]) -> list[str]:
    """One sentence for each set of names that look alike; nothing is merged.

    >>> find_similar_names(("Cat", "cat", "dog"), np.array([12, 240, 9]))
    ["'Cat' (12 images) and 'cat' (240): the same class?"]
    """
    alike: dict[str, list[str]] = {}
    for name, count in zip(classes, counts.tolist(), strict=True):
        others = alike.setdefault(_fold_name(name), [])
        unit = "" if others else f" image{'s' * (count != 1)}"
        others.append(f"{name!r} ({count:,}{unit})")
    return [f"{', '.join(names[:-1])} and {names[-1]}: the same class?" for names in alike.values() if len(names) > 1]


def match_classes(where: str, found: Sequence[str], classes: tuple[str, ...]) -> tuple[str, ...]:
    """A trained classifier's classes, and after them those found that it does not know, in their order.

    Of no classes at all, those found. Raises DataError where one is only spelt in another way, or not one is known.
    """
    if not classes:
        return tuple(found)
    unknown = find_new_classes(where, found, classes)
    if unknown and len(unknown) == len(found):
        raise DataError(
            f"{where} has no class that the classifier knows. It has {join_names([*map(repr, unknown)])}; "
            f"the classifier knows {join_names([*map(repr, classes)])}."
        )
    return (*classes, *unknown)


def find_new_classes(where: str, found: Sequence[str], classes: tuple[str, ...]) -> list[str]:
    """Those found that a classifier does not know, in their order; DataError for one that is only spelt differently."""
    unknown = [name for name in found if name not in set(classes)]
    by_bare_name = {_fold_name(name): name for name in classes}
    if other := [
        f"{name!r} (there: {by_bare_name[_fold_name(name)]!r})" for name in unknown if _fold_name(name) in by_bare_name
    ]:
        raise DataError(
            f"{where} spells {'a class' if len(other) == 1 else 'classes'} in another way than the classifier: "
            f"{join_names(other)}. Rename what is meant to be the same."
        )
    return unknown


def join_names(names: Sequence[str], most: int = 8) -> str:
    """The first of them in a line, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _fold_name(name: str) -> str:
    """What is left of a name without capitals, blanks, and ways to write the same letter."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


MIN_IMAGES = 10  # images of a class below which a score of it means little
IMBALANCE_RATIO = 10  # times as many images in the largest class as in the smallest
MIN_CHECKED, SINGLETON_SHARE = 5, 0.9  # images, and the share of them alone in their class: these are no classes


def check_classes_repeat(data: Dataset) -> None:
    """Raises DataError where nearly each image has a class of its own, from which nothing can be learned."""
    singletons = int((data.counts() == 1).sum())
    if data.task == MULTICLASS and len(data) >= MIN_CHECKED and singletons >= SINGLETON_SHARE * len(data):
        first = data.classes[int((data.counts() == 1).argmax())]
        raise DataError(
            f"{singletons} of the {len(data)} images in {data.root or 'this source'} have a class of their own, such "
            f"as {first!r}: there is nothing to learn. Are these names of files or numbers of rows? A class needs "
            "several images, better 20."
        )


def small_classes(data: Dataset) -> tuple[str, ...]:
    """The classes with fewer than FEW images, but some."""
    return tuple(
        name for name, count in zip(data.classes, data.counts().tolist(), strict=True) if 0 < count < MIN_IMAGES
    )


def find_class_problems(data: Dataset) -> Iterator[Finding]:
    """Findings about the classes of all usable images."""
    counts = dict(zip(data.classes, data.counts().tolist(), strict=True))
    if empty := [name for name, count in counts.items() if not count]:
        yield Finding("empty class", "error", f"No usable image of {join_names(empty)}", "Add some, or drop the class.")
    yield from _find_split_gaps(data, empty)
    if small := small_classes(data):
        says = f"Fewer than {MIN_IMAGES} images of {join_names([f'{name} ({counts[name]})' for name in small])}"
        yield Finding("few images", "warning", says, "Add images: 20 of a class are a start, 100 are comfortable.")
    yield from _find_imbalance(counts)
    for sentence in find_similar_names(data.classes, data.counts()):
        yield Finding("class names", "warning", sentence, "If so, give both the same name.")


def _find_split_gaps(data: Dataset, empty: Sequence[str]) -> Iterator[Finding]:
    """Classes that one part of the user's own split lacks."""
    if (data.split == UNSPLIT).all():
        return
    parts = {"training": data.part(UNSPLIT, TRAIN, VALID), "test": data.part(TEST)}
    for name, rows in parts.items():
        lacking = [
            each
            for each, count in zip(data.classes, count_labels(data.labels[rows], len(data.classes)), strict=True)
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
            yield Finding("split", severity, f"The {name} part has no image of {join_names(lacking)}", advice)


def _find_imbalance(counts: dict[str, int]) -> Iterator[Finding]:
    present = {name: count for name, count in counts.items() if count}
    if len(present) > 1 and (most := max(present.values())) >= IMBALANCE_RATIO * (least := min(present.values())):
        big, small = max(present, key=present.__getitem__), min(present, key=present.__getitem__)
        says = f"{big} has {most / least:.0f} times as many images as {small}: {most:,} and {least:,}"
        advice = "Look at the score of each class, not at the share of all answers; --recipe balance=... when training."
        yield Finding("imbalance", "warning", says, advice)
