"""The chain of a network's stages, so that a person can choose where to cut."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from graft.backbones import catalog
from graft.extras import needed


def stages(backbone: str = catalog.DEFAULT) -> list[dict[str, Any]]:
    """Index, share, name, output, parameters, cost and layers of each stage, in the order of a forward pass.

    `share` is the part of the chain that lies before the stage, and `below` the part of all stages' parameters: what a
    cut there would freeze. `work` is the stage's part of the network's multiply-adds, and `above` that of this stage
    and all after it: what a cut there would train. `layers` are its convolutions and linear layers, each with the
    parameters that `last` would train with it. The list needs no pretrained weights: the network is built with random
    ones.
    """
    needed("torch", "What each stage costs is counted by PyTorch, and that")
    from graft.torch import chain, fresh
    from graft.torch.layers import weight_layers
    from graft.torch.network import Features

    network = fresh.fresh_module(backbone)
    found = chain.stages(network)
    spent, whole = chain.work(network, found)
    sums = list(accumulate((stage.parameters for stage in found), initial=0))
    inside = weight_layers(Features(network.module, network.preprocess, ()))
    return [
        {
            "index": index,
            "share": round(index / len(found), 3),
            "name": stage.name,
            "shape": list(stage.shape),
            "parameters": stage.parameters,
            "below": round(sums[index] / sums[-1], 4),
            "work": round(spent[index] / max(whole, 1), 4),
            "above": round(sum(spent[index:]) / max(whole, 1), 4),
            "layers": [
                {"name": layer.name, "parameters": layer.parameters}
                for layer in inside
                if f"{layer.name}.".startswith(f"{stage.name}.")
            ],
        }
        for index, stage in enumerate(found)
    ]
