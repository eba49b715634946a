"""The catalogue and its networks as modules, under one name until all callers ask each of the two for its part."""

from __future__ import annotations

from graft.backbones.catalog import (
    ALIASES,
    DEFAULT,
    NOT_NEEDED,
    NOT_STATED,
    TABLE,
    Entry,
    classifier_names,
    entries,
    find,
    known,
    names,
    preprocess,
)
from graft.torch.build import build, headless

__all__ = [
    "ALIASES",
    "DEFAULT",
    "Entry",
    "NOT_NEEDED",
    "NOT_STATED",
    "TABLE",
    "build",
    "classifier_names",
    "entries",
    "find",
    "headless",
    "known",
    "names",
    "preprocess",
]
