"""A network that has seen nothing yet: its weights are drawn from a seed."""

from __future__ import annotations

from pathlib import Path

from graft.torch import build
from graft.backbones.weights import Source
from graft.errors import UsageError
from graft.backbones import catalog
from graft.torch.alone import seeded
from graft.torch.network import Backbone
from graft.backbones.weights import Source

RANDOM = "random"  # in place of a file of weights; as a Path, or ./random, it is a file


def fresh_backbone(name: str, seed: int = 0) -> Backbone:
    """Any network of the catalogue with random weights, the same for the same seed: eval mode, nothing trainable.

    Torch's global generators are as before. Raises UsageError for an unknown name.
    """
    entry = catalog.find(name)
    with seeded(seed):
        module = build.headless(entry, build.build(entry))
    source = Source("random", None, catalog.NOT_NEEDED, f"drawn with seed {seed}")
    return Backbone(entry, module.eval().requires_grad_(False), catalog.preprocess(entry), source)


def file_of(weights: str | Path | None) -> Path | None:
    """The file that `weights` names. Raises UsageError for random ones: only `graft fit` has a use for them."""
    if weights == RANDOM:
        raise UsageError(
            "Random weights are for `graft fit`: here they would say nothing of an image. Leave --weights out, or "
            "write ./random for a file of that name."
        )
    return Path(weights) if weights else None
