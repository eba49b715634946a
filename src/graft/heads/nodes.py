"""Heads as ONNX nodes: the one definition by which features are judged, alone or behind a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graft.heads.checks import BEFORE, dense, pooled
from graft.heads.designs import PADDINGS

Node = Any  # an onnx.NodeProto; predicting does without onnx, so it is imported where nodes are made
OPSET = 20  # as the graphs of backbones have it
SHARPNESS = 0.07  # of the votes of neighbours: exp(cosine / 0.07) (Caron et al. 2021, DINO)
BAND = 1e-3  # half the width, in standard deviations of a feature, in which both sides of a threshold are heard
LEAST = 1e-3  # probability that a class of which no leaf knows still has: a tenth of a tree's vote
FAR = 1e30  # the threshold of a leaf: never near
SHORTEST = 1e-12  # length below which a vector is not stretched to 1


class Builder:
    """Nodes, one after the other; each gives one value, whose name is made from the prefix."""

    def __init__(self, prefix: str) -> None:
        from onnx import helper, numpy_helper

        self.prefix, self.nodes = prefix, list[Node]()
        self._node, self._tensor = helper.make_node, numpy_helper.from_array

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of what an operator gives for these values."""
        name = f"{self.prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(self._node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """The name of a small constant."""
        return self("Constant", value=self._tensor(np.asarray(value, dtype)))

    def named(self, value: str, output: str) -> None:
        """Let this value have this name."""
        self.nodes.append(self._node("Identity", [value], [output], name=f"{self.prefix}{output}"))

    def unit(self, rows: str) -> str:
        """Rows [n, d] at length 1."""
        lengths = self("ReduceL2", rows, self.constant([1], np.int64), keepdims=1)
        return self("Div", rows, self("Max", lengths, self.constant(SHORTEST)))


def nodes(spec: Mapping[str, Any], features: str, logits: str, prefix: str = "head.") -> list[Node]:
    """The nodes from the features [n, d] to the logits [n, classes], for any number n.

    They name the head's tensors with the prefix before their own names: head.mean, head.judge.weight.
    """
    build, full = Builder(prefix), BEFORE | dict(spec)
    if full["kind"] == "conv":
        features = build("Reshape", features, build.constant([0, *full["shape"]], np.int64))
    centred = build("Sub", features, f"{prefix}mean")
    standardised = build("Mul", centred, f"{prefix}scale")
    if "pca" in full:
        standardised = build("Gemm", standardised, f"{prefix}axes", transB=1)
    build.named(_KINDS[full["kind"]](build, full, standardised, f"{prefix}judge."), logits)
    return build.nodes


def _linear(build: Builder, _spec: dict[str, Any], features: str, own: str) -> str:
    return build("Gemm", features, f"{own}weight", f"{own}bias", transB=1)


def _mlp(build: Builder, spec: dict[str, Any], features: str, own: str) -> str:
    layers = dense(spec, spec.get("pca", spec["width"]))
    for place in layers:
        features = _linear(build, spec, features, f"{own}{place}.")
        if place != max(layers):
            features = _activated(build, spec["activation"], features)
    return features


def _conv(build: Builder, spec: dict[str, Any], maps: str, own: str) -> str:
    border = PADDINGS[spec["padding"]]
    maps = build("Conv", maps, f"{own}0.weight", f"{own}0.bias", pads=[border] * 4)
    maps = _activated(build, spec["activation"], maps)
    window = {"kernel_shape": pooled(spec)[0], "strides": pooled(spec)[0]}
    largest = build("MaxPool", maps, **window)
    # ONNX Runtime's largest of numbers and nan is a number: a broken network would be heard as a sound one.
    broken = build("MaxPool", build("Cast", build("IsNaN", maps), to=1), **window)
    largest = build("Where", build("Cast", broken, to=9), build.constant(np.nan), largest)
    return _mlp(build, spec, build("Flatten", largest), own)


def _activated(build: Builder, name: str, values: str) -> str:
    if name == "leaky-relu":
        return build("LeakyRelu", values, alpha=0.01)
    if name == "gelu":  # of operators that every runtime has
        half = build("Mul", values, build.constant(0.5))
        return build("Mul", half, build("Add", _erf(build, values), build.constant(1)))
    return build({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[name], values)


def _erf(build: Builder, values: str) -> str:
    return build("Erf", build("Div", values, build.constant(2**0.5)))


def _knn(build: Builder, spec: dict[str, Any], features: str, own: str) -> str:
    """The logarithm of each class's share of the votes of the most similar stored images."""
    cosines = build("Gemm", build.unit(features), f"{own}features", transB=1)
    best, which = topk(build, cosines, min(spec["neighbours"], spec["stored"]))
    votes = build("Softmax", build("Div", best, build.constant(SHARPNESS)), axis=1)
    classes = build("Gather", f"{own}labels", which)
    several = build("Concat", _count(build, features), build.constant([spec["classes"]], np.int64), axis=0)
    nothing = build("Expand", build.constant([[0]]), several)
    shares = build("ScatterElements", nothing, classes, votes, axis=1, reduction="add")
    return build("Log", build("Add", shares, build.constant(1e-4)))


def topk(build: Builder, values: str, few: int) -> tuple[str, str]:
    """The largest of each row, largest first, and their places."""
    best = build("TopK", values, build.constant([few], np.int64), axis=1)
    which = f"{best}/places"
    build.nodes[-1].output.append(which)
    return best, which


def _count(build: Builder, rows: str) -> str:
    return build("Shape", rows, start=0, end=1)


def _forest(build: Builder, spec: dict[str, Any], features: str, own: str) -> str:
    """Two ways down each tree: its own, and the one that turns at the threshold that is nearest to its feature.

    Where that is within BAND the tree answers with a weighted mean of both leaves, half and half on the threshold: two
    runtimes differ in the last bits of a feature, and would otherwise now and then take different sides.
    """
    leaf, margin, near = _descend(build, spec, features, own, None)
    beyond, _, _ = _descend(build, spec, features, own, near)
    share = build("Add", build("Div", margin, build.constant(2 * BAND)), build.constant(0.5))
    share = build("Unsqueeze", build("Min", share, build.constant(1)), build.constant([2], np.int64))
    rest = build("Sub", build.constant(1), share)
    leaves = f"{own}leaves"
    here = build("Mul", share, build("Gather", leaves, leaf))
    there = build("Mul", rest, build("Gather", leaves, beyond))
    said = build("ReduceMean", build("Add", here, there), build.constant([1], np.int64), keepdims=0)
    for_it = build("Log", build("Add", said, build.constant(LEAST)))
    if not spec["several"]:
        return for_it
    against = build("Add", build("Sub", build.constant(1), said), build.constant(LEAST))
    return build("Sub", for_it, build("Log", against))


def _descend(build: Builder, spec: dict[str, Any], features: str, own: str, turned: str | None) -> tuple[str, str, str]:
    """Of each image and tree [n, trees] the leaf, the least distance from a threshold on the way, and its node."""
    trees = build("Concat", _count(build, features), build.constant([spec["trees"]], np.int64), axis=0)
    node = near = build("Expand", f"{own}roots", trees)
    margin = build("Expand", build.constant([[FAR]]), trees)
    sides = build("Reshape", f"{own}sides", build.constant([-1], np.int64))  # left, right
    for _ in range(spec["depth"]):
        asked = build("GatherElements", features, build("Gather", f"{own}features", node), axis=1)
        beyond = build("Sub", asked, build("Gather", f"{own}thresholds", node))
        right = build("Greater", beyond, build.constant(0))
        if turned is not None:
            right = build("Xor", right, build("Equal", node, turned))
        far = build("Abs", beyond)
        closer = build("Less", far, margin)
        margin, near = build("Where", closer, far, margin), build("Where", closer, node, near)
        place = build("Add", build("Mul", node, build.constant(2, np.int32)), build("Cast", right, to=6))
        node = build("Gather", sides, place)
    return node, margin, near


_KINDS = {"linear": _linear, "mlp": _mlp, "conv": _conv, "knn": _knn, "forest": _forest}
