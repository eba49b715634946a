"""The card of a classifier: the metadata that every saved or exported model carries."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from graft_runtime import strict_json
from graft_runtime.terminal import escape_breaks

SCHEMA = 2
MULTICLASS, MULTILABEL = TASKS = ("multiclass", "multilabel")  # one label for each image; any number of labels


MAX_ASPECT_RATIO = 4  # times the short side: beyond it a strip of 1 x 5000 pixels would be blown up to 256 x 1,280,000
PER_CLASS_FIELDS = ("thresholds", "scales", "shifts")  # fields with one number for each class, or none
COVERAGES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)  # for which a card has prediction sets
MAX_SIDE = 2048  # pixels on a side that a network may take; the largest of the catalogue takes half of it
MAX_SHOWN_CHARS = 80  # characters of a value in an error
RANGES = {
    "temperature": (1e-6, 1e6),
    "thresholds": (0, 1),
    "scales": (1e-9, 1e6),
    "shifts": (-1e6, 1e6),
    "sets": (0, 1),
}

Constraint = tuple[Callable[[Any], bool], str]  # a check of a value, and what is legal in words


class CardError(ValueError):
    """A model.json that is damaged, incomplete or newer than this version can read."""


@dataclass(frozen=True)
class Card:
    """Everything about a classifier but its weights.

    `classes` is the ordered list that the columns of every answer follow; it is stored, never derived again.
    `thresholds` are, for each class, the probability from which on an image has this label; empty where an image
    has one label. `scales` and `shifts` multiply and move the logit of each class, after the temperature;
    empty where that alone serves as well. `sets` are the least probabilities of a class in a prediction set, one for
    each of COVERAGES; `unknown` says how images that are like no class are found. `top` and `pool` tell which outputs
    of the backbone the head reads: the last one, and those of `layers`.
    """

    classes: tuple[str, ...]
    preprocess: dict[str, Any]
    backbone: dict[str, Any]
    head: dict[str, Any]
    strategy: str
    temperature: float
    weights: dict[str, str] = field(default_factory=dict)  # file name: SHA-256
    task: str = MULTICLASS
    thresholds: tuple[float, ...] = ()
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()
    sets: tuple[float, ...] = ()
    unknown: dict[str, Any] = field(default_factory=dict)
    cut: str = "head"
    layers: tuple[str, ...] = ()
    top: bool = True
    pool: bool = True
    recipe: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def __repr__(self) -> str:
        return escape_breaks(f"<Card of {len(self.classes):,} classes: {self.backbone.get('name')}, {self.strategy}>")

    @property
    def enough(self) -> int:
        """The short side in pixels that a decoded image needs: a larger one gives no other result after the resize."""
        return 2 * self.preprocess["resize"]


def dump(card: Card) -> str:
    """Return the card as indented JSON."""
    return strict_json.dumps(dataclasses.asdict(card), indent=2, ensure_ascii=False) + "\n"


def parse(text: str) -> Card:
    """Parse the text that `dump` wrote. Raises CardError, with the reason, for any other text."""
    try:
        entries = strict_json.loads(text)
    except ValueError as error:
        raise CardError(f"it is not JSON ({error})") from error
    if not isinstance(entries, dict) or type(entries.get("schema")) is not int:
        raise CardError("it has no schema number, so it was not written by graft")
    if entries["schema"] > SCHEMA:
        raise CardError(
            f"it has schema {_shorten(entries['schema'])}, this version reads up to {SCHEMA}: please update graft"
        )
    known = {f.name: f for f in dataclasses.fields(Card)}
    required = {name for name, f in known.items() if _is_required(f)}
    if missing := sorted(required - entries.keys()):
        raise CardError(f"it lacks {', '.join(missing)}")
    values: dict[str, Any] = {name: entries[name] for name in known if name in entries}
    for name in ("classes", "layers"):
        values[name] = _parse_names(name, values.get(name, []))
    for name in (*PER_CLASS_FIELDS, "sets"):
        values[name] = _parse_numbers(name, values.get(name, []))
    if wrong := sorted(name for name, value in values.items() if not _TYPE_CHECKS[known[name].type](value)):
        raise CardError(f"its entry {wrong[0]!r} cannot be {_shorten(values[wrong[0]])}")
    return _validate(Card(**values))


def _validate(card: Card) -> Card:
    """Return the card if each number is in its range and the entries are consistent. Raises CardError."""
    low, high = RANGES["temperature"]
    if not card.temperature > 0:
        raise CardError(f"its temperature must be above 0, and is {_shorten(card.temperature)}")
    if not low <= card.temperature <= high:
        raise CardError(f"its temperature lies from {low:g} to {high:g}, and is {_shorten(card.temperature)}")
    for name, (low, high) in RANGES.items():
        for value in getattr(card, name) if name != "temperature" else ():
            if not low <= value <= high:
                raise CardError(f"its {name} lie from {low:g} to {high:g}, and one is {value:g}")
    if len(set(card.classes)) < len(card.classes):
        raise CardError("two of its classes have the same name")
    if card.task not in TASKS:
        raise CardError(f"its task is {_shorten(card.task)}, this version knows {', '.join(TASKS)}")
    for name in PER_CLASS_FIELDS:
        if len(getattr(card, name)) not in (0, len(card.classes)):
            raise CardError(f"it has {len(getattr(card, name))} {name} for {len(card.classes)} classes")
    if len(card.scales) != len(card.shifts) or len(card.sets) not in (0, len(COVERAGES)):
        raise CardError("its scales, shifts and sets do not belong together")
    for name, legal in _ENTRY_CONSTRAINTS.items():
        _check_entries(name, getattr(card, name), legal)
    if card.preprocess.get("resize", MAX_SIDE) < card.preprocess.get("size", 1):
        raise CardError("its preprocessing cuts out more than it resizes to: 'resize' is less than 'size'")
    return card


def _check_entries(name: str, entries: Mapping[str, Any], constraints: Mapping[str, Constraint]) -> None:
    for key, (fits, words) in constraints.items():
        if key in entries and not fits(entries[key]):
            raise CardError(f"its entry '{name}.{key}' must be {words}, and is {_shorten(entries[key])}")


def _shorten(value: Any) -> str:
    """Return the repr of a value for an error message, cut to MAX_SHOWN_CHARS: a value may have megabytes."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more than some thousand digits
        return "a number without end"
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}..."


def _parse_names(name: str, entries: Any) -> tuple[str, ...]:
    if not isinstance(entries, list) or not all(_is_text(entry) for entry in entries):
        raise CardError(f"its entry {name!r} is no list of names")
    return tuple(entries)


def _parse_numbers(name: str, entries: Any) -> tuple[float, ...]:
    if not isinstance(entries, list) or not all(_is_number(entry) for entry in entries):
        raise CardError(f"its entry {name!r} is no list of numbers")
    return tuple(map(float, entries))


def _is_text(value: Any) -> bool:
    """Whether it is a string without lone surrogates, which JSON can write and no file or terminal takes."""
    return isinstance(value, str) and not any("\ud800" <= mark <= "\udfff" for mark in value)


def _is_number(value: Any) -> bool:
    """Whether it is a number that fits a float: JSON integers may have hundreds of digits."""
    return type(value) in (int, float) and -1e300 <= value <= 1e300


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))


def _number_between(low: float, high: float) -> Constraint:
    return lambda value: _is_number(value) and low <= value <= high, f"a number from {low:g} to {high:g}"


def _integer_between(low: int, high: int) -> Constraint:
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low:,} to {high:,}"


def _three_numbers(low: float, high: float) -> Constraint:
    fits, _ = _number_between(low, high)
    return (
        lambda value: isinstance(value, list | tuple) and len(value) == 3 and all(map(fits, value)),
        f"three numbers from {low:g} to {high:g}",
    )


def _one_of(*words: str) -> Constraint:
    return lambda value: value in words, " or ".join(map(repr, words))


_TEXT: Constraint = _is_text, "a text"
_NON_NEGATIVE_INTEGER = _integer_between(0, 2**53)
_MEAN_STD_TABLE: Constraint = (
    lambda value: isinstance(value, dict) and all(map(_is_pair, value.values())),
    "a table of mean and deviation",
)
_FRACTIONS: Constraint = (
    lambda value: isinstance(value, list | tuple) and all(_is_number(each) and 0 <= each <= 1 for each in value),
    "a list of numbers from 0 to 1",
)
_ENTRY_CONSTRAINTS: dict[str, dict[str, Constraint]] = {
    "preprocess": {
        "size": _integer_between(1, MAX_SIDE),
        "resize": _integer_between(1, 2 * MAX_SIDE),
        "interpolation": _one_of("bicubic", "bilinear"),
        "crop": _one_of("center", "squash"),
        "mean": _three_numbers(-1000, 1000),
        "std": _three_numbers(1e-6, 1000),
    },
    "backbone": dict.fromkeys(("name", "library", "origin", "where", "sha256", "licence"), _TEXT),
    "unknown": {
        "layer": (lambda value: value is None or _is_text(value), "a text"),
        "layers": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of names"),
        "rate": _number_between(0, 1),
        "limit": (lambda value: value is None or _is_number(value), "a number"),
    },
    "choices": dict.fromkeys(("strategy", "head", "recipe", "backbone", "weights", "task"), _TEXT)
    | {"seed": _integer_between(0, 2**64 - 1)},
    "data": dict.fromkeys(("train", "test"), _NON_NEGATIVE_INTEGER)
    | {"seed": _integer_between(0, 2**64 - 1), "root": _TEXT, "traits": _MEAN_STD_TABLE, "shares": _FRACTIONS},
}
_TYPE_CHECKS: dict[Any, Callable[[Any], bool]] = {  # the annotations above, as text, and what JSON makes of them
    "str": _is_text,
    "int": lambda value: type(value) is int,
    "float": _is_number,
    "bool": lambda value: type(value) is bool,
    "tuple[str, ...]": lambda value: isinstance(value, tuple),
    "tuple[float, ...]": lambda value: isinstance(value, tuple),
    "dict[str, Any]": lambda value: isinstance(value, dict),
    "dict[str, str]": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
}


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
