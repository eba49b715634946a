"""Make an exported graph smaller: constants folded, weights as float16, int8 quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

from graft.backbones.preprocess_graph import PREPARED
from graft.model.network import BACKBONE

MIN_HALVED_SIZE = 10_000  # numbers of a tensor from which on it is stored as float16


# --- Optimisation of ONNX models --------------------------------------------------------------------------------------


def fold_constants(model: ModelProto) -> ModelProto:
    """Fold constants and batch norms; the result has only ONNX's own operators, so that any runtime can read it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3  # errors only; it warns of what it leaves out
    with TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return store_as_float16(onnx.load(path))


def store_as_float16(model: ModelProto) -> ModelProto:
    """Store every large tensor that float16 holds without loss as float16."""
    for tensor in list(model.graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < MIN_HALVED_SIZE:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if (half == values).all():
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}/half"))
            model.graph.node.insert(0, onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    return model


PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else it warns; `fold_constants` has done that already
HEAVY = ("Conv", "MatMul", "Gemm")


# --- int8 -------------------------------------------------------------------------------------------------------------


def quantise_int8(network: ModelProto, prepared: Iterator[NDArray[np.uint8]]) -> ModelProto:
    """Quantise a graph to int8: static, QDQ, with a scale per channel of the weights.

    The ranges of the activations come from `prepared` images [3, size, size]. These stay in float32: the first third of
    the layers, which hold few of the weights and whose errors propagate through all others; depthwise convolutions,
    whose channels differ much in range; products of two activations; and the head and all after it, as a head on
    several layers amplifies small differences. With these in int8 too, many times as many predictions change and little
    time is gained.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            image = next(prepared, None)
            return None if image is None else {PREPARED: image[None]}

    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.helper.set_model_props(network, PREPROCESSED)
        onnx.save(network, before)
        quantize_static(
            before,
            after,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(HEAVY),
            nodes_to_exclude=_select_float32_nodes(network),
        )
        quantised = onnx.load(after)
    del quantised.metadata_props[:]
    return quantised


def _select_float32_nodes(network: ModelProto) -> list[str]:
    """Return the names of the layers that stay in float32."""
    weights = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    heavy = [node for node in network.graph.node if node.op_type in HEAVY]
    inside = [node for node in heavy if node.name.startswith(BACKBONE) and node.input[1] in weights]
    late = inside[len(inside) // 3 :]
    quantised = {node.name for node in late if not _depthwise(node, weights[node.input[1]])}
    return [node.name for node in heavy if node.name not in quantised]


def _depthwise(node: NodeProto, shape: Sequence[int]) -> bool:
    return node.op_type == "Conv" and shape[1] == 1 and shape[0] > 1
