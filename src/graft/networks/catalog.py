"""The catalogue and its networks as modules, under one name until all callers ask each of the two for its part."""

from __future__ import annotations

from graft.backbones import catalog
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
)
from graft.networks.preprocess import Preprocess
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


def preprocess(entry: Entry) -> Preprocess:
    """What the weights of this network expect of an image, as torch does it."""
    return Preprocess(**vars(catalog.preprocess(entry)))
