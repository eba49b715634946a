"""Conversion between modules of PyTorch and graphs with arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from graft.backbones import catalog
from graft.backbones.backbone import Backbone
from graft.backbones.features import Features
from graft.backbones.graph import complete_graph, truncate_graph
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import RANDOM, WeightsSource
from graft.errors import CutError, ModelError, UsageError
from graft.heads.head import Head
from graft.model.network import Network
from graft.torch import network as modules
from graft.torch.alone import temporary_seed
from graft.torch.build import build_from_graph, build_network, build_with_tensors, has_dropped_stages, remove_classifier
from graft.torch.convert import convert_module
from graft.torch.head import head_to_arrays, head_to_module
from graft_runtime.card import Card


def build_random_module(name: str, seed: int = 0) -> modules.BackboneModule:
    """Any network of the catalogue with random weights, the same for the same seed: eval mode, nothing trainable.

    Torch's global generators are as before. Raises UsageError for an unknown name.
    """
    entry = catalog.find_entry(name)
    with temporary_seed(seed):
        module = remove_classifier(entry, build_network(entry))
    source = WeightsSource(RANDOM, None, catalog.NOT_NEEDED, f"drawn with seed {seed}")
    return modules.BackboneModule(entry, module.eval().requires_grad_(False), catalog.build_preprocess(entry), source)


def build_random_backbone(name: str, seed: int = 0) -> Backbone:
    """The same as a graph."""
    module = build_random_module(name, seed)
    graph = convert_module(module.module, module.preprocess)
    graph = complete_graph(graph, module.preprocess.size)
    return Backbone(module.entry, graph, module.preprocess, module.source)


# --- conversion -------------------------------------------------------------------------------------------------------


BACKBONE_PREFIX, HEAD_PREFIX = "features.backbone.", "head."  # as graft.model.storage names tensors


def backbone_to_module(backbone: Backbone) -> modules.BackboneModule:
    """The backbone as a module whose weights may change: a copy, in eval mode, nothing trainable.

    Raises UsageError for a user's own graph, of which there is no module.
    """
    if backbone.entry is None:
        raise UsageError(
            f"{backbone.source.path} is a graph that can be looked through and not changed: choose the strategy probe "
            "or early-features, or name a network of `graft backbones` and a file of its weights."
        )
    entry = backbone.entry
    return modules.BackboneModule(entry, build_from_graph(entry, backbone.graph), backbone.preprocess, backbone.source)


def network_to_module(network: Network, card: Card) -> modules.NetworkModule:
    """A classifier's network as a module. Raises UsageError for a user's own graph."""
    features = network.features
    if not catalog.is_known(card.backbone["name"]):
        raise UsageError(f"There is no module of the network {card.backbone['name']!r}: it was given as a graph.")
    backbone = build_from_graph(catalog.find_entry(card.backbone["name"]), features.graph)
    torch_features = modules.FeaturesModule(backbone, features.preprocess, features.layers, features.top, features.pool)
    return modules.NetworkModule(torch_features, head_to_module(network.head)).eval().requires_grad_(False)


def module_to_network(network: modules.NetworkModule) -> Network:
    """A network that was trained, as a graph and a head, checked against the module."""
    return _build_graph_network(network, network.features.backbone)


def _build_graph_network(network: modules.NetworkModule, whole: nn.Module) -> Network:
    """The same with the graph of this module, which has all stages."""
    torch_features = network.features
    graph = complete_graph(convert_module(whole, torch_features.preprocess), torch_features.preprocess.size)
    features = Features(
        graph, torch_features.preprocess, torch_features.layers, torch_features.top, torch_features.pool
    )
    return Network(features, head_to_arrays(network.head))


def load_without_graph(card: Card, tensors: Mapping[str, NDArray[Any]], preprocess: Preprocess) -> Network:
    """The network of a folder that was saved without a graph.

    Raises ModelError where the two are not of one, and CutError where it read a layer in another way than we do.
    """
    named = {name: torch.from_numpy(np.array(each)) for name, each in tensors.items()}
    own = {name.removeprefix(BACKBONE_PREFIX): each for name, each in named.items() if name.startswith(BACKBONE_PREFIX)}
    head = {name.removeprefix(HEAD_PREFIX): each for name, each in tensors.items() if name.startswith(HEAD_PREFIX)}
    if odd := [name for name in tensors if not name.startswith((BACKBONE_PREFIX, HEAD_PREFIX))]:
        raise ModelError(f"unexpected {odd[0]}")
    entry = catalog.find_entry(card.backbone["name"])
    backbone = build_with_tensors(entry, own)
    torch_features = modules.FeaturesModule(backbone, preprocess, card.layers, card.top, card.pool)
    network = modules.NetworkModule(torch_features, head_to_module(Head(card.head, head).check_stored()))
    if not card.top and _is_changed_in_place(torch_features):
        raise CutError(
            f"This graft reads the layer {torch_features.layers[-1]!r} after its activation, and the one that saved "
            "the classifier read it before. Fit it again."
        )
    if not has_dropped_stages(backbone):
        return module_to_network(network)
    torch_features.widths  # noqa: B018 - raises where a stage that is read was left out
    with torch.random.fork_rng(devices=[]):  # traced with just any stages in the place of those that were left out
        fresh = remove_classifier(entry, build_network(entry)).state_dict()
    found = _build_graph_network(network, build_with_tensors(entry, {**fresh, **own}))
    graph = found.features.graph
    kept = [stage for stage in graph.stages if any(name.startswith(f"{stage.name}.") for name in own)]
    if graph.stages[: len(kept)] != tuple(kept):
        raise ModelError(f"missing all of a stage before {kept[-1].name}")
    return replace(found, features=replace(found.features, graph=truncate_graph(graph, len(kept))))


@torch.no_grad()
def _is_changed_in_place(torch_features: modules.FeaturesModule) -> bool:
    """Whether an activation works in place on the output of the last layer, where earlier versions had stopped."""
    found: list[Any] = []
    last = torch_features.backbone.get_submodule(torch_features.layers[-1])
    hook = last.register_forward_hook(lambda _part, _inputs, output: found.extend([output, output.clone()]))
    try:
        torch_features(torch_features.blank_image())
    finally:
        hook.remove()
    now, then = found
    return not torch.equal(now, then)
