"""A network that has seen nothing yet: its weights are drawn from a seed."""

from __future__ import annotations

import torch

from graft.networks import catalog
from graft.networks.network import Backbone
from graft.networks.weights import Source


def fresh_backbone(name: str, seed: int = 0) -> Backbone:
    """Any network of the catalogue with random weights, the same for the same seed: eval mode, nothing trainable.

    Torch's global generators are as before. Raises UsageError for an unknown name.
    """
    entry = catalog.find(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU, where the weights are drawn; no other is touched
        module = catalog.headless(entry, catalog.build(entry))
    source = Source("random", None, catalog.NOT_NEEDED, f"drawn with seed {seed}")
    return Backbone(entry, module.eval().requires_grad_(False), catalog.preprocess(entry), source)
