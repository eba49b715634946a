"""The text form of an augmentation: names of operations and their strengths, as in 'crop+flip+rotate=10'."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graft import spec
from graft.errors import UsageError

LEAST = 0.35  # share of the area that a random crop keeps at least

Step = tuple[str, float | None]  # name and strength


@dataclass(frozen=True)
class Strength:
    """The usual strength of a change, None where it has none, and the legal ones."""

    usual: float | None = None
    least: float = 0
    most: float = 1
    whole: bool = False


STRENGTHS = {
    "crop": Strength(LEAST, 0.05),  # the smallest share of the area
    "flip": Strength(),
    "vflip": Strength(),
    "rotate": Strength(15, most=180),
    "perspective": Strength(0.3),
    "distort": Strength(0.2, most=0.3),
    "blur": Strength(1.5, 0.1, 5),
    "colour": Strength(0.3),
    "grey": Strength(0.2),
    "erase": Strength(0.25),
    "trivial": Strength(),
    "rand": Strength(9, most=30, whole=True),
}

PRESETS = {"none": (), "light": ("crop", "flip"), "strong": ("crop", "flip", "trivial", "erase")}


def steps(text: str) -> tuple[Step, ...]:
    """A list joined by '+', of which a preset may be a part; UsageError says what is legal."""
    words = [part for word in text.split("+") for part in PRESETS.get(word, (word,))]
    found = tuple(_step(word) for word in words)
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"Augmentation {text!r} has {twice!r} twice; each change may stand there once.")
    return found


def _step(word: str) -> Step:
    name, equals, text = word.partition("=")
    if name not in STRENGTHS and name not in PRESETS:
        legal = f"{', '.join(PRESETS)}, or a list of {', '.join(STRENGTHS)} joined by '+'"
        hint = spec.format_suggestions(name, [*PRESETS, *STRENGTHS])
        raise UsageError(f"There is no augmentation {name!r}.{hint} Choose {legal}.")
    strength = STRENGTHS.get(name)
    if strength is None or (equals and strength.usual is None):
        raise UsageError(f"Augmentation {name!r} has no strength. Got {word!r}.")
    return name, _strength(name, strength, text) if equals else strength.usual


def _strength(name: str, strength: Strength, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not strength.least <= value <= strength.most or (strength.whole and value % 1):
        kind = "a whole number" if strength.whole else "a number"
        legal = f"{kind} from {strength.least:g} to {strength.most:g}"
        raise UsageError(f"The strength of augmentation {name!r} must be {legal}. Got {text!r}.")
    return value
