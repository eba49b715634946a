"""Completion of values in a shell: each function imports what it lists, none of it heavy.

typer keeps those of the candidates that begin as the word does.
"""

from __future__ import annotations


def complete_strategy() -> list[str]:
    """Return the names of strategies."""
    from graft.training.strategies import STRATEGIES

    return list(STRATEGIES)


def complete_head() -> list[str]:
    """Return the names of trained heads."""
    from graft.heads.designs import HEADS

    return list(HEADS)


def complete_backbone() -> list[str]:
    """Return the names of networks, without tags of weights."""
    from graft.backbones import catalog

    return [*catalog.ALIASES, *catalog.list_names()]


def complete_format() -> list[str]:
    """Return the formats of an export."""
    from graft.jobs.export.formats import NAMES

    return list(NAMES)


def complete_device() -> list[str]:
    """Return the names of devices."""
    from graft.device import NAMES

    return list(NAMES)
