"""Class names that a person may have meant to be one: they differ only by case, blanks or the form of their letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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


def _bare(name: str) -> str:
    """What is left of a name without capitals, blanks, and ways to write the same letter."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())
