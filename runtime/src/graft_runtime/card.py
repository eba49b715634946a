"""The self-description that every saved or exported model carries: what it is, what it answers, where it comes from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 2
MULTICLASS, MULTILABEL = TASKS = ("multiclass", "multilabel")  # one label for each picture; any number of labels


LONGEST = 4  # times the short side: beyond it a strip of 1 x 5000 pixels would be blown up to 256 x 1,280,000
OF_CLASSES = ("thresholds", "scales", "shifts")  # entries with a number for each class, or none
COVERAGES = (*(percent / 100 for percent in range(50, 100)), 0.995, 0.999)  # of which prediction sets are known


class CardError(ValueError):
    """A model.json that is damaged, incomplete or newer than this version can read."""


@dataclass(frozen=True)
class Card:
    """Everything about a classifier but its weights.

    `classes` is the ordered list that the columns of every answer follow; it is stored, never derived again.
    `thresholds` say for each class from which probability on a picture has this label; empty where a picture has one
    label. `scales` and `shifts` are what a logit of each class is multiplied by, and moved by, after the temperature;
    empty where that alone serves as well. `sets` are the least probabilities of a class in a prediction set, one for
    each of COVERAGES; `unknown` says how pictures that are like no class are found. `top` and `pool` tell which outputs
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
        return f"<Card of {len(self.classes):,} classes: {self.backbone.get('name')}, {self.strategy}>"

    @property
    def enough(self) -> int:
        """The short side in pixels from which on a larger decoded picture cannot be told from a smaller one."""
        return 2 * self.preprocess["resize"]


def dump(card: Card) -> str:
    """The card as JSON that a person can read."""
    return json.dumps(dataclasses.asdict(card), indent=2, ensure_ascii=False) + "\n"


def parse(text: str) -> Card:
    """The card that `dump` wrote; raises CardError and says what is wrong with any other text."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise CardError(f"it is not JSON ({error})") from error
    if not isinstance(entries, dict) or not isinstance(entries.get("schema"), int):
        raise CardError("it has no schema number, so it was not written by graft")
    if entries["schema"] > SCHEMA:
        raise CardError(f"it has schema {entries['schema']}, this version reads up to {SCHEMA}: please update graft")
    known = {f.name: f for f in dataclasses.fields(Card)}
    required = {name for name, f in known.items() if _is_required(f)}
    if missing := sorted(required - entries.keys()):
        raise CardError(f"it lacks {', '.join(missing)}")
    values: dict[str, Any] = {name: entries[name] for name in known if name in entries}
    for name in ("classes", "layers"):
        values[name] = _names(name, values.get(name, []))
    for name in (*OF_CLASSES, "sets"):
        values[name] = _numbers(name, values.get(name, []))
    if wrong := sorted(name for name, value in values.items() if not isinstance(value, _KINDS[known[name].type])):
        raise CardError(f"its entry {wrong[0]!r} cannot be {values[wrong[0]]!r}")
    if not values["temperature"] > 0:
        raise CardError(f"its temperature must be above 0, and is {values['temperature']}")
    if len(set(values["classes"])) < len(values["classes"]):
        raise CardError("two of its classes have the same name")
    card = Card(**values)
    if card.task not in TASKS:
        raise CardError(f"its task is {card.task!r}, this version knows {', '.join(TASKS)}")
    for name in OF_CLASSES:
        if len(getattr(card, name)) not in (0, len(card.classes)):
            raise CardError(f"it has {len(getattr(card, name))} {name} for {len(card.classes)} classes")
    if len(card.scales) != len(card.shifts) or len(card.sets) not in (0, len(COVERAGES)):
        raise CardError("its scales, shifts and sets do not belong together")
    return card


def _names(name: str, entries: Any) -> tuple[str, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise CardError(f"its entry {name!r} is no list of names")
    return tuple(entries)


def _numbers(name: str, entries: Any) -> tuple[float, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, int | float) for entry in entries):
        raise CardError(f"its entry {name!r} is no list of numbers")
    return tuple(map(float, entries))


_KINDS: dict[Any, Any] = {  # the annotations above, as text, and what JSON makes of them
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "tuple[str, ...]": tuple,
    "tuple[float, ...]": tuple,
    "dict[str, Any]": dict,
    "dict[str, str]": dict,
}


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
