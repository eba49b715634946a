"""TEMP"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from graft.backbones import catalog, facts, lite, weights
from graft.backbones.catalog import Entry
from graft.backbones.graph import Graph
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import Source


@dataclass(frozen=True, eq=False)
class Backbone:
    entry: Entry | None
    graph: Graph
    preprocess: Preprocess
    source: Source

    @property
    def name(self) -> str:
        return self.entry.name if self.entry else self.source.origin


def load_backbone(name: str = catalog.DEFAULT, file: Path | None = None, offline: bool = False) -> Backbone:
    entry = catalog.find(name)
    source = weights.locate(entry, file, offline)
    source = weights.obtained(entry, source)
    pre = catalog.preprocess(entry)
    if name in lite.NETWORKS:
        import torch

        tensors = {k: v.numpy() for k, v in torch.load(source.path, weights_only=True).items()}
        graph = lite.build(name, lite.arranged(name, tensors, source.path))
    else:
        from graft.torch.build import build, headless
        from graft.torch.convert import graph_of
        from graft.torch.weights import load

        whole = build(entry)
        load(entry, whole, source)
        graph = graph_of(headless(entry, whole).eval().requires_grad_(False), pre)
    return Backbone(entry, facts.completed(graph, pre.size, source.sha256 + name), pre, source)
