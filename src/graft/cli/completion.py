"""Completion of values in a shell: each function imports what it lists, none of it heavy."""

from __future__ import annotations

from collections.abc import Iterable


def complete_strategy(incomplete: str) -> list[str]:
    """Return the names of strategies that begin so."""
    from graft.training.strategies import STRATEGIES

    return _starting(incomplete, STRATEGIES)


def complete_head(incomplete: str) -> list[str]:
    """Return the names of trained heads that begin so."""
    from graft.heads.designs import HEADS

    return _starting(incomplete, HEADS)


def complete_backbone(incomplete: str) -> list[str]:
    """Return the names of networks that begin so, without tags of weights."""
    from graft.backbones import catalog

    return _starting(incomplete, [*catalog.ALIASES, *catalog.list_names()])


def complete_format(incomplete: str) -> list[str]:
    """Return the formats of an export that begin so."""
    from graft.jobs.export.formats import NAMES

    return _starting(incomplete, NAMES)


def complete_device(incomplete: str) -> list[str]:
    """Return the names of devices that begin so."""
    from graft.device import NAMES

    return _starting(incomplete, NAMES)


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
