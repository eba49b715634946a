"""Convert a module to an ONNX graph with named outputs: traced once and compared with PyTorch."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import (
    CONSTANT,
    LAST,
    MAP,
    POOLED,
    PREPARED,
    TOP,
    Graph,
    Stage,
    external_tensor,
    open_session,
)
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import WeightsSource
from graft.errors import ExportError, GraftError
from graft.torch.alone import hold_torch_lock
from graft.torch.build import build_network, load_weights, remove_classifier
from graft.torch.chain import eval_mode, find_module_stages
from graft.torch.network import (
    FeaturesModule,
    as_map,
    build_example_images,
    collect_outputs,
    find_map_layer,
    normalise,
    pool_output,
    to_feature_map,
)

OPSET, IR = 20, 10
TOLERANCE = 1e-4  # largest difference to PyTorch, relative to the largest number of an output
ROUNDING_FACTOR = 10  # or to the same in 64 bits, so many times what PyTorch in 32 bits differs from it
MAX_INLINE_SIZE = 4096  # numbers; constants up to so many are worked out here, and stay inside the structure
# What sizes are worked out with; ONNX Runtime folds the rest when it opens the graph, and faster.
FOLDABLE_OPERATORS = {
    *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Max", "Min", "Ceil", "Floor", "Cast", "Equal", "Not", "Where"),
    *("Concat", "Unsqueeze", "Squeeze", "Gather", "Slice", "Reshape", "Transpose", "ConstantOfShape", "Range"),
}
EXAMPLE_COUNT = 3  # images, in batches of 3, 1 and 2: a graph may have taken the number in its example for a constant


def convert_backbone(entry: CatalogEntry, source: WeightsSource, preprocess: Preprocess) -> Graph:
    """The graph of a network of the catalogue with these weights.

    Raises ExportError where it cannot be converted, WeightsError where the weights are not its own.
    """
    whole = build_network(entry)
    load_weights(entry, whole, source)
    return convert_module(remove_classifier(entry, whole).eval().requires_grad_(False), preprocess)


def convert_module(module: nn.Module, preprocess: Preprocess) -> Graph:
    """The graph of a network without its classifier, in eval mode, with the outputs of all stages of its chain.

    Its tensors are the module's whole state dict, under the same names and, on the CPU, in the same memory. Raises
    ExportError for a network that cannot be traced, or whose graph answers differently.
    """
    with hold_torch_lock(), eval_mode(module), torch.no_grad():
        outputs_module = _StageOutputs(module, preprocess)
        model = _trace(outputs_module)
        try:
            _fix_sizes(model)
            _fold(model.graph)
            graph = outputs_module.build_graph(model)
            _check_graph(graph, outputs_module)
        except GraftError as fault:
            raise ExportError(f"This network cannot be converted: {fault}") from fault
    return graph


class _StageOutputs(nn.Module):
    """uint8 images to all outputs of the graph: those of each stage, pooled and as a map, the last map, and the top.

    In training mode by name, though no part of the module is: the exporter would else make one of equal tensors.
    """

    def __init__(self, module: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.backbone, self.preprocess = module, preprocess
        self.device = next((each.device for each in module.parameters()), torch.device("cpu"))
        self.chain = [
            Stage(each.name, each.shape, each.parameters)
            for each in find_module_stages(module, build_example_images(preprocess))
        ]
        self.map_layer = find_map_layer(FeaturesModule(module, preprocess, ()))

    @property
    def outputs(self) -> list[str]:
        """The names, in the order of `forward`."""
        maps = [f"{MAP}{stage.name}" for stage in self.chain if len(stage.shape) == 3]
        return [*(f"{POOLED}{stage.name}" for stage in self.chain), *maps, *[LAST] * bool(self.map_layer), TOP]

    def forward(self, images: Tensor) -> list[Tensor]:
        names = [*(stage.name for stage in self.chain), *([self.map_layer.name] if self.map_layer else [])]
        with collect_outputs(self.backbone, names) as layer_outputs:
            top = self.backbone(normalise(self.preprocess, images))
        found = [pool_output(layer_outputs[stage.name]) for stage in self.chain]
        found += [
            to_feature_map(stage.name, layer_outputs[stage.name]) for stage in self.chain if len(stage.shape) == 3
        ]
        if self.map_layer:
            last = as_map(self.backbone, layer_outputs[self.map_layer.name])
            assert last is not None
            found.append(last)
        return [*found, top]

    def example_images(self) -> Tensor:
        """Noise of two strengths and a gradient, so that answers that do not depend on the image are found out."""
        side = self.preprocess.size
        noise = torch.rand(EXAMPLE_COUNT, 3, side, side, generator=torch.Generator().manual_seed(0))
        noise *= torch.linspace(80, 255, EXAMPLE_COUNT).view(-1, 1, 1, 1)
        noise[-1] = torch.linspace(0, 255, side).expand(3, side, side)
        return noise.to(torch.uint8).to(self.device)

    def build_graph(self, model: ModelProto) -> Graph:
        """The traced model, whose inputs are also the module's tensors, without these."""
        tensors = {name: each.detach().cpu().numpy() for name, each in self.backbone.state_dict().items()}
        inner, prefix = model.graph, "backbone."
        given = {name.removeprefix(prefix): each for name, each in self.named_buffers() if name.startswith(prefix)}
        names: dict[str, str] = {}
        for value in [each for each in inner.input if each.name != PREPARED]:
            name = value.name.removeprefix(prefix)
            if name not in tensors:  # a buffer that is not saved with the module
                if name not in given:
                    raise ExportError(f"its graph asks for {value.name!r}, which the network has not.")
                names[value.name] = name = f"{CONSTANT}{name}"
                tensors[name] = given[name.removeprefix(CONSTANT)].detach().cpu().numpy()
            names[value.name] = name
            inner.input.remove(value)
            inner.initializer.append(external_tensor(name, tensors[name]))
        _rename(inner, names)
        _move_out(inner, tensors)
        return Graph(
            structure=model.SerializeToString(deterministic=True),
            tensors=tensors,
            stages=tuple(self.chain),
            top_is_average=bool(self.map_layer and self.map_layer.is_averaged),
        )


def _trace(outputs_module: _StageOutputs) -> ModelProto:
    """The graph as the tracing exporter writes it, its tensors as further inputs: none is copied.

    By the tracing exporter, as the newer one takes many times as long and cannot follow hooks. Nothing is folded into
    weights: they keep their names and values.
    """
    with TemporaryDirectory() as folder, warnings.catch_warnings(), _patch_exporter():
        path = Path(folder) / "traced.onnx"
        warnings.simplefilter("ignore")  # it is deprecated, and warns of each size that becomes a constant
        try:
            torch.onnx.export(
                outputs_module,
                (outputs_module.example_images()[:2],),
                path,
                dynamo=False,
                opset_version=OPSET,
                training=torch.onnx.TrainingMode.PRESERVE,
                do_constant_folding=False,
                export_params=False,
                input_names=[PREPARED],
                output_names=outputs_module.outputs,
                dynamic_axes={name: {0: "n"} for name in (PREPARED, *outputs_module.outputs)},
            )
        except Exception as fault:  # an exporter fails in many ways
            reason = " ".join(str(fault).split())[:300]
            raise ExportError(f"This network cannot be converted: {type(fault).__name__}: {reason}") from fault
        model = onnx.load(path)
    model.ir_version = IR
    for field in ("doc_string", "producer_version"):
        model.ClearField(field)
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("name")
    return model


@contextmanager
def _patch_exporter() -> Iterator[None]:
    """The tracing exporter with an operator that it lacks, and without the whole graph on standard output.

    It turns its log on whenever it is used, by a mistake in reading whether it was on, and logs the graph of whatever
    it fails to export.
    """
    name, module = "_jit_set_onnx_log_enabled", torch._C
    switch = getattr(module, name, None)
    for operator, written in _CUSTOM_OPERATORS.items():
        torch.onnx.register_custom_op_symbolic(operator, written, OPSET)  # pyright: ignore[reportPrivateImportUsage]
    if switch:
        switch(False)  # whoever exported before left it on
        setattr(module, name, lambda _on: None)
    try:
        yield
    finally:
        if switch:
            setattr(module, name, switch)
        for operator in _CUSTOM_OPERATORS:
            torch.onnx.unregister_custom_op_symbolic(operator, OPSET)  # pyright: ignore[reportPrivateImportUsage]


def _export_rms_norm(graph: Any, given: Any, shape: Any, weight: Any, epsilon: Any) -> Any:
    """x / sqrt(mean(x^2) + epsilon) * weight, over the last dimensions."""
    last: Any = symbolic_helper._maybe_get_const(shape, "is")
    axes = graph.op("Constant", value_t=torch.arange(-len(last), 0))
    known: Any = None if symbolic_helper._is_none(epsilon) else symbolic_helper._maybe_get_const(epsilon, "f")
    least = torch.tensor(torch.finfo(torch.float32).eps if known is None else known)
    squares = graph.op("ReduceMean", graph.op("Mul", given, given), axes, keepdims_i=1)
    root = graph.op("Sqrt", graph.op("Add", squares, graph.op("Constant", value_t=least)))
    found = graph.op("Div", given, root)
    return found if symbolic_helper._is_none(weight) else graph.op("Mul", found, weight)


def _rename(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)


def _move_out(graph: GraphProto, tensors: dict[str, NDArray[np.generic]]) -> None:
    """Large constants that the exporter wrote into the graph become tensors beside it."""
    for count, node in enumerate([each for each in graph.node if each.op_type == "Constant"]):
        value = _constant_value(node)
        if value is not None and value.size > MAX_INLINE_SIZE:
            name = f"{CONSTANT}{count}"
            tensors[name] = value
            graph.initializer.append(external_tensor(name, value))
            graph.node.remove(node)
            _rename(graph, {node.output[0]: name})


def _export_adaptive_pool(graph: Any, given: Any, wanted: Any) -> Any:
    """Means over a map of whatever size, as two products where the one size is no multiple of the other."""
    sizes, asked = symbolic_helper._get_tensor_sizes(given), symbolic_helper._maybe_get_const(wanted, "is")
    if isinstance(asked, list | tuple) and list(asked) == [1, 1]:
        return graph.op("GlobalAveragePool", given)
    if sizes is None or None in sizes[-2:] or not isinstance(asked, list | tuple):
        return symbolic_helper._unimplemented("adaptive pooling", "of a map whose size is not known", given)
    known: list[tuple[Any, Any]] = list(zip(sizes[-2:], asked, strict=True))
    down, across = (_averaging_matrix(size, side or size) for size, side in known)
    rows = graph.op("MatMul", graph.op("Constant", value_t=down), given)
    return graph.op("MatMul", rows, graph.op("Constant", value_t=across.T.contiguous()))


def _averaging_matrix(count: int, wanted: int) -> Tensor:
    """The mean over the places [wanted, count] of which each place that is asked for is made."""
    found = torch.zeros(wanted, count)
    for place in range(wanted):
        start, end = place * count // wanted, -(-(place + 1) * count // wanted)
        found[place, start:end] = 1 / (end - start)
    return found


# Operators that the exporter has not, or not for every size.
_CUSTOM_OPERATORS = {"aten::rms_norm": _export_rms_norm, "aten::adaptive_avg_pool2d": _export_adaptive_pool}


def _fix_sizes(model: ModelProto) -> None:
    """What a node asks of the size of a map, other than the number of images, becomes a constant.

    Networks with 'same' padding ask for it. Only the number of images keeps it from being a constant already.
    """
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    sizes = {value.name: value.type.tensor_type.shape.dim for value in [*inferred.value_info, *inferred.input]}
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        asked = made.get(node.input[0]) if node.op_type == "Gather" else None
        which = _constant_value(made.get(node.input[1])) if asked is not None and asked.op_type == "Shape" else None
        if asked is None or which is None or which.size != 1 or asked.input[0] not in sizes:
            continue
        size = sizes[asked.input[0]][int(which.item())]
        if size.HasField("dim_value"):
            node.CopyFrom(_constant_node(np.full(which.shape, size.dim_value, np.int64), node.output[0]))


def _fold(graph: GraphProto) -> None:
    """Work out what follows from small constants alone, and leave out the nodes that nobody reads then."""
    known: dict[str, NDArray[Any]] = {}
    for node in graph.node:
        if node.op_type == "Constant":
            value = _constant_value(node)
        elif node.op_type in FOLDABLE_OPERATORS and all(name in known for name in node.input if name):
            value = _evaluate_node(node, known)
        else:
            continue
        if value is not None and value.size <= MAX_INLINE_SIZE:
            known[node.output[0]] = value
            node.CopyFrom(_constant_node(value, node.output[0]))
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}  # equal constants are one
    _rename(graph, {name: first.setdefault((v.dtype.str, v.shape, v.tobytes()), name) for name, v in known.items()})
    _drop_unread(graph)


def _evaluate_node(node: NodeProto, known: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """The output of one node, None where it is not numbers."""
    inputs = {name: known[name] for name in node.input if name}
    found: Any = ReferenceEvaluator(node, opsets={"": OPSET}).run(None, inputs)
    value = found[0]
    return np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None


def _drop_unread(graph: GraphProto) -> None:
    read, kept = {each.name for each in graph.output}, []
    for node in reversed(graph.node):
        if read.intersection(node.output):
            read.update(node.input)
            kept.append(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    for value in [each for each in graph.input if each.name not in read and each.name != PREPARED]:
        graph.input.remove(value)


def _constant_node(value: NDArray[Any], name: str) -> NodeProto:
    return onnx.helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))


def _constant_value(node: NodeProto | None) -> NDArray[Any] | None:
    """The value of a node that is a constant; None for any other."""
    if node is None or node.op_type != "Constant" or not node.attribute or node.attribute[0].name != "value":
        return None
    return numpy_helper.to_array(node.attribute[0].t)


def _check_graph(graph: Graph, outputs_module: _StageOutputs) -> None:
    """Raises ExportError unless the graph gives what PyTorch gives, for batches of several sizes."""
    images, running, names = outputs_module.example_images(), open_session(graph), outputs_module.outputs
    parts = [slice(0, EXAMPLE_COUNT), slice(0, 1), slice(1, EXAMPLE_COUNT)]
    found = [running.run(images[part].cpu().numpy(), names) for part in parts]
    want = [each.float().cpu().numpy() for each in outputs_module(images)]
    allowed = [TOLERANCE * max(_max_abs(each), 1e-6) for each in want]
    if any(_find_differences(found, parts, want, allowed)) and (exact := _run_in_float64(outputs_module, images)):
        # A deep network may amplify the rounding of 32 bits itself: the graph may then be as far off as PyTorch is.
        own = [ROUNDING_FACTOR * _max_abs(each - true) for each, true in zip(want, exact, strict=True)]
        want, allowed = exact, [max(pair) for pair in zip(allowed, own, strict=True)]
    for part, wrong in zip(parts, _find_differences(found, parts, want, allowed), strict=True):
        if wrong:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise ExportError(
                f"its graph answers differently for {part.stop - part.start} images, in {names[wrong[0]]!r}{more}."
            )


def _find_differences(
    found: Sequence[Sequence[NDArray[Any]]],
    parts: Sequence[slice],
    want: Sequence[NDArray[Any]],
    allowed: Sequence[float],
) -> list[list[int]]:
    """Of each part of the images the outputs that are further from what is wanted than is allowed."""
    return [
        [
            number
            for number, (ours, theirs, most) in enumerate(zip(each, want, allowed, strict=True))
            if ours.shape != theirs[part].shape or not _max_abs(ours - theirs[part]) <= most  # NaN neither
        ]
        for each, part in zip(found, parts, strict=True)
    ]


def _run_in_float64(outputs_module: _StageOutputs, images: Tensor) -> list[NDArray[Any]]:
    """The outputs in 64 bits; none of a network whose own code insists on 32."""
    twice = copy.deepcopy(outputs_module).double()
    twice.backbone.register_forward_pre_hook(lambda _part, given: tuple(each.double() for each in given))
    try:
        return [each.cpu().numpy() for each in twice(images)]
    except RuntimeError:  # a tensor of the other kind somewhere inside
        return []


def _max_abs(numbers: NDArray[Any]) -> float:
    return float(np.abs(numbers).max(initial=0))
