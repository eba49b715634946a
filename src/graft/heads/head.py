"""The head of a classifier as NumPy arrays: from features to logits, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import graph
from graft.backbones.graph import register
from graft.heads.nodes import OPSET, build_nodes, check_indices, check_spec, check_tensors, dense_layers, tensor_shapes

FEATURES, LOGITS, BODY_PREFIX = "features", "logits", "judge."


@dataclass(frozen=True, eq=False)
class Head:
    """Standardise features [n, d] and compute logits [n, classes].

    `spec` is the architecture of the head, `tensors` are its weights by their PyTorch names. A conv head takes maps
    [n, c, h, w] flattened to [n, c*h*w].

    Raises ValueError for an invalid spec, and for tensors that do not match the spec.
    """

    spec: dict[str, Any]
    tensors: Mapping[str, NDArray[np.generic]]

    def __post_init__(self) -> None:
        check_spec(self.spec)
        check_tensors(self.spec, self.tensors)
        whole = {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}
        object.__setattr__(self, "tensors", whole)  # contiguous, as safetensors and ONNX Runtime need them

    def __repr__(self) -> str:
        return f"<Head: {self.spec['kind']}, {self.spec['width']:,} features to {self.spec['classes']:,} classes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Head, (self.spec, dict(self.tensors))  # an open session cannot be copied

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the logits [n, classes] of features [n, d]."""
        if not len(features):
            return np.zeros((0, self.spec["classes"]), np.float32)
        if self.spec["kind"] == "linear" and "pca" not in self.spec:
            return self._linear(np.asarray(features, np.float32))
        given = {FEATURES: np.ascontiguousarray(features, np.float32)}
        return self._session.run([LOGITS], given | dict(self.tensors))[0]

    def _linear(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a linear head in NumPy: importing onnx would double the time to a first prediction."""
        names = "mean", "scale", "judge.weight", "judge.bias"
        mean, scale, weight, bias = (np.float32(self.tensors[name]) for name in names)
        with np.errstate(invalid="ignore", over="ignore"):  # nan and inf pass through
            return np.asarray((features - mean) * scale @ weight.T + bias, np.float32)

    def forward_standardised(self, standardised: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the logits [n, classes] of features that are standardised already."""
        mean, scale = self.tensors["mean"], self.tensors["scale"]
        return self.with_tensors({"mean": np.zeros_like(mean), "scale": np.ones_like(scale)})(standardised)

    @cached_property
    def _session(self) -> Any:
        """ONNX Runtime session; the tensors are its inputs, so that they are not copied into a model."""
        import onnxruntime
        from onnx import TensorProto, helper

        kinds = {np.float32: TensorProto.FLOAT, np.int32: TensorProto.INT32, np.int64: TensorProto.INT64}
        inputs = [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", self.spec["width"]])]
        for name, (kind, shape) in tensor_shapes(self.spec).items():
            inputs.append(helper.make_tensor_value_info(name, kinds[kind], shape))
        output = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["n", self.spec["classes"]])
        graph = helper.make_graph(build_nodes(self.spec, FEATURES, LOGITS, ""), "head", inputs, [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        register(self)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def on_fork(self) -> None:
        """Drop the session in the child of a fork; the next call opens a new one."""
        if session := vars(self).pop("_session", None):
            graph.keep_alive(session)

    @property
    def body_tensors(self) -> dict[str, NDArray[np.generic]]:
        """The tensors of the layers after standardisation, without the prefix 'judge.'."""
        return {
            name.removeprefix(BODY_PREFIX): each for name, each in self.tensors.items() if name.startswith(BODY_PREFIX)
        }

    @property
    def map_shape(self) -> tuple[int, ...]:
        """[channels, height, width] of the maps that a conv head takes; empty for all others."""
        return tuple(self.spec["shape"]) if self.spec["kind"] == "conv" else ()

    def check_stored(self) -> Head:
        """Return the head; raises ValueError where stored indices are out of range."""
        check_indices(self.spec, self.tensors)
        return self

    def with_standardisation(self, mean: NDArray[np.floating], scale: NDArray[np.floating]) -> Head:
        """Return the head with the mean [d] and the scale [d], one over the spread, of the training features.

        A conv head has one mean and one scale for each channel.
        """
        if self.map_shape:
            mean, variance = mean.reshape(self.map_shape), scale.reshape(self.map_shape) ** -2.0
            centre = mean.mean((1, 2), keepdims=True)
            scale = (variance + (mean - centre) ** 2).mean((1, 2), keepdims=True) ** -0.5
            mean = centre
        return self.with_tensors({"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)})

    def with_tensors(self, changed: Mapping[str, NDArray[np.generic]]) -> Head:
        """Return the head with some tensors replaced."""
        return replace(self, tensors={**self.tensors, **changed})

    @property
    def last_layer(self) -> str | None:
        """The name of the last layer without .weight and .bias; None where it is not linear."""
        if self.spec["kind"] in ("knn", "forest"):
            return None
        place = f".{max(dense_layers(self.spec, self.spec['width']))}" if self.spec["kind"] != "linear" else ""
        return f"judge{place}"

    def centre_logits(self) -> Head | None:
        """Return the head with logits that sum to 0 for every image; None where the last layer is not linear.

        Softmax ignores what all logits share. Class-wise calibration does not: it multiplies each logit, and is fitted
        on out-of-fold logits, which share another offset.
        """
        if self.last_layer is None:
            return None
        names = f"{self.last_layer}.weight", f"{self.last_layer}.bias"
        return self.with_tensors({name: _subtract_mean(self.tensors[name]) for name in names})


def zero_tensors(spec: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
    """Return the tensors of an untrained head: all 0, and 1 as the scale."""
    found = {name: np.zeros(shape, kind) for name, (kind, shape) in tensor_shapes(spec).items()}
    return found | {"scale": np.ones_like(found["scale"])}


def _subtract_mean(tensor: NDArray[Any]) -> NDArray[np.float32]:
    return (tensor - tensor.mean(axis=0)).astype(np.float32)
