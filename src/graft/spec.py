"""Parse and format specs such as 'probe:head=ridge,views=4', the text form of frozen dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from graft.errors import UsageError

Kind = TypeVar("Kind")


def parse(text: str, kinds: Mapping[str, type[Any]], what: str = "strategy") -> Any:
    """Parse a spec into the dataclass that it names; UsageError names what is legal.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Probe:
    ...     head: str = "auto"
    ...     views: int = 1
    >>> parse("probe:views=4", {"probe": Probe})
    Probe(head='auto', views=4)
    """
    name, _, options = text.partition(":")
    if name not in kinds:
        raise UsageError(
            f"There is no {what} {name!r}.{format_suggestions(name, kinds)} Choose one of: {', '.join(kinds)}."
        )
    return kinds[name](**_parse_options(options, kinds[name], repr(name)))


def format_suggestions(word: str, words: Iterable[str]) -> str:
    """Return ' Did you mean ...?' with similar words, or nothing: goes between two sentences.

    >>> format_suggestions("tial", ["probe", "tail"])
    " Did you mean 'tail'?"
    """
    near = difflib.get_close_matches(word.lower(), words, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def replace_options(value: Kind, options: str, what: str, separator: str = ",") -> Kind:
    """Replace the options of a dataclass that the text gives: 'epochs=5,rate=0.001'."""
    given = _parse_options(options, type(value), what, separator)
    return dataclasses.replace(value, **given)  # pyright: ignore[reportArgumentType]


def format_spec(value: Any, kinds: Mapping[str, type[Any]]) -> str:
    """Format a value as the text that `parse` reads; options at their default are left out."""
    name = next(name for name, kind in kinds.items() if kind is type(value))
    options = format_changed_options(value)
    return f"{name}:{options}" if options else name


def format_changed_options(value: Any, separator: str = ",") -> str:
    """Format the options of a dataclass that differ from their defaults."""
    fields = [(field.name, getattr(value, field.name), field.default) for field in dataclasses.fields(value)]
    return separator.join(f"{key}={_format_value(given)}" for key, given, default in fields if given != default)


def _parse_options(text: str, kind: type[Any], owner: str, separator: str = ",") -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for option in filter(None, text.split(separator)):
        key, _, value = option.partition("=")
        key = key.strip()
        if key not in fields:
            listed = ", ".join(field.name for field in dataclasses.fields(kind)) or "none"
            raise UsageError(
                f"{owner} has no option {key!r}.{format_suggestions(key, sorted(fields))} It has {listed}."
            )
        if key in values:
            raise UsageError(f"{owner} is given {key!r} twice. Leave one of them out.")
        values[key] = _parse_value(key, value, hints[key])
    return values


def _parse_value(key: str, text: str, hint: Any) -> Any:
    """Convert the text to the first of the option's types that accepts it."""
    either = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    kinds = [kind for kind in either if kind is not types.NoneType]  # None: not given, which no text says
    for kind in kinds:
        literals = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
        if text in literals:
            return text
        if kind is bool and text in _BOOLEANS:
            return _BOOLEANS[text]
        if not literals and kind is not bool:
            try:
                return kind(text)
            except ValueError:
                continue
    legal = " or ".join(_NAMES.get(kind) or "/".join(typing.get_args(kind)) for kind in kinds)
    words = [word for kind in kinds for word in typing.get_args(kind)]
    raise UsageError(f"{key!r} must be {legal}. Got {text!r}.{format_suggestions(text, words)}")


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}
_NAMES = {int: "a whole number", float: "a number", bool: "yes or no", str: "a text"}
