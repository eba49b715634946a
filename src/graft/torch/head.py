"""Heads: from features to logits. What a head is made of is a small dictionary, so that a saved one can be rebuilt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graft.errors import UsageError
from graft.heads.checks import BEFORE, KERNEL, PADDINGS, check_spec
from graft.heads.designs import HEADS as HEADS
from graft.heads.designs import Conv as Conv
from graft.heads.designs import Design, Linear, Mlp, widths
from graft.heads.head import Head as Arrays
from graft.heads.nodes import SHARPNESS
from graft.torch.alone import seeded
from graft.torch.forest import Forest

Shape = int | tuple[int, ...]  # a width, or [channels, height, width] of a feature map

ACTIVATIONS: dict[str, type[nn.Module]] = {  # a test compares the names with those of graft.heads.designs
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}
CUT_OFF = 0.87962566103423978  # standard deviation of a normal distribution that is cut off at 2 of its own


def _truncated_normal(weight: Tensor, variance: float, generator: torch.Generator) -> None:
    """As Keras draws: normal, nothing beyond two standard deviations, and of this variance after the cut."""
    spread = math.sqrt(variance) / CUT_OFF
    nn.init.trunc_normal_(weight, std=spread, a=-2 * spread, b=2 * spread, generator=generator)


def _he_normal(weight: Tensor, generator: torch.Generator) -> None:
    _truncated_normal(weight, 2 / _fans(weight)[0], generator)


def _glorot_normal(weight: Tensor, generator: torch.Generator) -> None:
    _truncated_normal(weight, 2 / sum(_fans(weight)), generator)


def _fans(weight: Tensor) -> tuple[int, int]:
    """(inputs, outputs) of a unit: of a convolution each counts once for every place of the kernel."""
    places = weight[0, 0].numel()
    return weight.shape[1] * places, weight.shape[0] * places


# The first two are of He et al. 2015, for ReLU and its like; the next of Glorot and Bengio 2010, for tanh and sigmoid.
INITIALISERS = {
    "he_normal": _he_normal,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "glorot_normal": _glorot_normal,
    "glorot_uniform": nn.init.xavier_uniform_,
    "normal": partial(nn.init.normal_, std=0.01),
    "zero": lambda weight, generator: nn.init.zeros_(weight),
}
STREAM = 0x9E3779B97F4A7C15  # odd: layers of one seed and one shape must not begin with the same numbers


def fresh(design: Design, shape: Shape, classes: int) -> Head:
    """An untrained head of this design for features of this width, or maps of this shape. Draws no number of torch's.

    Each layer's weights depend on its own seed, initialiser and place alone; biases begin at zero.
    Raises UsageError for a conv head without a map, or with one that is too small.
    """
    width = shape if isinstance(shape, int) else math.prod(shape)
    with seeded(0):  # torch fills new layers with numbers of its own first
        head = Head(_spec(design, shape) | {"width": width, "classes": classes})
    weights = [tensor for tensor in head.judge.parameters() if tensor.ndim > 1]
    inits, seeds = _each(design.init, len(weights)), _each(str(design.seed), len(weights))
    for place, (weight, init, seed) in enumerate(zip(weights, inits, seeds, strict=True)):
        generator = torch.Generator().manual_seed((int(seed) + place * STREAM) % 2**64)
        INITIALISERS[init](weight, generator=generator)
    for bias in (tensor for tensor in head.judge.parameters() if tensor.ndim == 1):
        nn.init.zeros_(bias)
    return head


class NearestNeighbours(nn.Module):
    """Votes of the k most similar training pictures, weighted by exp(cosine / 0.07) (Caron et al. 2021, DINO).

    Keeps the training features [n, d] and their labels; the logit of a class is the logarithm of its share of votes.
    """

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
        weights = (nearest.values / SHARPNESS).softmax(dim=1)
        votes = weights.new_zeros((features.shape[0], self.classes))  # len() would be a constant in an exported graph
        return torch.log(votes.scatter_add(1, self.labels[nearest.indices], weights) + 1e-4)


class Head(nn.Module):
    """Standardise features [n, d], then judge them: logits [n, classes].

    A conv head takes maps [n, c, h, w] flattened to [n, c*h*w], and standardises each channel as one. With `pca` in the
    spec what is judged are the standardised features along so many axes [pca, d].
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        self.map = tuple(spec["shape"]) if spec["kind"] == "conv" else ()
        alike = (self.map[0], 1, 1) if self.map else (spec["width"],)
        self.register_buffer("mean", torch.zeros(alike))
        self.register_buffer("scale", torch.ones(alike))
        self.reduced = "pca" in spec
        if self.reduced:
            self.register_buffer("axes", torch.zeros(spec["pca"], spec["width"]))
        self.dropout = nn.Dropout((BEFORE | spec)["dropout"] if spec["kind"] == "linear" else 0.0)
        self.judge = _judge(BEFORE | spec)

    def forward(self, features: Tensor) -> Tensor:
        laid_out = features.unflatten(1, self.map) if self.map else features
        standardised = self.dropout((laid_out - self.mean) * self.scale)
        return self.judge(standardised @ self.axes.T if self.reduced else standardised)

    @torch.no_grad()
    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Take over the mean [d] and the scale [d], one over the spread, of the training features as they come."""
        if self.map:
            mean, variance = mean.view(self.map), scale.view(self.map) ** -2
            centre = mean.mean((1, 2), keepdim=True)
            scale = (variance + (mean - centre) ** 2).mean((1, 2), keepdim=True) ** -0.5
            mean = centre
        self.mean.copy_(mean)
        self.scale.copy_(scale)


def arrays(head: Head) -> Arrays:
    """The same head as arrays, a copy."""
    tensors = {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in head.state_dict().items()}
    return Arrays(head.spec, tensors)


def module(head: Arrays) -> Head:
    """The same head as a module that can be trained further, a copy; as it is, nothing in it changes."""
    made = Head(head.spec)
    made.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in head.tensors.items()})
    return made.eval().requires_grad_(False)


def _judge(spec: dict[str, Any]) -> nn.Module:
    """The spec's `kind` decides: linear, mlp (`hidden`), conv (`shape`, `filters`), knn (`stored`, `neighbours`) or
    forest (`trees`, `nodes`, `leaves`, `depth`, `several`).
    """
    width, classes = spec.get("pca", spec["width"]), spec["classes"]
    if spec["kind"] == "linear":
        return nn.Linear(width, classes)
    if spec["kind"] == "mlp":
        return _dense([width, *spec["hidden"], classes], spec)
    if spec["kind"] == "conv":
        return _convolved(spec)
    if spec["kind"] == "knn":
        return NearestNeighbours(spec["stored"], width, classes, spec["neighbours"])
    return Forest(spec["trees"], spec["nodes"], spec["leaves"], spec["depth"], classes, spec["several"])


def _dense(widths: Sequence[int], spec: dict[str, Any]) -> nn.Sequential:
    """Linear layers with the activation, and dropout where there is any, between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), _activated(spec, nn.Dropout(spec["dropout"]))]
    return nn.Sequential(*layers[:-1])


def _convolved(spec: dict[str, Any]) -> nn.Sequential:
    channels, height, width = spec["shape"]
    border = PADDINGS[spec["padding"]]
    height, width = height + 2 * border - KERNEL + 1, width + 2 * border - KERNEL + 1
    pool = min(2, height), min(2, width)  # a map of 1 x 1 has nothing to choose from
    flat = spec["filters"] * (height // pool[0]) * (width // pool[1])
    return nn.Sequential(
        nn.Conv2d(channels, spec["filters"], KERNEL, padding=border),
        _activated(spec, nn.Dropout2d(spec["spatial_dropout"])),
        nn.MaxPool2d(pool),
        nn.Flatten(),
        *_dense([flat, *spec["hidden"], spec["classes"]], spec),
    )


def _activated(spec: dict[str, Any], dropout: nn.Dropout | nn.Dropout2d) -> nn.Module:
    """In one place of the chain with or without dropout, so that no other layer changes its name."""
    activation = ACTIVATIONS[spec["activation"]]()
    return nn.Sequential(activation, dropout) if dropout.p else activation


def _spec(design: Design, shape: Shape) -> dict[str, Any]:
    """What has to be known to build the head again; how it was filled at the start is not part of it."""
    if isinstance(design, Linear):
        return {"kind": "linear"} | ({"dropout": design.dropout} if design.dropout else {})
    hidden = {"hidden": widths(design.hidden), "activation": design.activation, "dropout": design.dropout}
    if isinstance(design, Mlp):
        return {"kind": "mlp"} | hidden
    if isinstance(shape, int) or len(shape) != 3:
        raise UsageError(f"A conv head needs a feature map [channels, height, width]. Got features of shape {shape}.")
    if min(shape[1:]) + 2 * PADDINGS[design.padding] < KERNEL:
        raise UsageError(
            f"A {KERNEL} x {KERNEL} convolution with padding=valid needs a map of {KERNEL} x {KERNEL} or more. This "
            f"one is {shape[1]} x {shape[2]}: choose padding=same, or an earlier stage, whose map is larger, with "
            "--strategy early-features:at=0.5."
        )
    own = {"shape": list(shape), "filters": design.filters, "padding": design.padding}
    own |= {"spatial_dropout": design.spatial_dropout}
    return {"kind": "conv"} | own | hidden


def _each(text: str, count: int) -> list[str]:
    """The value of each layer: one serves all."""
    parts = text.split("+")
    return parts * count if len(parts) == 1 else parts
