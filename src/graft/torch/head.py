"""Heads as modules: features to logits, each built from a small dictionary that is saved with it."""

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
from graft.heads.designs import PADDINGS, HeadOptions, Linear, Mlp, parse_widths
from graft.heads.head import Head as Arrays
from graft.heads.nodes import (
    KERNEL,
    LEAF_THRESHOLD,
    MIN_PROBABILITY,
    SPEC_DEFAULTS,
    THRESHOLD_BAND,
    VOTE_TEMPERATURE,
    check_spec,
)
from graft.torch.alone import temporary_seed


class Forest(nn.Module):
    """The mean of the trees' leaves, features [n, d] to logits [n, classes].

    One label per image: the logarithm of each class's probability. `multilabel`: the log-odds of each.
    Nodes of all trees stand in one row, the leaves first; a leaf's children are itself. Left is where a feature is at
    most the threshold, as in scikit-learn. But where the feature nearest to its threshold on a tree's way is within
    THRESHOLD_BAND, the tree returns a weighted mean of both sides, half and half on the threshold: two runtimes differ
    in the last bits of a feature, and would otherwise now and then take different sides.
    """

    roots: Tensor
    features: Tensor
    thresholds: Tensor
    sides: Tensor
    leaves: Tensor

    def __init__(self, trees: int, nodes: int, leaves: int, depth: int, classes: int, multilabel: bool) -> None:
        super().__init__()
        self.depth, self.multilabel = depth, multilabel
        self.register_buffer("roots", torch.zeros(trees, dtype=torch.int32))
        self.register_buffer("features", torch.zeros(nodes, dtype=torch.int32))
        self.register_buffer("thresholds", torch.full((nodes,), LEAF_THRESHOLD))
        self.register_buffer("sides", torch.zeros(nodes, 2, dtype=torch.int32))  # left, right
        self.register_buffer("leaves", torch.zeros(leaves, classes))  # probabilities

    def forward(self, features: Tensor) -> Tensor:
        leaf, margin, near = self.descend(features, None)
        beyond = self.descend(features, near)[0]
        share = (0.5 + margin / (2 * THRESHOLD_BAND)).clamp(max=1.0)[..., None]
        probs = (share * self.leaves[leaf] + (1 - share) * self.leaves[beyond]).mean(dim=1)
        if self.multilabel:
            return torch.log(probs + MIN_PROBABILITY) - torch.log(1 - probs + MIN_PROBABILITY)
        return torch.log(probs + MIN_PROBABILITY)

    def descend(self, features: Tensor, flipped_node: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of each image and tree [n, trees] the leaf, the least distance from a threshold on the way, and its node.

        At `flipped_node` the other side is taken.
        """
        roots, split_features, sides = self.roots.long(), self.features.long(), self.sides.long().flatten()
        node = roots + features.new_zeros((features.shape[0], 1), dtype=torch.long)
        margin, near = torch.full_like(node, LEAF_THRESHOLD, dtype=features.dtype), node
        for _ in range(self.depth):
            beyond = features.gather(1, split_features[node]) - self.thresholds[node]
            right = beyond > 0
            if flipped_node is not None:
                right = right ^ (node == flipped_node)
            closer = beyond.abs() < margin
            margin, near = torch.where(closer, beyond.abs(), margin), torch.where(closer, node, near)
            node = sides[2 * node + right.long()]
        return node, margin, near


Shape = int | tuple[int, ...]  # a width, or [channels, height, width] of a feature map

ACTIVATIONS: dict[str, type[nn.Module]] = {  # a test compares the names with those of graft.heads.designs
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}
TRUNCATED_STD = 0.87962566103423978  # standard deviation of a normal distribution that is cut off at 2 of its own


def _truncated_normal(weight: Tensor, variance: float, generator: torch.Generator) -> None:
    """As Keras draws: normal, nothing beyond two standard deviations, and of this variance after the cut."""
    spread = math.sqrt(variance) / TRUNCATED_STD
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
SEED_STRIDE = 0x9E3779B97F4A7C15  # odd: layers of one seed and one shape must not begin with the same numbers


def build_head(design: HeadOptions, shape: Shape, classes: int) -> HeadModule:
    """An untrained head of this design for features of this width, or maps of this shape. Draws no number of torch's.

    Each layer's weights depend on its own seed, initialiser and place alone; biases begin at zero.
    Raises UsageError for a conv head without a map, or with one that is too small.
    """
    width = shape if isinstance(shape, int) else math.prod(shape)
    with temporary_seed(0):  # torch fills new layers with numbers of its own first
        head = HeadModule(_build_spec(design, shape) | {"width": width, "classes": classes})
    weights = [tensor for tensor in head.judge.parameters() if tensor.ndim > 1]
    inits, seeds = _value_per_layer(design.init, len(weights)), _value_per_layer(str(design.seed), len(weights))
    for place, (weight, init, seed) in enumerate(zip(weights, inits, seeds, strict=True)):
        generator = torch.Generator().manual_seed((int(seed) + place * SEED_STRIDE) % 2**64)
        INITIALISERS[init](weight, generator=generator)
    for bias in (tensor for tensor in head.judge.parameters() if tensor.ndim == 1):
        nn.init.zeros_(bias)
    return head


# --- modules ----------------------------------------------------------------------------------------------------------


class NearestNeighbours(nn.Module):
    """Votes of the k most similar training images, weighted by exp(cosine / 0.07) (Caron et al. 2021, DINO).

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
        weights = (nearest.values / VOTE_TEMPERATURE).softmax(dim=1)
        votes = weights.new_zeros((features.shape[0], self.classes))  # len() would be a constant in an exported graph
        return torch.log(votes.scatter_add(1, self.labels[nearest.indices], weights) + 1e-4)


class HeadModule(nn.Module):
    """Standardise features [n, d], then classify them: logits [n, classes].

    A conv head takes maps [n, c, h, w] flattened to [n, c*h*w], and standardises each channel as one. With `pca` in the
    spec the classifier reads the standardised features along so many axes [pca, d].
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__()
        check_spec(spec)
        self.spec = spec
        self.map_shape = tuple(spec["shape"]) if spec["kind"] == "conv" else ()
        alike = (self.map_shape[0], 1, 1) if self.map_shape else (spec["width"],)
        self.register_buffer("mean", torch.zeros(alike))
        self.register_buffer("scale", torch.ones(alike))
        self.has_pca = "pca" in spec
        if self.has_pca:
            self.register_buffer("axes", torch.zeros(spec["pca"], spec["width"]))
        self.dropout = nn.Dropout((SPEC_DEFAULTS | spec)["dropout"] if spec["kind"] == "linear" else 0.0)
        self.judge = _build_classifier(SPEC_DEFAULTS | spec)

    def forward(self, features: Tensor) -> Tensor:
        laid_out = features.unflatten(1, self.map_shape) if self.map_shape else features
        standardised = self.dropout((laid_out - self.mean) * self.scale)
        return self.judge(standardised @ self.axes.T if self.has_pca else standardised)

    @torch.no_grad()
    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Take over the mean [d] and the scale [d], one over the spread, of the training features as they come."""
        if self.map_shape:
            mean, variance = mean.view(self.map_shape), scale.view(self.map_shape) ** -2
            centre = mean.mean((1, 2), keepdim=True)
            scale = (variance + (mean - centre) ** 2).mean((1, 2), keepdim=True) ** -0.5
            mean = centre
        self.mean.copy_(mean)
        self.scale.copy_(scale)


def head_to_arrays(head: HeadModule) -> Arrays:
    """The same head as arrays, a copy."""
    tensors = {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in head.state_dict().items()}
    return Arrays(head.spec, tensors)


def head_to_module(head: Arrays) -> HeadModule:
    """The same head as a module that can be trained further, a copy; as it is, nothing in it changes."""
    made = HeadModule(head.spec)
    made.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in head.tensors.items()})
    return made.eval().requires_grad_(False)


def _build_classifier(spec: dict[str, Any]) -> nn.Module:
    """The spec's `kind` decides: linear, mlp (`hidden`), conv (`shape`, `filters`), knn (`stored`, `neighbours`) or
    forest (`trees`, `nodes`, `leaves`, `depth`, `several`).
    """
    width, classes = spec.get("pca", spec["width"]), spec["classes"]
    if spec["kind"] == "linear":
        return nn.Linear(width, classes)
    if spec["kind"] == "mlp":
        return _build_dense([width, *spec["hidden"], classes], spec)
    if spec["kind"] == "conv":
        return _build_convolution(spec)
    if spec["kind"] == "knn":
        return NearestNeighbours(spec["stored"], width, classes, spec["neighbours"])
    return Forest(spec["trees"], spec["nodes"], spec["leaves"], spec["depth"], classes, spec["several"])


def _build_dense(widths: Sequence[int], spec: dict[str, Any]) -> nn.Sequential:
    """Linear layers with the activation, and dropout where there is any, between."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), _build_activation(spec, nn.Dropout(spec["dropout"]))]
    return nn.Sequential(*layers[:-1])


def _build_convolution(spec: dict[str, Any]) -> nn.Sequential:
    channels, height, width = spec["shape"]
    border = PADDINGS[spec["padding"]]
    height, width = height + 2 * border - KERNEL + 1, width + 2 * border - KERNEL + 1
    pool = min(2, height), min(2, width)  # a map of 1 x 1 has nothing to choose from
    flat = spec["filters"] * (height // pool[0]) * (width // pool[1])
    return nn.Sequential(
        nn.Conv2d(channels, spec["filters"], KERNEL, padding=border),
        _build_activation(spec, nn.Dropout2d(spec["spatial_dropout"])),
        nn.MaxPool2d(pool),
        nn.Flatten(),
        *_build_dense([flat, *spec["hidden"], spec["classes"]], spec),
    )


def _build_activation(spec: dict[str, Any], dropout: nn.Dropout | nn.Dropout2d) -> nn.Module:
    """In one place of the chain with or without dropout, so that no other layer changes its name."""
    activation = ACTIVATIONS[spec["activation"]]()
    return nn.Sequential(activation, dropout) if dropout.p else activation


def _build_spec(design: HeadOptions, shape: Shape) -> dict[str, Any]:
    """What has to be known to build the head again; how it was filled at the start is not part of it."""
    if isinstance(design, Linear):
        return {"kind": "linear"} | ({"dropout": design.dropout} if design.dropout else {})
    hidden = {"hidden": parse_widths(design.hidden), "activation": design.activation, "dropout": design.dropout}
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


def _value_per_layer(text: str, count: int) -> list[str]:
    """The value of each layer: one serves all."""
    parts = text.split("+")
    return parts * count if len(parts) == 1 else parts
