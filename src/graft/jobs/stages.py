"""The chain of a network's stages, so that a person can choose where to cut."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from graft.networks import catalog, chain, fresh


def stages(backbone: str = catalog.DEFAULT) -> list[dict[str, Any]]:
    """Index, share, name, shape of the output and parameters of each stage, in the order of a forward pass.

    `share` is the part of the chain that lies before the stage, and `below` the part of all stages' parameters: what a
    cut there would freeze. The list needs no pretrained weights: the network is built with random ones.
    """
    found = chain.stages(fresh.fresh_backbone(backbone))
    sums = list(accumulate((stage.parameters for stage in found), initial=0))
    return [
        {
            "index": index,
            "share": round(index / len(found), 3),
            "name": stage.name,
            "shape": list(stage.shape),
            "parameters": stage.parameters,
            "below": round(sums[index] / sums[-1], 4),
        }
        for index, stage in enumerate(found)
    ]
