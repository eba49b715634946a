"""A module as an ONNX graph in which everything that does not depend on the picture is a constant."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor, nn

from graft.backbones.pixels import OPSET, PREPARED
from graft.torch.alone import alone

LARGE = 10_000  # numbers


def traced(module: nn.Module, example: Tensor, outputs: Sequence[str]) -> ModelProto:
    """The graph of a module that takes `prepared` pictures, any number of them.

    By the tracing exporter, as in `engine`. Networks with 'same' padding ask for the size of each map, which only the
    number of pictures keeps from being a constant; it is made one, and ONNX Runtime works out what follows from it.
    """
    with alone(), TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated
        path = Path(folder) / "traced.onnx"
        torch.onnx.export(
            module,
            (example,),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[PREPARED],
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in (PREPARED, *outputs)},
        )
        _fix_sizes(path)
        return _folded(path)


def _fix_sizes(path: Path) -> None:
    """What a node asks of the size of a map, other than the number of pictures, becomes a constant."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    sizes = {value.name: value.type.tensor_type.shape.dim for value in [*model.graph.value_info, *model.graph.input]}
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        asked = made.get(node.input[0]) if node.op_type == "Gather" else None
        which = _constant(made.get(node.input[1])) if asked is not None and asked.op_type == "Shape" else None
        if asked is None or which is None or which.size != 1 or asked.input[0] not in sizes:
            continue
        size = sizes[asked.input[0]][int(which.item())]
        if size.HasField("dim_value"):
            value = numpy_helper.from_array(np.full(which.shape, size.dim_value, np.int64))
            node.CopyFrom(onnx.helper.make_node("Constant", [], node.output, value=value))
    onnx.save(model, path)


def _constant(node: NodeProto | None) -> np.ndarray | None:
    if node is None or node.op_type != "Constant":
        return None
    return numpy_helper.to_array(node.attribute[0].t)
