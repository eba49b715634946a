"""The catalogue, as a person wants to read it before choosing."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from graft.errors import UsageError
from graft.networks import catalog, weights


def backbones(filter: str = "*") -> list[dict[str, Any]]:
    """Name, parameters, GMAC, input size, licence of the weights and where these are, for each network that matches.

    `weights` is 'embedded', 'folder' (in GRAFT_WEIGHTS), 'cached' or 'download'. Raises UsageError if none matches.
    """
    found = [asdict(entry) | {"weights": weights.locate(entry).where} for entry in catalog.entries(filter)]
    if not found:
        raise UsageError(f"No network matches {filter!r}. Patterns look like 'resnet*'.")
    return found
