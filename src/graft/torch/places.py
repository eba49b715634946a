"""The last map that a network keeps of a picture: what a heat map without gradients is drawn from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graft.torch.network import Features, channels_last, heard
from graft.torch.reference import last_of


@dataclass(frozen=True)
class Place:
    """The part of the backbone whose output is the map.

    `averaged` says that what the head reads of the last layer is nothing but this map's average over space: the class
    activation map of a linear head (Zhou et al. 2016) is then exact.
    """

    name: str
    averaged: bool


@torch.no_grad()
def last_place(features: Features) -> Place | None:
    """Where the last map is, found in one forward pass; None in a network that reads pictures row by row."""
    backbone, side = features.backbone, features.preprocess.size
    noise = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = (noise * torch.tensor([60, 255]).view(2, 1, 1, 1)).to(torch.uint8)
    with heard(backbone, [name for name, _ in backbone.named_modules() if name]) as outputs:
        last = last_of(features, features.each(images))
    found = None
    for name, output in reversed(outputs.items()):
        places = as_map(backbone, output) if isinstance(output, Tensor) else None
        if places is None or places.shape[2] * places.shape[3] == 1:
            continue
        if places.shape[1] == last.shape[1] and torch.allclose(places.mean((2, 3)), last, rtol=1e-4, atol=1e-5):
            return Place(name, True)
        found = found or Place(name, False)
    return found


def as_map(backbone: nn.Module, output: Tensor) -> Tensor | None:
    """An output with places as [n, channels, height, width]; None for any other."""
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if channels_last(output) else output
    if output.ndim != 3:
        return None
    side = math.isqrt(output.shape[1])
    rest = output.shape[1] - side * side  # tokens of the class or of nothing come before those of places
    if rest not in (0, 1, getattr(backbone, "num_prefix_tokens", 0)):
        return None
    return output[:, rest:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
