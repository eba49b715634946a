"""The catalogue, as a person wants to read it before choosing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from graft.backbones import catalog, weights
from graft.backbones.catalog import Entry
from graft.errors import UsageError, WeightsError


def backbones(filter: str = "*", *, offline: bool = False) -> list[dict[str, Any]]:
    """Name, parameters, GMAC, input size, licence of the weights and where these are, for each network that matches.

    `weights` is 'embedded', 'folder' (in GRAFT_WEIGHTS), 'cached', 'download', 'offline' where they would be downloaded
    and `offline` or HF_HUB_OFFLINE forbids it, or 'none' where nobody published any.
    Raises UsageError if no network matches.
    """
    found = [asdict(entry) | {"weights": _place(entry, offline)} for entry in catalog.entries(filter)]
    if not found:
        raise UsageError(f"No network matches {filter!r}. Patterns look like 'resnet*'.")
    return found


def _place(entry: Entry, offline: bool) -> str:
    if source := weights.here(entry):
        return source.where
    try:
        where = weights.remote(entry).where
    except WeightsError:
        return "none"
    return "offline" if offline or weights.hub_offline() else where
