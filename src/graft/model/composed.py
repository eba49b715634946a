"""All that a classifier says of an image as one graph: a backbone, what is read of it, the head and the decision.

The saved folder holds this graph, and every exported file is made of it: there is one definition of the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import graph as graphs
from graft.backbones.features import Features
from graft.backbones.graph import Graph
from graft.errors import ModelError
from graft.heads.head import Head
from graft.heads.nodes import Builder, nodes, topk
from graft.model.network import Network
from graft.model.unknown import NEIGHBOURS, Known, compared_by
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.contract import HEAT, LOGITS, MAP, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN

FEATURES = "features"  # what the head reads, [n, d]
REFERENCE = "reference"  # what images are compared by, [n, w]
BACKBONE, HEAD, KNOWN = "features.backbone.", "head.", "known.features"  # names of tensors begin so, as PyTorch's do
FAR = 2**31 - 1  # an end beyond any


def composed(network: Network, card: Card, known: Known | None) -> Graph:
    """The graph with the outputs of `graft_runtime.contract`, FEATURES and REFERENCE, for any number of images.

    PROBABILITIES by the card's temperature, scales and shifts; the score of UNKNOWN, 0 where nothing is known; LOGITS;
    the last MAP, where there is one; where a linear head reads nothing of the last layer but its average, as HEAT how
    much each place speaks for each class; and which known images are NEAREST, where there are any. Behind these come
    the maps of all that is read, for heat maps, where the head is linear and each of them is averaged.

    Raises ModelError for a backbone without the outputs that are read.
    """
    features, head = network.features, network.head
    compared, shapes = features.compared(compared_by(card.unknown)), features.graph.shapes
    if missing := [name for name in (*features.outputs, *compared.outputs) if name not in shapes]:
        raise ModelError(f"The graph has no output {missing[0]!r}; it has {', '.join(shapes)}.")
    place = _place(features)
    build = Builder("answer/")
    _read(build, features, compared)
    build.nodes += nodes(head.spec, FEATURES, LOGITS, HEAD)
    outputs = {PROBABILITIES: ["n", len(card.classes)], UNKNOWN: ["n"], LOGITS: ["n", len(card.classes)]}
    _calibrated(build, card)
    near = _unknown(build, card, known)
    if place:
        build.named(place, MAP)
        outputs[MAP] = ["n", *shapes[place]]
    if place and _averaged(features, head):
        _heat(build, card, features.widths[-1])
        outputs[HEAT] = ["n", len(card.classes), *shapes[place][1:]]
    outputs |= near
    outputs |= {FEATURES: ["n", head.spec["width"]], REFERENCE: ["n", "w"]}
    tensors = {HEAD + name: tensor for name, tensor in head.tensors.items()}
    if near:
        assert known is not None
        tensors[KNOWN] = known.features
    whole = graphs.joined(_prefixed(features.graph), build.nodes, tensors, _values(outputs, bool(near)))
    return graphs.only(whole, list(outputs))


def averaged_maps(features: Features, head: Head) -> tuple[str, ...]:
    """The outputs that hold the map of each part that the head reads, where a linear head reads nothing but averages.

    Then how much each place speaks for a class is exact; empty where it is not, or where a part has no map.
    """
    real = all(_is_map(features.graph.shapes.get(name, ())) for name in features.maps)
    return features.maps if real and _averaged(features, head) else ()


def _averaged(features: Features, head: Head) -> bool:
    """Whether a linear head reads nothing of the last part but its average."""
    linear = head.spec["kind"] == "linear" and "pca" not in head.spec and features.pool
    return linear and (features.graph.averaged or not features.top)


def _place(features: Features) -> str:
    """The output that is the last map; none where the last part has no places."""
    last = features.maps[-1]
    return last if _is_map(features.graph.shapes.get(last, ())) else ""


def _is_map(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and tuple(shape[1:]) != (1, 1)


def _prefixed(backbone: Graph) -> Graph:
    """The backbone with its tensors by the names that they have in the network of a classifier, and nodes like them.

    By these names an export in 8 bits knows the backbone's layers, whatever the nodes of a user's graph were called.
    """
    import onnx

    model = onnx.ModelProto.FromString(backbone.structure)
    names = set(backbone.tensors)
    for each in model.graph.initializer:
        if each.name in names:
            each.name = BACKBONE + each.name
    for place, node in enumerate(model.graph.node):
        node.name = f"{BACKBONE}{place}"
        node.input[:] = [BACKBONE + name if name in names else name for name in node.input]
    tensors = {BACKBONE + name: tensor for name, tensor in backbone.tensors.items()}
    return replace(backbone, structure=model.SerializeToString(deterministic=True), tensors=tensors)


def _read(build: Builder, features: Features, compared: Features) -> None:
    """FEATURES, and REFERENCE: each layer at length 1."""
    flat = [part if features.pool else build("Flatten", part) for part in features.outputs]
    build.named(build("Concat", *flat, axis=1), FEATURES)
    build.named(build("Concat", *(build.unit(part) for part in compared.outputs), axis=1), REFERENCE)


def _calibrated(build: Builder, card: Card) -> None:
    """PROBABILITIES, as graft_runtime.decide.probabilities."""
    factors = np.asarray(card.scales or [1.0], np.float64) / card.temperature
    scaled = build("Add", build("Mul", LOGITS, build.constant(factors)), build.constant(card.shifts or [0.0]))
    several = card.task == MULTILABEL
    build.named(build("Sigmoid", scaled) if several else build("Softmax", scaled, axis=1), PROBABILITIES)


def _unknown(build: Builder, card: Card, known: Known | None) -> dict[str, list[int | str]]:
    """UNKNOWN, as graft.model.unknown; and NEAREST and SIMILARITY, largest first, where images are stored."""
    one = build.constant([1], np.int64)
    if known is None:
        first = build("Gather", LOGITS, build.constant(0, np.int64), axis=1)
        build.named(build("Mul", first, build.constant(0)), UNKNOWN)  # nan stays nan
        return {}
    if not len(known.features):
        several = card.task == MULTILABEL
        free = build("ReduceSum", build("Softplus", LOGITS), one, keepdims=0) if several else ""
        build.named(build("Neg", free or build("ReduceLogSumExp", LOGITS, one, keepdims=0)), UNKNOWN)
        return {}
    few = min(NEIGHBOURS, len(known.features))
    cosines = build("Gemm", build.unit(REFERENCE), build("Cast", KNOWN, to=1), transB=1)
    best, which = topk(build, cosines, few)
    build.named(best, SIMILARITY)
    build.named(which, NEAREST)
    build.named(build("Sub", build.constant(1), build("ReduceMean", best, one, keepdims=0)), UNKNOWN)
    return {NEAREST: ["n", few], SIMILARITY: ["n", few]}


def _heat(build: Builder, card: Card, width: int) -> None:
    """HEAT: the places of MAP add up to what the last layer says for a class's logit, but for a constant.

    Above the mean of all logits where an image has one label, as only differences count in a softmax.
    """
    weight = build("Mul", f"{HEAD}judge.weight", f"{HEAD}scale")
    own = build("Slice", weight, *(build.constant([value], np.int64) for value in (-width, FAR, 1)))
    if card.task != MULTILABEL:
        own = build("Sub", own, build("ReduceMean", own, build.constant([0], np.int64)))
    said = build("Conv", MAP, build("Unsqueeze", own, build.constant([2, 3], np.int64)), kernel_shape=[1, 1])
    places = build("Cast", build("ReduceProd", build("Shape", MAP, start=2), keepdims=0), to=1)
    build.named(build("Div", said, places), HEAT)


def _values(outputs: Mapping[str, Sequence[int | str]], near: bool) -> list[Any]:
    from onnx import TensorProto, helper

    kinds = {NEAREST: TensorProto.INT64} if near else {}
    return [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), sides)
        for name, sides in outputs.items()
    ]


def tensors_of(graph: Graph, prefix: str) -> dict[str, NDArray[np.generic]]:
    """The tensors whose names begin so, without it: those of the backbone, or of the head."""
    return {name.removeprefix(prefix): each for name, each in graph.tensors.items() if name.startswith(prefix)}
