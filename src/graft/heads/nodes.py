"""Heads as ONNX nodes: the specs with their checks, the tensors, and the nodes from features to logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.heads.designs import ACTIVATIONS, PADDINGS

KERNEL = 3
MAX_DEPTH = 1000  # hidden layers of a head, and steps from the root of a tree to a leaf
SPEC_DEFAULTS = {"activation": "relu", "dropout": 0.0, "padding": "same"}  # left out of specs by earlier versions
OPSET = 20  # as the graphs of backbones have it
VOTE_TEMPERATURE = 0.07  # of the votes of neighbours: exp(cosine / 0.07) (Caron et al. 2021, DINO)
# Half the width, in standard deviations of a feature, of the band in which both sides of a threshold count.
THRESHOLD_BAND = 1e-3
MIN_PROBABILITY = 1e-3  # least probability of a class that no leaf holds: a tenth of a tree's vote
LEAF_THRESHOLD = 1e30  # the threshold of a leaf: never near
MIN_NORM = 1e-12  # length below which a vector is not normalised

Shape = tuple[int, ...]
Node = Any  # an onnx.NodeProto; predicting does without onnx, so it is imported where nodes are made


# --- Specs and their checks -------------------------------------------------------------------------------------------


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raise ValueError for an invalid entry, before anything of the stated size is allocated."""
    if spec.get("kind") not in _ENTRIES:
        raise ValueError(f"there is no head of kind {spec.get('kind')!r}; there are linear, mlp, conv, knn and forest")
    wanted = {"width", "classes", *_ENTRIES[spec["kind"]]}
    filled = {**SPEC_DEFAULTS, **spec}
    for name, value in filled.items():
        if name in _LEGAL and not _LEGAL[name][0](value):
            raise ValueError(f"the head's {name!r} is {_LEGAL[name][1]}, and is {str(value)[:80]}")
    if missing := sorted(wanted - filled.keys()):
        raise ValueError(f"the head has no {missing[0]!r}")
    if spec["kind"] == "conv" and math.prod(spec["shape"]) != spec["width"]:
        features = math.prod(spec["shape"])
        raise ValueError(f"A map of {list(spec['shape'])} has {features} features, not {spec['width']}.")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _are_counts(value: Any, most: int) -> bool:
    return isinstance(value, list | tuple) and len(value) <= most and all(map(_is_count, value))


_COUNT: tuple[Callable[[Any], bool], str] = _is_count, "a whole number from 1 to 2^31 - 1"
_SHARE: tuple[Callable[[Any], bool], str] = _is_share, "a number from 0 to below 1"
_ENTRIES = {  # what each kind has beside width and classes
    "linear": (),
    "mlp": ("hidden", "activation", "dropout"),
    "conv": ("shape", "filters", "padding", "spatial_dropout", "hidden", "activation", "dropout"),
    "knn": ("stored", "neighbours"),
    "forest": ("trees", "nodes", "leaves", "depth", "several"),
}
_LEGAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("width", "classes", "pca", "stored", "neighbours", "trees", "nodes", "leaves", "filters"), _COUNT),
    "depth": (lambda value: type(value) is int and 0 <= value <= MAX_DEPTH, f"a whole number from 0 to {MAX_DEPTH}"),
    "shape": (lambda value: _are_counts(value, 3) and len(value) == 3, "three whole numbers"),
    "hidden": (lambda value: _are_counts(value, MAX_DEPTH), f"a list of at most {MAX_DEPTH} whole numbers from 1 on"),
    "dropout": _SHARE,
    "spatial_dropout": _SHARE,
    "activation": (lambda value: value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
    "padding": (lambda value: value in list(PADDINGS), f"one of {', '.join(PADDINGS)}"),
    "several": (lambda value: type(value) is bool, "true or false"),
}


def tensor_shapes(spec: Mapping[str, Any]) -> dict[str, tuple[type[np.generic], Shape]]:
    """Return the type and the shape of each tensor of a head, by its name."""
    width, alike = spec["width"], (spec["shape"][0], 1, 1) if spec["kind"] == "conv" else (spec["width"],)
    found: dict[str, tuple[type[np.generic], Shape]] = {"mean": (np.float32, alike), "scale": (np.float32, alike)}
    if "pca" in spec:
        found["axes"], width = (np.float32, (spec["pca"], width)), spec["pca"]
    return found | {f"judge.{name}": about for name, about in _body_shapes(dict(spec), width).items()}


def _body_shapes(spec: dict[str, Any], width: int) -> dict[str, tuple[type[np.generic], Shape]]:
    classes, whole = spec["classes"], np.int32
    if spec["kind"] == "knn":
        return {"features": (np.float32, (spec["stored"], width)), "labels": (np.int64, (spec["stored"],))}
    if spec["kind"] == "forest":
        trees, nodes, leaves = spec["trees"], spec["nodes"], spec["leaves"]
        places = {"roots": (whole, (trees,)), "features": (whole, (nodes,)), "sides": (whole, (nodes, 2))}
        return places | {"thresholds": (np.float32, (nodes,)), "leaves": (np.float32, (leaves, classes))}
    if spec["kind"] == "linear":
        return {"weight": (np.float32, (classes, width)), "bias": (np.float32, (classes,))}
    found: dict[str, tuple[type[np.generic], Shape]] = {}
    if spec["kind"] == "conv":
        found["0.weight"] = np.float32, (spec["filters"], spec["shape"][0], KERNEL, KERNEL)
        found["0.bias"] = np.float32, (spec["filters"],)
    for place, (before, after) in dense_layers(spec, width).items():
        found |= {f"{place}.weight": (np.float32, (after, before)), f"{place}.bias": (np.float32, (after,))}
    return found


def dense_layers(spec: Mapping[str, Any], width: int) -> dict[int, tuple[int, int]]:
    """Return the (inputs, outputs) of each linear layer of an mlp or conv head, by its index in the chain."""
    first = 0
    if spec["kind"] == "conv":
        width = spec["filters"] * math.prod(pooling_shapes(spec)[1])
        first = 4  # after convolution, activation, pool, flatten
    widths = [width, *spec["hidden"], spec["classes"]]
    return {first + 2 * place: pair for place, pair in enumerate(pairwise(widths))}


def pooling_shapes(spec: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the pooling window of a conv head, and the (height, width) of the map after it."""
    _, height, width = spec["shape"]
    border = PADDINGS[(SPEC_DEFAULTS | dict(spec))["padding"]]
    height, width = height + 2 * border - KERNEL + 1, width + 2 * border - KERNEL + 1
    window = min(2, height), min(2, width)  # a map of 1 x 1 cannot be pooled 2 x 2
    return window, (height // window[0], width // window[1])


def check_tensors(spec: Mapping[str, Any], tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise ValueError for a tensor that is missing, unknown, or of another shape or type than the spec says."""
    wanted = tensor_shapes(spec)
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(f"the head {'lacks' if odd[0] in wanted else 'has an unknown'} tensor {odd[0]!r}")
    for name, (kind, shape) in wanted.items():
        found = tensors[name]
        if found.shape != shape or found.dtype != kind:
            about = f"{np.dtype(kind).name} {list(shape)}"
            raise ValueError(f"the head's {name!r} must be {about}, and is {found.dtype.name} {list(found.shape)}")


def check_indices(spec: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raise ValueError where stored indices are out of range, or a path down a tree does not end at a leaf."""
    if spec["kind"] == "knn":
        check_range("head.judge.labels", tensors["judge.labels"], spec["classes"])
    if spec["kind"] != "forest":
        return
    limits = {"roots": spec["nodes"], "features": spec.get("pca", spec["width"]), "sides": spec["nodes"]}
    for name, limit in limits.items():
        check_range(f"head.judge.{name}", tensors[f"judge.{name}"], limit)
    reached, sides = np.unique(tensors["judge.roots"]), tensors["judge.sides"]
    for _ in range(spec["depth"]):
        below = np.unique(sides[reached])
        if np.array_equal(below, reached):
            break
        reached = below
    check_range("the ways down from head.judge.roots", reached, spec["leaves"])


def check_range(name: str, places: NDArray[np.generic], count: int) -> None:
    """Raise ValueError where an index is not from 0 to `count` - 1."""
    if places.size and not 0 <= int(places.min()) <= int(places.max()) < count:
        raise ValueError(f"{name} has places from {int(places.min())} to {int(places.max())}, and there are {count:,}")


# --- ONNX nodes -------------------------------------------------------------------------------------------------------


class NodeBuilder:
    """A list of nodes, each with one output, whose name begins with the prefix."""

    def __init__(self, prefix: str) -> None:
        from onnx import helper, numpy_helper

        self.prefix, self.nodes = prefix, list[Node]()
        self._node, self._tensor = helper.make_node, numpy_helper.from_array

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator on these inputs; return the name of its output."""
        name = f"{self.prefix}{kind}_{len(self.nodes)}"
        self.nodes.append(self._node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """Add a small constant; return its name."""
        return self("Constant", value=self._tensor(np.asarray(value, dtype)))

    def name_output(self, value: str, output: str) -> None:
        """Give a value the name of an output."""
        self.nodes.append(self._node("Identity", [value], [output], name=f"{self.prefix}{output}"))

    def normalise_rows(self, rows: str) -> str:
        """Add the nodes that bring rows [n, d] to length 1; return their name."""
        lengths = self("ReduceL2", rows, self.constant([1], np.int64), keepdims=1)
        return self("Div", rows, self("Max", lengths, self.constant(MIN_NORM)))


def build_nodes(spec: Mapping[str, Any], features: str, logits: str, prefix: str = "head.") -> list[Node]:
    """Return the nodes from the features [n, d] to the logits [n, classes], for any number n.

    They read the head's tensors by their names after the prefix: head.mean, head.judge.weight.
    """
    build, full = NodeBuilder(prefix), SPEC_DEFAULTS | dict(spec)
    if full["kind"] == "conv":
        features = build("Reshape", features, build.constant([0, *full["shape"]], np.int64))
    centred = build("Sub", features, f"{prefix}mean")
    standardised = build("Mul", centred, f"{prefix}scale")
    if "pca" in full:
        standardised = build("Gemm", standardised, f"{prefix}axes", transB=1)
    build.name_output(_KINDS[full["kind"]](build, full, standardised, f"{prefix}judge."), logits)
    return build.nodes


def _linear(build: NodeBuilder, _spec: dict[str, Any], features: str, own: str) -> str:
    return build("Gemm", features, f"{own}weight", f"{own}bias", transB=1)


def _mlp(build: NodeBuilder, spec: dict[str, Any], features: str, own: str) -> str:
    layers = dense_layers(spec, spec.get("pca", spec["width"]))
    for place in layers:
        features = _linear(build, spec, features, f"{own}{place}.")
        if place != max(layers):
            features = _activation(build, spec["activation"], features)
    return features


def _conv(build: NodeBuilder, spec: dict[str, Any], maps: str, own: str) -> str:
    border = PADDINGS[spec["padding"]]
    maps = build("Conv", maps, f"{own}0.weight", f"{own}0.bias", pads=[border] * 4)
    maps = _activation(build, spec["activation"], maps)
    window = {"kernel_shape": pooling_shapes(spec)[0], "strides": pooling_shapes(spec)[0]}
    largest = build("MaxPool", maps, **window)
    # ONNX Runtime's MaxPool drops nan among numbers: the output of a broken network would look valid.
    broken = build("MaxPool", build("Cast", build("IsNaN", maps), to=1), **window)
    largest = build("Where", build("Cast", broken, to=9), build.constant(np.nan), largest)
    return _mlp(build, spec, build("Flatten", largest), own)


def _activation(build: NodeBuilder, name: str, values: str) -> str:
    if name == "leaky-relu":
        return build("LeakyRelu", values, alpha=0.01)
    if name == "gelu":  # of operators that every runtime has
        half = build("Mul", values, build.constant(0.5))
        return build("Mul", half, build("Add", _erf(build, values), build.constant(1)))
    return build({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[name], values)


def _erf(build: NodeBuilder, values: str) -> str:
    return build("Erf", build("Div", values, build.constant(2**0.5)))


def _knn(build: NodeBuilder, spec: dict[str, Any], features: str, own: str) -> str:
    """Add a kNN head: the logarithm of each class's share of the votes of the most similar stored images."""
    cosines = build("Gemm", build.normalise_rows(features), f"{own}features", transB=1)
    best, which = add_topk(build, cosines, min(spec["neighbours"], spec["stored"]))
    votes = build("Softmax", build("Div", best, build.constant(VOTE_TEMPERATURE)), axis=1)
    classes = build("Gather", f"{own}labels", which)
    shape = build("Concat", _row_count(build, features), build.constant([spec["classes"]], np.int64), axis=0)
    zeros = build("Expand", build.constant([[0]]), shape)
    shares = build("ScatterElements", zeros, classes, votes, axis=1, reduction="add")
    return build("Log", build("Add", shares, build.constant(1e-4)))


def add_topk(build: NodeBuilder, values: str, few: int) -> tuple[str, str]:
    """Add TopK; return the names of the largest values of each row, largest first, and of their indices."""
    best = build("TopK", values, build.constant([few], np.int64), axis=1)
    which = f"{best}/places"
    build.nodes[-1].output.append(which)
    return best, which


def _row_count(build: NodeBuilder, rows: str) -> str:
    return build("Shape", rows, start=0, end=1)


def _forest(build: NodeBuilder, spec: dict[str, Any], features: str, own: str) -> str:
    """Add a forest: two paths down each tree, the second on the other side of the threshold nearest to its feature.

    Within THRESHOLD_BAND of that threshold the output is a weighted mean of both leaves, half and half on it: two
    runtimes differ in the last bits of a feature, and would otherwise now and then take different sides.
    """
    leaf, margin, near = _descend(build, spec, features, own, None)
    beyond, _, _ = _descend(build, spec, features, own, near)
    share = build("Add", build("Div", margin, build.constant(2 * THRESHOLD_BAND)), build.constant(0.5))
    share = build("Unsqueeze", build("Min", share, build.constant(1)), build.constant([2], np.int64))
    rest = build("Sub", build.constant(1), share)
    leaves = f"{own}leaves"
    own_part = build("Mul", share, build("Gather", leaves, leaf))
    other_part = build("Mul", rest, build("Gather", leaves, beyond))
    probs = build("ReduceMean", build("Add", own_part, other_part), build.constant([1], np.int64), keepdims=0)
    log_probs = build("Log", build("Add", probs, build.constant(MIN_PROBABILITY)))
    if not spec["several"]:
        return log_probs
    complement = build("Add", build("Sub", build.constant(1), probs), build.constant(MIN_PROBABILITY))
    return build("Sub", log_probs, build("Log", complement))


def _descend(
    build: NodeBuilder, spec: dict[str, Any], features: str, own: str, turned: str | None
) -> tuple[str, str, str]:
    """Return, by image and tree [n, trees], the leaf, the least distance from a threshold on the path, and its node."""
    trees = build("Concat", _row_count(build, features), build.constant([spec["trees"]], np.int64), axis=0)
    node = near = build("Expand", f"{own}roots", trees)
    margin = build("Expand", build.constant([[LEAF_THRESHOLD]]), trees)
    sides = build("Reshape", f"{own}sides", build.constant([-1], np.int64))  # left, right
    for _ in range(spec["depth"]):
        value = build("GatherElements", features, build("Gather", f"{own}features", node), axis=1)
        beyond = build("Sub", value, build("Gather", f"{own}thresholds", node))
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
