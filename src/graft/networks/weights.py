"""Where weights come from, and how they get into a module, until all callers ask each of the two for its part."""

from __future__ import annotations

from graft.backbones.weights import PACKAGE_LICENCE, Place, Source, here, hub_offline, locate, remote
from graft.torch.weights import load

__all__ = ["PACKAGE_LICENCE", "Place", "Source", "here", "hub_offline", "load", "locate", "remote"]
