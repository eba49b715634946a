"""'probe:head=ridge,views=4' <-> a frozen dataclass: one text form for the command line, files and tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from graft.errors import UsageError


def parse(text: str, kinds: Mapping[str, type[Any]]) -> Any:
    """The dataclass that the text names, with the options it gives; UsageError names what is legal.

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
        raise UsageError(f"There is no strategy {name!r}. Choose one of: {', '.join(kinds)}.")
    fields = {field.name: field for field in dataclasses.fields(kinds[name])}
    values = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in fields:
            raise UsageError(f"{name!r} has no option {key!r}. It has {', '.join(fields)}.")
        values[key] = _value(key, value, type(fields[key].default))
    return kinds[name](**values)


def write(value: Any, kinds: Mapping[str, type[Any]]) -> str:
    """The text that `parse` turns into this value; options at their default are left out."""
    name = next(name for name, kind in kinds.items() if kind is type(value))
    fields = [(field.name, getattr(value, field.name), field.default) for field in dataclasses.fields(value)]
    options = ",".join(f"{key}={given}" for key, given, default in fields if given != default)
    return f"{name}:{options}" if options else name


def _value(key: str, text: str, kind: type[Any]) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{key!r} must be {'a whole number' if kind is int else 'a number'}. Got {text!r}.") from error
