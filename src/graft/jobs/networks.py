"""List the pretrained networks, and the stages of a network with their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from graft.backbones import catalog, weights
from graft.backbones.backbone import load_backbone
from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import Stage
from graft.errors import UsageError, WeightsError


def backbones(filter: str = "*", *, offline: bool = False) -> list[dict[str, Any]]:
    """List matching networks: name, parameters, GMAC, input size, licence of the weights and where these are.

    `weights` is 'embedded', 'folder' (in GRAFT_WEIGHTS), 'cached', 'download', 'offline' where they would be downloaded
    and `offline` or HF_HUB_OFFLINE forbids it, or 'none' where none are published. Raises UsageError if no network
    matches.
    """
    found = [asdict(entry) | {"weights": _weights_location(entry, offline)} for entry in catalog.search(filter)]
    if not found:
        raise UsageError(f"No network matches {filter!r}. Patterns look like 'resnet*'.")
    return found


def _weights_location(entry: CatalogEntry, offline: bool) -> str:
    if source := weights.find_local(entry):
        return source.where
    try:
        where = weights.find_remote(entry).where
    except WeightsError:
        return "none"
    return "offline" if offline or weights.is_hub_offline() else where


def stages(backbone: str = catalog.DEFAULT) -> list[dict[str, Any]]:
    """List the stages in forward order: index, share, name, output shape, parameters, cost and layers.

    `share` is the fraction of the chain before the stage, `below` the fraction of the parameters: what a cut there
    freezes. `work` is the stage's fraction of the network's multiply-adds, `above` that of this stage and all after it:
    what a cut there trains. `layers` are its convolutions and linear layers, each with the parameters that `last` would
    train with it. No pretrained weights are needed: PyTorch builds the network with random ones. Without PyTorch,
    `work` and `above` are None and `layers` is empty.
    """
    found, costs, total_cost, layers = (
        _profile_with_torch(backbone) if find_spec("torch") else _read_from_graph(backbone)
    )
    sums = list(accumulate((stage.parameters for stage in found), initial=0))
    return [
        {
            "index": index,
            "share": round(index / len(found), 3),
            "name": stage.name,
            "shape": list(stage.shape),
            "parameters": stage.parameters,
            "below": round(sums[index] / sums[-1], 4),
            "work": round(costs[index] / max(total_cost, 1), 4) if costs else None,
            "above": round(sum(costs[index:]) / max(total_cost, 1), 4) if costs else None,
            "layers": [
                {"name": layer.name, "parameters": layer.parameters}
                for layer in layers
                if f"{layer.name}.".startswith(f"{stage.name}.")
            ],
        }
        for index, stage in enumerate(found)
    ]


StageProfile = tuple[Sequence[Stage], list[int], int, Sequence[Any]]  # stages, multiply-adds of each, in all, layers


def _profile_with_torch(backbone: str) -> StageProfile:
    """Count multiply-adds and find layers in the PyTorch network."""
    from graft.torch import chain, restore
    from graft.torch.chain import find_weight_layers
    from graft.torch.network import FeaturesModule

    network = restore.build_random_module(backbone)
    found = chain.find_stages(network)
    spent, whole = chain.count_multiply_adds(network, found)
    return found, spent, whole, find_weight_layers(FeaturesModule(network.module, network.preprocess, ()))


def _read_from_graph(backbone: str) -> StageProfile:
    """Read the stages from the graph, which has neither costs nor layers."""
    return load_backbone(backbone).graph.stages, [], 0, ()
