"""Class names that a person may have meant to be one: they differ only by case, blanks or the form of their letters.

And whether the names of other pictures are those that a classifier knows.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from graft.errors import DataError


def lookalikes(classes: Sequence[str], counts: NDArray[np.integer]) -> list[str]:
    """One sentence for each set of names that look alike; nothing is merged.

    >>> lookalikes(("Cat", "cat", "dog"), np.array([12, 240, 9]))
    ["'Cat' (12 pictures) and 'cat' (240): the same class?"]
    """
    alike: dict[str, list[str]] = {}
    for name, count in zip(classes, counts.tolist(), strict=True):
        others = alike.setdefault(_bare(name), [])
        unit = "" if others else f" picture{'s' * (count != 1)}"
        others.append(f"{name!r} ({count:,}{unit})")
    return [f"{', '.join(names[:-1])} and {names[-1]}: the same class?" for names in alike.values() if len(names) > 1]


def matched(where: str, found: Sequence[str], classes: tuple[str, ...]) -> tuple[str, ...]:
    """A trained classifier's classes, and after them those found that it does not know, in their order.

    Of no classes at all, those found. Raises DataError where one is only spelt in another way, or not one is known.
    """
    if not classes:
        return tuple(found)
    strange = followers(where, found, classes)
    if strange and len(strange) == len(found):
        raise DataError(
            f"{where} has no class that the classifier knows. It has {listed([*map(repr, strange)])}; "
            f"the classifier knows {listed([*map(repr, classes)])}."
        )
    return (*classes, *strange)


def followers(where: str, found: Sequence[str], classes: tuple[str, ...]) -> list[str]:
    """Those found that a classifier does not know, in their order; DataError for one that is only spelt differently."""
    strange = [name for name in found if name not in set(classes)]
    own = {_bare(name): name for name in classes}
    if other := [f"{name!r} (there: {own[_bare(name)]!r})" for name in strange if _bare(name) in own]:
        raise DataError(
            f"{where} spells {'a class' if len(other) == 1 else 'classes'} in another way than the classifier: "
            f"{listed(other)}. Rename what is meant to be the same."
        )
    return strange


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first of them in a line, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _bare(name: str) -> str:
    """What is left of a name without capitals, blanks, and ways to write the same letter."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
