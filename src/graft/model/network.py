"""Network: a backbone graph and a head, their forward pass, and the ONNX graph of a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import graph as graphs
from graft.backbones.features import FeatureRunner, Features
from graft.backbones.graph import Graph
from graft.backbones.preprocess import Preprocess
from graft.data import dataset as table
from graft.data.dataset import Dataset
from graft.errors import ModelError
from graft.features.embed import LoadedImage, load_each, prepare_image
from graft.heads.head import Head
from graft.heads.nodes import NodeBuilder, add_topk, build_nodes
from graft.metrics.unknown import NEIGHBOURS, KnownImages, NeighbourMatches, reference_layers
from graft.progress import ProgressWrapper
from graft_runtime.card import MULTILABEL, Card
from graft_runtime.contract import HEAT, LOGITS, MAP, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN
from graft_runtime.decide import NOT_FINITE, find_finite_rows


@dataclass(frozen=True, eq=False)
class Network:
    """uint8 images [n, 3, size, size] to logits [n, classes]: features, then a head on them."""

    features: Features
    head: Head

    @property
    def preprocess(self) -> Preprocess:
        """How to make an image ready for this network."""
        return self.features.preprocess

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.head(self.features.compile_features()(images))


# --- the ONNX graph of a classifier -----------------------------------------------------------------------------------


FEATURES = "features"  # what the head reads, [n, d]
REFERENCE = "reference"  # what images are compared by, [n, w]
BACKBONE, HEAD, KNOWN = "features.backbone.", "head.", "known.features"  # names of tensors begin so, as PyTorch's do
SLICE_END = 2**31 - 1  # an end beyond any


def build_classifier_graph(network: Network, card: Card, known: KnownImages | None) -> Graph:
    """The graph with the outputs of `graft_runtime.contract`, FEATURES and REFERENCE, for any number of images.

    PROBABILITIES by the card's temperature, scales and shifts; the score of UNKNOWN, 0 where nothing is known; LOGITS;
    the last MAP, where there is one; HEAT, the saliency of each class, where a linear head reads nothing of the last
    layer but its average; and the NEAREST known images, where there are any.

    Raises ModelError for a backbone without the outputs that are read.
    """
    features, head = network.features, network.head
    compared, shapes = features.reference_features(reference_layers(card.unknown)), features.graph.shapes
    if missing := [name for name in (*features.outputs, *compared.outputs) if name not in shapes]:
        raise ModelError(f"The graph has no output {missing[0]!r}; it has {', '.join(shapes)}.")
    place = _last_map_output(features)
    build = NodeBuilder("answer/")
    _add_features(build, features, compared)
    build.nodes += build_nodes(head.spec, FEATURES, LOGITS, HEAD)
    outputs = {PROBABILITIES: ["n", len(card.classes)], UNKNOWN: ["n"], LOGITS: ["n", len(card.classes)]}
    _add_probabilities(build, card)
    near = _add_unknown(build, card, known)
    if place:
        build.name_output(place, MAP)
        outputs[MAP] = ["n", *shapes[place]]
    if place and _is_exact(features, head):
        _add_saliency(build, card, features.widths[-1])
        outputs[HEAT] = ["n", len(card.classes), *shapes[place][1:]]
    outputs |= near
    outputs |= {FEATURES: ["n", head.spec["width"]], REFERENCE: ["n", "w"]}
    tensors = {HEAD + name: tensor for name, tensor in head.tensors.items()}
    if near:
        assert known is not None
        tensors[KNOWN] = known.features
    whole = graphs.append_nodes(_prefix_names(features.graph), build.nodes, tensors, _output_infos(outputs, bool(near)))
    return graphs.prune_graph(whole, list(outputs))


def exact_map_outputs(features: Features, head: Head) -> tuple[str, ...]:
    """The outputs that hold the map of each part that the head reads, where a linear head reads nothing but averages.

    Then how much each place speaks for a class is exact; empty where it is not, or where a part has no map.
    """
    real = all(_is_map(features.graph.shapes.get(name, ())) for name in features.map_outputs)
    return features.map_outputs if real and _is_exact(features, head) else ()


def _is_exact(features: Features, head: Head) -> bool:
    """Whether a linear head reads nothing of the last part but its average."""
    linear = head.spec["kind"] == "linear" and "pca" not in head.spec and features.pool
    return linear and (features.graph.top_is_average or not features.top)


def _last_map_output(features: Features) -> str:
    """The output that is the last map; none where the last part has no places."""
    last = features.map_outputs[-1]
    return last if _is_map(features.graph.shapes.get(last, ())) else ""


def _is_map(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and tuple(shape[1:]) != (1, 1)


def _prefix_names(backbone: Graph) -> Graph:
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


def _add_features(build: NodeBuilder, features: Features, compared: Features) -> None:
    """FEATURES, and REFERENCE: each layer at length 1."""
    flat = [part if features.pool else build("Flatten", part) for part in features.outputs]
    build.name_output(build("Concat", *flat, axis=1), FEATURES)
    build.name_output(build("Concat", *(build.normalise_rows(part) for part in compared.outputs), axis=1), REFERENCE)


def _add_probabilities(build: NodeBuilder, card: Card) -> None:
    """PROBABILITIES, as graft_runtime.decide.compute_probabilities."""
    factors = np.asarray(card.scales or [1.0], np.float64) / card.temperature
    scaled = build("Add", build("Mul", LOGITS, build.constant(factors)), build.constant(card.shifts or [0.0]))
    multilabel = card.task == MULTILABEL
    build.name_output(build("Sigmoid", scaled) if multilabel else build("Softmax", scaled, axis=1), PROBABILITIES)


def _add_unknown(build: NodeBuilder, card: Card, known: KnownImages | None) -> dict[str, list[int | str]]:
    """UNKNOWN, as graft.metrics.unknown; and NEAREST and SIMILARITY, largest first, where images are stored."""
    one = build.constant([1], np.int64)
    if known is None:
        first = build("Gather", LOGITS, build.constant(0, np.int64), axis=1)
        build.name_output(build("Mul", first, build.constant(0)), UNKNOWN)  # nan stays nan
        return {}
    if not len(known.features):
        multilabel = card.task == MULTILABEL
        free = build("ReduceSum", build("Softplus", LOGITS), one, keepdims=0) if multilabel else ""
        build.name_output(build("Neg", free or build("ReduceLogSumExp", LOGITS, one, keepdims=0)), UNKNOWN)
        return {}
    few = min(NEIGHBOURS, len(known.features))
    cosines = build("Gemm", build.normalise_rows(REFERENCE), build("Cast", KNOWN, to=1), transB=1)
    best, which = add_topk(build, cosines, few)
    build.name_output(best, SIMILARITY)
    build.name_output(which, NEAREST)
    build.name_output(build("Sub", build.constant(1), build("ReduceMean", best, one, keepdims=0)), UNKNOWN)
    return {NEAREST: ["n", few], SIMILARITY: ["n", few]}


def _add_saliency(build: NodeBuilder, card: Card, width: int) -> None:
    """Add HEAT: its cells add up to what the last layer adds to a class's logit, except for a constant.

    Above the mean of all logits where an image has one label, as only differences count in a softmax.
    """
    weight = build("Mul", f"{HEAD}judge.weight", f"{HEAD}scale")
    own = build("Slice", weight, *(build.constant([value], np.int64) for value in (-width, SLICE_END, 1)))
    if card.task != MULTILABEL:
        own = build("Sub", own, build("ReduceMean", own, build.constant([0], np.int64)))
    contributions = build("Conv", MAP, build("Unsqueeze", own, build.constant([2, 3], np.int64)), kernel_shape=[1, 1])
    places = build("Cast", build("ReduceProd", build("Shape", MAP, start=2), keepdims=0), to=1)
    build.name_output(build("Div", contributions, places), HEAT)


def _output_infos(outputs: Mapping[str, Sequence[int | str]], near: bool) -> list[Any]:
    from onnx import TensorProto, helper

    kinds = {NEAREST: TensorProto.INT64} if near else {}
    return [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), sides)
        for name, sides in outputs.items()
    ]


def tensors_with_prefix(graph: Graph, prefix: str) -> dict[str, NDArray[np.generic]]:
    """The tensors whose names begin so, without it: those of the backbone, or of the head."""
    return {name.removeprefix(prefix): each for name, each in graph.tensors.items() if name.startswith(prefix)}


# --- forward pass -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BatchOutput:
    """A batch of good images: their rows, what names their content, [n, 16], logits [n, classes].

    `reference` [n, w] are the features by which they are compared with training images.
    """

    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    logits: NDArray[np.float32]
    reference: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ForwardOutput:
    """The same of all good images, with the nearest known ones in place of the features, and the others' faults."""

    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    logits: NDArray[np.float32]
    near: NeighbourMatches | None
    faults: dict[int, str]


def run_forward(
    network: Network,
    layers: Sequence[str],
    known: KnownImages | None,
    multilabel: bool,
    data: Dataset,
    watch: ProgressWrapper,
) -> ForwardOutput:
    """Compute logits and nearest images; features are not kept, as there may be a million images."""
    faults: dict[int, str] = {}
    rows, digests = [np.empty(0, np.intp)], [np.empty((0, table.DIGEST), np.uint8)]
    logits, near = [np.empty((0, network.head.spec["classes"]), np.float32)], list[NeighbourMatches]()
    for batch in iterate_batches(network, layers, data, watch, faults):
        own = known.find_neighbours(batch.reference, batch.logits, multilabel) if known else None
        good = find_finite_rows(batch.logits, own.scores) if own else find_finite_rows(batch.logits)
        faults |= dict.fromkeys(batch.rows[~good].tolist(), NOT_FINITE)
        rows.append(batch.rows[good])
        digests.append(batch.digests[good])
        logits.append(batch.logits[good])
        near += [own.take(good)] if own else []
    together = concatenate_matches(near) if known else None
    return ForwardOutput(np.concatenate(rows), np.concatenate(digests), np.concatenate(logits), together, faults)


def iterate_batches(
    network: Network,
    layers: Sequence[str],
    data: Dataset,
    watch: ProgressWrapper,
    faults: dict[int, str],
) -> Iterator[BatchOutput]:
    """Yield the outputs batch by batch; the faults of unusable images are written into `faults`.

    The reference features are those of the named layers, or without one of the last layer that the head reads.
    """
    waiting = list[LoadedImage[_DigestedImage]]()
    run = FeatureRunner(network.features, network.features.reference_features(layers))
    for image in load_each(data, partial(_prepare_image, network.preprocess), watch):
        if image.value is None:
            faults[image.row] = image.fault
            continue
        waiting.append(image)
        if len(waiting) >= run.batch:
            yield _run_batch(network, run, waiting)
            waiting = []
    if waiting:
        yield _run_batch(network, run, waiting)


def last_layer_features(network: Network, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of these features [n, d] those of the last layer that the head reads; a map is averaged over space."""
    if not network.features.pool:
        return features.reshape(len(features), *network.features.shape).mean(axis=(2, 3))
    return features[:, -network.features.widths[-1] :]


def concatenate_matches(near: list[NeighbourMatches]) -> NeighbourMatches:
    """Several batches as one."""
    if not near:
        none = np.empty((0, NEIGHBOURS))
        return NeighbourMatches(np.empty(0, np.float32), none.astype(np.intp), none.astype(np.float32))
    columns = zip(*((each.scores, each.indices, each.cosines) for each in near), strict=True)
    return NeighbourMatches(*map(np.concatenate, columns))


@dataclass(frozen=True)
class _DigestedImage:
    digest: bytes
    pixels: NDArray[np.uint8]


def _prepare_image(preprocess: Preprocess, raw: bytes | NDArray[np.uint8]) -> _DigestedImage:
    return _DigestedImage(table.compute_digest(raw), prepare_image(preprocess, raw))


def _run_batch(network: Network, run: FeatureRunner, waiting: list[LoadedImage[_DigestedImage]]) -> BatchOutput:
    made = [(image.row, image.value) for image in waiting if image.value]
    read, reference = run.run_with_reference(np.stack([image.pixels for _, image in made]))
    digests = np.frombuffer(b"".join(image.digest for _, image in made), np.uint8).reshape(-1, table.DIGEST)
    rows = np.array([row for row, _ in made], np.intp)
    return BatchOutput(rows, digests, network.head(read), reference)
