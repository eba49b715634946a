"""Whole numbers of 8 bits in place of float32, where a network spends its time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from graft.backbones.pixels import PREPARED
from graft.model.composed import BACKBONE

PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # else it asks for what fold.folded has done
HEAVY = ("Conv", "MatMul", "Gemm")


def int8(network: ModelProto, prepared: Iterator[NDArray[np.uint8]]) -> ModelProto:
    """The same graph with 8-bit layers, each channel of weights scaled by itself (static, QDQ).

    The ranges of what lies between come from `prepared` pictures [3, size, size]. In float32 stay the first third of
    the layers, which hold few of the weights and whose errors all others hand on; depthwise convolutions, whose
    channels differ by much; products of two maps; and the head with all after it, as one over several layers stretches
    small differences. With these in 8 bits too, many times as many answers change and little time is won.
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
            nodes_to_exclude=_kept(network),
        )
        made = onnx.load(after)
    del made.metadata_props[:]
    return made


def _kept(network: ModelProto) -> list[str]:
    """The layers that stay in float32."""
    weights = {tensor.name: tensor.dims for tensor in network.graph.initializer}
    heavy = [node for node in network.graph.node if node.op_type in HEAVY]
    inside = [node for node in heavy if node.name.startswith(BACKBONE) and node.input[1] in weights]
    late = inside[len(inside) // 3 :]
    quick = {node.name for node in late if not _depthwise(node, weights[node.input[1]])}
    return [node.name for node in heavy if node.name not in quick]


def _depthwise(node: NodeProto, shape: Sequence[int]) -> bool:
    return node.op_type == "Conv" and shape[1] == 1 and shape[0] > 1
