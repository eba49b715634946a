"""The chain of a network's stages, so that a person can choose where to cut."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.backbones.graph import Stage


def stages(backbone: str = catalog.DEFAULT) -> list[dict[str, Any]]:
    """Index, share, name, output, parameters, cost and layers of each stage, in the order of a forward pass.

    `share` is the part of the chain that lies before the stage, and `below` the part of all stages' parameters: what a
    cut there would freeze. `work` is the stage's part of the network's multiply-adds, and `above` that of this stage
    and all after it: what a cut there would train. `layers` are its convolutions and linear layers, each with the
    parameters that `last` would train with it. PyTorch needs no pretrained weights for it: the network is built with
    random ones. Where it is not installed, `work` and `above` are None and `layers` is empty.
    """
    found, spent, whole, inside = _counted(backbone) if find_spec("torch") else _listed(backbone)
    sums = list(accumulate((stage.parameters for stage in found), initial=0))
    return [
        {
            "index": index,
            "share": round(index / len(found), 3),
            "name": stage.name,
            "shape": list(stage.shape),
            "parameters": stage.parameters,
            "below": round(sums[index] / sums[-1], 4),
            "work": round(spent[index] / max(whole, 1), 4) if spent else None,
            "above": round(sum(spent[index:]) / max(whole, 1), 4) if spent else None,
            "layers": [
                {"name": layer.name, "parameters": layer.parameters}
                for layer in inside
                if f"{layer.name}.".startswith(f"{stage.name}.")
            ],
        }
        for index, stage in enumerate(found)
    ]


Found = tuple[Sequence[Stage], list[int], int, Sequence[Any]]  # stages, the work of each and in all, layers


def _counted(backbone: str) -> Found:
    """By PyTorch."""
    from graft.torch import chain, fresh
    from graft.torch.layers import weight_layers
    from graft.torch.network import Features

    network = fresh.fresh_module(backbone)
    found = chain.stages(network)
    spent, whole = chain.work(network, found)
    return found, spent, whole, weight_layers(Features(network.module, network.preprocess, ()))


def _listed(backbone: str) -> Found:
    """By the graph, which says nothing of work and layers."""
    return load_backbone(backbone).graph.stages, [], 0, ()
