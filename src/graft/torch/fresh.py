"""A network that has seen nothing yet: its weights are drawn from a seed."""

from __future__ import annotations

from graft.backbones import catalog, facts
from graft.backbones.backbone import Backbone
from graft.backbones.weights import RANDOM, Source
from graft.torch import network as changing
from graft.torch.alone import seeded
from graft.torch.build import build, headless
from graft.torch.convert import graph_of


def fresh_module(name: str, seed: int = 0) -> changing.Backbone:
    """Any network of the catalogue with random weights, the same for the same seed: eval mode, nothing trainable.

    Torch's global generators are as before. Raises UsageError for an unknown name.
    """
    entry = catalog.find(name)
    with seeded(seed):
        module = headless(entry, build(entry))
    source = Source(RANDOM, None, catalog.NOT_NEEDED, f"drawn with seed {seed}")
    return changing.Backbone(entry, module.eval().requires_grad_(False), catalog.preprocess(entry), source)


def fresh_backbone(name: str, seed: int = 0) -> Backbone:
    """The same as a graph."""
    drawn = fresh_module(name, seed)
    graph = graph_of(drawn.module, drawn.preprocess)
    graph = facts.completed(graph, drawn.preprocess.size)
    return Backbone(drawn.entry, graph, drawn.preprocess, drawn.source)
