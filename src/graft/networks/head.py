"""Heads: from features to logits. What a head is made of is a small dictionary, so that a saved one can be rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class Mlp(nn.Sequential):
    """Linear layers with ReLU between."""

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers[:-1])


class NearestNeighbours(nn.Module):
    """Votes of the k most similar training pictures, weighted by exp(cosine / 0.07) (Caron et al. 2021, DINO).

    Keeps the training features [n, d] and their labels; the logit of a class is the logarithm of its share of votes.
    """

    SHARPNESS = 0.07
    features: Tensor
    labels: Tensor

    def __init__(self, stored: int, width: int, classes: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours, self.classes = neighbours, classes
        self.register_buffer("features", torch.zeros(stored, width))  # unit length
        self.register_buffer("labels", torch.zeros(stored, dtype=torch.long))

    def forward(self, features: Tensor) -> Tensor:
        cosines = nn.functional.normalize(features) @ self.features.T
        nearest = cosines.topk(min(self.neighbours, self.features.shape[0]))
        weights = (nearest.values / self.SHARPNESS).softmax(dim=1)
        votes = torch.zeros(len(features), self.classes, dtype=weights.dtype, device=weights.device)
        return torch.log(votes.scatter_add(1, self.labels[nearest.indices], weights) + 1e-4)


class Head(nn.Module):
    """Standardise features [n, d], then judge them: logits [n, classes]."""

    mean: Tensor
    scale: Tensor

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec["width"]))
        self.register_buffer("scale", torch.ones(spec["width"]))
        self.judge = _judge(spec)

    def forward(self, features: Tensor) -> Tensor:
        return self.judge((features - self.mean) * self.scale)


def _judge(spec: dict[str, Any]) -> nn.Module:
    """The spec's `kind` decides: linear, mlp (`hidden`: widths) or knn (`stored`, `neighbours`)."""
    width, classes = spec["width"], spec["classes"]
    if spec["kind"] == "linear":
        return nn.Linear(width, classes)
    if spec["kind"] == "mlp":
        return Mlp([width, *spec["hidden"], classes])
    if spec["kind"] == "knn":
        return NearestNeighbours(spec["stored"], width, classes, spec["neighbours"])
    raise ValueError(f"There is no head of kind {spec['kind']!r}; there are linear, mlp and knn.")
