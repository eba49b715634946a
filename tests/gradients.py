"""Saliency maps by gradients, as PyTorch gives them: what the ones without a gradient are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graft.errors import UsageError
from graft.torch.chain import find_blocks
from graft.torch.network import FeaturesModule, NetworkModule, as_map, collect_outputs

GRID = 14  # places along a side; a network's last map has 7 or 14
COVERED = 7  # places along a side that are covered one by one, where a head has no gradient; divides GRID
STEPS = ("forest", "knn")  # heads that answer in steps; where all neighbours are of one class, kNN has no slope either
AT_ONCE = 8  # images


def heat(network: NetworkModule, images: Tensor, classes: Sequence[int], several: bool = False) -> Tensor:
    """How much each place of uint8 images [n, 3, size, size] speaks for a class of each: [n, GRID, GRID].

    Gradient times activation, summed over channels (HiResCAM, Draelos and Carin 2020), of every layer that the head
    reads, each on its own way to the head; added up. Above 0 a place speaks for the class, below against it. What is
    explained is the class's logit above the mean of all logits, as only differences count in a softmax; with
    `several` labels an image, the logit itself. Of a linear head on averages over space the places add up to exactly
    that, but for the bias. Forests and neighbours answer in steps, without a gradient: there it is by how much that
    logit falls when a place is covered.

    Raises UsageError for a network that keeps no map of places, as one that reads images row by row.
    """
    if network.head.spec["kind"] in STEPS:
        return covered(network, images, classes, several)
    features = network.features
    names = list(find_blocks(features.backbone))
    with (
        torch.enable_grad(),
        collect_outputs(features.backbone, [*features.layers, *names]) as outputs,
        _graph(features),
    ):
        parts = features.forward_parts(images)
        logits = network.head(torch.cat(parts, dim=1))
        own = logits.gather(1, torch.tensor(classes, device=logits.device)[:, None]).sum()
        slopes = torch.autograd.grad(own if several else own - logits.mean(1).sum(), parts, retain_graph=True)
        order = list(outputs)  # as they were heard
        ends = [order.index(name) + 1 for name in features.layers] + [len(order)] * features.top
        ways = zip(parts, slopes, ends, strict=True)
        maps = [_way(features, part, slope, [outputs[name] for name in order[:end]]) for part, slope, end in ways]
    return torch.stack([on_grid(places) for places in maps]).sum(0).detach()


@torch.no_grad()
def covered(network: NetworkModule, images: Tensor, classes: Sequence[int], several: bool = False) -> Tensor:
    """By how much the same logit falls when a place is covered with the image's mean colour: [n, GRID, GRID].

    Occlusion (Zeiler and Fergus 2014), on COVERED x COVERED places; it asks for nothing but the network's answers.
    """
    size = images.shape[-1]
    edges = [round(size * at / COVERED) for at in range(COVERED + 1)]
    found = []
    for image, own in zip(images, classes, strict=True):
        changed = image.repeat(COVERED**2 + 1, 1, 1, 1)
        mean = image.float().mean((1, 2)).round().to(torch.uint8)[:, None, None]
        for place in range(COVERED**2):
            row, column = divmod(place, COVERED)
            changed[place, :, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = mean
        logits = torch.cat([network(batch) for batch in changed.split(AT_ONCE)])
        said = logits[:, own] if several else logits[:, own] - logits.mean(1)
        found.append((said[-1] - said[:-1]).unflatten(0, (COVERED, COVERED)))
    return (
        functional.interpolate(torch.stack(found)[:, None], (GRID, GRID), mode="nearest")[:, 0] / (GRID / COVERED) ** 2
    )


def _way(features: FeaturesModule, part: Tensor, slope: Tensor, outputs: Sequence[Any]) -> Tensor:
    """What a part says, by the places of the last layer before it all of whose places are heard there.

    A transformer's last block is heard by its class token alone, and dense layers have no places. Where no place makes
    a difference, as behind units that are all off, the map is 0.
    """
    nothing = None
    for output in reversed(outputs):
        if isinstance(output, Tensor) and output.requires_grad:
            gradient = torch.autograd.grad(part, output, slope, retain_graph=True, allow_unused=True)[0]
            spoken = None if gradient is None else as_map(features.backbone, gradient * output)
            if spoken is not None and spoken.shape[2] > 1:
                if (places := spoken.sum(1)).any():
                    return places
                nothing = places
    if nothing is not None:
        return nothing
    raise UsageError("This network keeps no map of the image, so there is nothing to draw a saliency map from.")


def on_grid(places: Tensor) -> Tensor:
    """The same total on GRID x GRID places."""
    total = places.sum((1, 2), keepdim=True)
    grid = functional.interpolate(places[:, None], (GRID, GRID), mode="area")[:, 0] * (places[0].numel() / GRID**2)
    return grid + (total - grid.sum((1, 2), keepdim=True)) / GRID**2  # area weights of uneven grids overlap


@contextmanager
def _graph(features: FeaturesModule) -> Iterator[None]:
    """Frozen weights leave no graph behind: let one begin at the image."""
    handle = features.backbone.register_forward_pre_hook(lambda _part, given: given[0].requires_grad_())
    try:
        yield
    finally:
        handle.remove()
