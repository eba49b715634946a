"""All that a classifier says of an image as one graph: a backbone, what is read of it, the head and the decision.

The saved folder holds this graph, and every exported file is made of it: there is one definition of the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import graph as graphs
from graft.backbones.graph import LAST, POOLED, TOP, Graph
from graft.errors import ModelError
from graft.heads.head import Head
from graft.heads.nodes import Builder, nodes, topk
from graft.model.unknown import NEIGHBOURS, Known, compared_by
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.contract import HEAT, LOGITS, MAP, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN

FEATURES = "features"  # what the head reads, [n, d]
REFERENCE = "reference"  # what images are compared by, [n, w]
BACKBONE, HEAD, KNOWN = "features.backbone.", "head.", "known.features"  # names of tensors begin so, as PyTorch's do
FAR = 2**31 - 1  # an end beyond any

Dims = Mapping[str, Sequence[int | str]]


@dataclass(frozen=True)
class Reads:
    """What a head reads of a backbone, and by which stages images are compared, as the card has it.

    The stages `layers`, each averaged over space, then with `top` the output of the whole backbone; without `pool` the
    map of one stage. Images are compared by the stages `compared`; without any by the last one that the head reads.
    """

    layers: tuple[str, ...] = ()
    top: bool = True
    pool: bool = True
    compared: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.pool and (len(self.layers) != 1 or self.top):
            raise ValueError(f"a feature map is that of one layer and nothing else, not of {', '.join(self.layers)}")
        if not self.layers and not self.top:
            raise ValueError("the head reads nothing: no layer, and not the top")

    @classmethod
    def of(cls, card: Card) -> Reads:
        """As the card of a saved classifier has it."""
        return cls(tuple(card.layers), card.top and card.pool, card.pool, compared_by(card.unknown))

    @property
    def parts(self) -> tuple[str, ...]:
        """The outputs of the backbone that the head reads, in its order."""
        kind = POOLED if self.pool else graphs.MAP
        return *(kind + layer for layer in self.layers), *[TOP] * self.top

    @property
    def maps(self) -> tuple[str, ...]:
        """Of each part the output that holds its map, where there is one."""
        return *(graphs.MAP + layer for layer in self.layers), *[LAST] * self.top


def composed(backbone: Graph, reads: Reads, head: Head, card: Card, known: Known | None) -> Graph:
    """The graph with the outputs of `graft_runtime.contract`, FEATURES and REFERENCE, for any number of images.

    PROBABILITIES by the card's temperature, scales and shifts; the score of UNKNOWN, 0 where nothing is known; LOGITS;
    the last MAP, where there is one; where a linear head reads nothing of the last layer but its average, as HEAT how
    much each place speaks for each class; and which known images are NEAREST, where there are any. Behind these come
    the maps of all that is read, for heat maps, where the head is linear and each of them is averaged.

    Raises ModelError for a backbone without the outputs that are read.
    """
    sizes = _sizes(backbone)
    if missing := [name for name in (*reads.parts, *(POOLED + each for each in reads.compared)) if name not in sizes]:
        raise ModelError(f"The graph has no output {missing[0]!r}; it has {', '.join(sizes)}.")
    place = _place(reads, sizes)
    exact = averaged_maps(backbone, reads, head, sizes)
    build = Builder("answer/")
    _read(build, reads)
    build.nodes += nodes(head.spec, FEATURES, LOGITS, HEAD)
    outputs = {PROBABILITIES: ["n", len(card.classes)], UNKNOWN: ["n"], LOGITS: ["n", len(card.classes)]}
    _calibrated(build, card)
    near = _unknown(build, card, known)
    if place:
        build.named(place, MAP)
        outputs[MAP] = list(sizes[place])
    if place and _averaged(backbone, reads, head):
        _heat(build, card, int(sizes[reads.parts[-1]][1]))
        outputs[HEAT] = ["n", len(card.classes), *sizes[place][2:]]
    outputs |= near
    outputs |= {FEATURES: ["n", head.spec["width"]], REFERENCE: ["n", "w"]}
    tensors = {HEAD + name: tensor for name, tensor in head.tensors.items()}
    if near:
        assert known is not None
        tensors[KNOWN] = known.features
    whole = graphs.joined(_prefixed(backbone), build.nodes, tensors, _values(outputs, bool(near)))
    return replace(graphs.only(whole, [*outputs, *exact]), tensors=whole.tensors)


def averaged_maps(backbone: Graph, reads: Reads, head: Head, sizes: Dims | None = None) -> tuple[str, ...]:
    """The outputs that hold the map of each part that the head reads, where a linear head reads nothing but averages.

    Then how much each place speaks for a class is exact; empty where it is not, or where a part has no map.
    """
    sizes = sizes or _sizes(backbone)
    real = all(_is_map(sizes.get(name, ())) for name in reads.maps)
    return reads.maps if real and _averaged(backbone, reads, head) else ()


def _averaged(backbone: Graph, reads: Reads, head: Head) -> bool:
    """Whether a linear head reads nothing of the last part but its average."""
    linear = head.spec["kind"] == "linear" and "pca" not in head.spec and reads.pool
    return linear and (backbone.averaged or not reads.top)


def _place(reads: Reads, sizes: Dims) -> str:
    """The output that is the last map; none where the last part has no places."""
    return reads.maps[-1] if _is_map(sizes.get(reads.maps[-1], ())) else ""


def _is_map(dims: Sequence[int | str]) -> bool:
    return len(dims) == 4 and tuple(dims[2:]) != (1, 1)


def _sizes(backbone: Graph) -> dict[str, list[int | str]]:
    """The sides of each output, by name; a side that is free is a name."""
    import onnx

    outputs = onnx.ModelProto.FromString(backbone.structure).graph.output
    return {
        each.name: [side.dim_value or side.dim_param or "free" for side in each.type.tensor_type.shape.dim]
        for each in outputs
    }


def _prefixed(backbone: Graph) -> Graph:
    """The backbone with its tensors by the names that they have in the network of a classifier."""
    import onnx

    model = onnx.ModelProto.FromString(backbone.structure)
    names = set(backbone.tensors)
    for each in model.graph.initializer:
        if each.name in names:
            each.name = BACKBONE + each.name
    for node in model.graph.node:
        node.input[:] = [BACKBONE + name if name in names else name for name in node.input]
    tensors = {BACKBONE + name: tensor for name, tensor in backbone.tensors.items()}
    return replace(backbone, structure=model.SerializeToString(deterministic=True), tensors=tensors)


def _read(build: Builder, reads: Reads) -> None:
    """FEATURES and REFERENCE."""
    flat = [part if reads.pool else build("Flatten", part) for part in reads.parts]
    build.named(build("Concat", *flat, axis=1), FEATURES)
    if reads.compared:
        found = build("Concat", *(build.unit(POOLED + layer) for layer in reads.compared), axis=1)
    elif reads.pool:
        found = reads.parts[-1]
    else:
        found = build("ReduceMean", reads.parts[-1], build.constant([2, 3], np.int64), keepdims=0)
    build.named(found, REFERENCE)


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
