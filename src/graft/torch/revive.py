"""Networks of PyTorch out of graphs and files, and graphs out of networks of PyTorch: where the two meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graft.backbones import backbone as looking
from graft.backbones import catalog, facts
from graft.backbones.features import Features
from graft.backbones.preprocess import Preprocess
from graft.errors import CutError, ModelError, UsageError
from graft.heads.head import Head
from graft.model.network import Network
from graft.torch import network as changing
from graft.torch.build import build, headless
from graft.torch.convert import graph_of
from graft.torch.head import arrays, module
from graft.torch.shorter import shortened
from graft.torch.weights import filled, module_of
from graft_runtime.card import Card

PREFIX, HEAD = "features.backbone.", "head."  # as graft.model.storage names tensors


def backbone_of(backbone: looking.Backbone) -> changing.Backbone:
    """The backbone as a module whose weights may change: a copy, in eval mode, nothing trainable.

    Raises UsageError for a user's own graph, of which there is no module.
    """
    if backbone.entry is None:
        raise UsageError(
            f"{backbone.source.path} is a graph that can be looked through and not changed: choose the strategy probe "
            "or early-features, or name a network of `graft backbones` and a file of its weights."
        )
    entry = backbone.entry
    return changing.Backbone(entry, module_of(entry, backbone.graph), backbone.preprocess, backbone.source)


def network_of(network: Network, card: Card) -> changing.Network:
    """A classifier's network as a module. Raises UsageError for a user's own graph."""
    features = network.features
    if not catalog.known(card.backbone["name"]):
        raise UsageError(f"There is no module of the network {card.backbone['name']!r}: it was given as a graph.")
    backbone = module_of(catalog.find(card.backbone["name"]), features.graph)
    read = changing.Features(backbone, features.preprocess, features.layers, features.top, features.pool)
    return changing.Network(read, module(network.head)).eval().requires_grad_(False)


def looked_through(network: changing.Network) -> Network:
    """A network that was trained, as a graph and a head, checked against the module."""
    return _seen(network, network.features.backbone)


def _seen(network: changing.Network, whole: nn.Module) -> Network:
    """The same with the graph of this module, which has all stages."""
    read = network.features
    graph = facts.completed(graph_of(whole, read.preprocess), read.preprocess.size)
    features = Features(graph, read.preprocess, read.layers, read.top, read.pool)
    return Network(features, arrays(network.head))


def earlier(card: Card, tensors: Mapping[str, NDArray[Any]], preprocess: Preprocess) -> Network:
    """The network of a folder that was saved without a graph.

    Raises ModelError where the two are not of one, and CutError where it read a layer in another way than we do.
    """
    named = {name: torch.from_numpy(np.array(each)) for name, each in tensors.items()}
    own = {name.removeprefix(PREFIX): each for name, each in named.items() if name.startswith(PREFIX)}
    head = {name.removeprefix(HEAD): each for name, each in tensors.items() if name.startswith(HEAD)}
    if odd := [name for name in tensors if not name.startswith((PREFIX, HEAD))]:
        raise ModelError(f"unexpected {odd[0]}")
    entry = catalog.find(card.backbone["name"])
    backbone = filled(entry, own)
    read = changing.Features(backbone, preprocess, card.layers, card.top, card.pool)
    network = changing.Network(read, module(Head(card.head, head).checked()))
    if not card.top and _changed_after(read):
        raise CutError(
            f"This graft reads the layer {read.layers[-1]!r} after its activation, and the one that saved the "
            "classifier read it before. Fit it again."
        )
    if not shortened(backbone):
        return looked_through(network)
    read.widths  # noqa: B018 - raises where a stage that is read was left out
    with torch.random.fork_rng(devices=[]):  # traced with just any stages in the place of those that were left out
        fresh = headless(entry, build(entry)).state_dict()
    found = _seen(network, filled(entry, {**fresh, **own}))
    graph = found.features.graph
    kept = [stage for stage in graph.stages if any(name.startswith(f"{stage.name}.") for name in own)]
    if graph.stages[: len(kept)] != tuple(kept):
        raise ModelError(f"missing all of a stage before {kept[-1].name}")
    return replace(found, features=replace(found.features, graph=facts.shortened(graph, len(kept))))


@torch.no_grad()
def _changed_after(read: changing.Features) -> bool:
    """Whether an activation works in place on the output of the last layer, where earlier versions had stopped."""
    found: list[Any] = []
    last = read.backbone.get_submodule(read.layers[-1])
    hook = last.register_forward_hook(lambda _part, _inputs, output: found.extend([output, output.clone()]))
    try:
        read(read.blank())
    finally:
        hook.remove()
    now, then = found
    return not torch.equal(now, then)
