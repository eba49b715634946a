"""A head as arrays: from features to logits, without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import forked
from graft.heads.checks import check_places, check_spec, check_tensors, dense, shapes
from graft.heads.nodes import OPSET, nodes

FEATURES, LOGITS, JUDGE = "features", "logits", "judge."


@dataclass(frozen=True, eq=False)
class Head:
    """Standardise features [n, d], then judge them: logits [n, classes].

    `spec` says what the head is made of, `tensors` are its numbers, by the names that PyTorch gives them. A conv head
    takes maps [n, c, h, w] flattened to [n, c*h*w].

    Raises ValueError for a spec that cannot be, and for tensors that are not those of the spec.
    """

    spec: dict[str, Any]
    tensors: Mapping[str, NDArray[np.generic]]

    def __post_init__(self) -> None:
        check_spec(self.spec)
        check_tensors(self.spec, self.tensors)
        whole = {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()}
        object.__setattr__(self, "tensors", whole)  # in one piece, as files and runtimes want them

    def __repr__(self) -> str:
        return f"<Head: {self.spec['kind']}, {self.spec['width']:,} features to {self.spec['classes']:,} classes>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Head, (self.spec, dict(self.tensors))  # an open session cannot be copied

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """The logits [n, classes] of features [n, d]."""
        if not len(features):
            return np.zeros((0, self.spec["classes"]), np.float32)
        if self.spec["kind"] == "linear" and "pca" not in self.spec:
            return self._linear(np.asarray(features, np.float32))
        given = {FEATURES: np.ascontiguousarray(features, np.float32)}
        return self._session.run([LOGITS], given | dict(self.tensors))[0]

    def _linear(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The commonest head without onnx, which takes as long to import as all else that an answer takes."""
        names = "mean", "scale", "judge.weight", "judge.bias"
        mean, scale, weight, bias = (np.float32(self.tensors[name]) for name in names)
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number stays none
            return np.asarray((features - mean) * scale @ weight.T + bias, np.float32)

    def judged(self, standardised: NDArray[np.floating]) -> NDArray[np.float32]:
        """The logits [n, classes] of features that have been standardised already."""
        mean, scale = self.tensors["mean"], self.tensors["scale"]
        return self.with_tensors({"mean": np.zeros_like(mean), "scale": np.ones_like(scale)})(standardised)

    @cached_property
    def _session(self) -> Any:
        """The tensors are inputs: so they are kept once, and not copied into a model."""
        import onnxruntime
        from onnx import TensorProto, helper

        kinds = {np.float32: TensorProto.FLOAT, np.int32: TensorProto.INT32, np.int64: TensorProto.INT64}
        inputs = [helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, ["n", self.spec["width"]])]
        for name, (kind, shape) in shapes(self.spec).items():
            inputs.append(helper.make_tensor_value_info(name, kinds[kind], shape))
        output = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["n", self.spec["classes"]])
        graph = helper.make_graph(nodes(self.spec, FEATURES, LOGITS, ""), "head", inputs, [output])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        forked.tell(self)
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def forked(self) -> None:
        """In the child of a fork: a session of its own."""
        if session := vars(self).pop("_session", None):
            forked.left(session)

    @property
    def judge(self) -> dict[str, NDArray[np.generic]]:
        """The tensors of what comes after standardising, without 'judge.' before their names."""
        return {name.removeprefix(JUDGE): each for name, each in self.tensors.items() if name.startswith(JUDGE)}

    @property
    def map(self) -> tuple[int, ...]:
        """[channels, height, width] of the maps that a conv head takes; empty for all others."""
        return tuple(self.spec["shape"]) if self.spec["kind"] == "conv" else ()

    def checked(self) -> Head:
        """The same head; raises ValueError where stored numbers say places that are not there."""
        check_places(self.spec, self.tensors)
        return self

    def standardising(self, mean: NDArray[np.floating], scale: NDArray[np.floating]) -> Head:
        """The same with the mean [d] and the scale [d], one over the spread, of the training features in front.

        A conv head standardises each channel as one.
        """
        if self.map:
            mean, variance = mean.reshape(self.map), scale.reshape(self.map) ** -2.0
            centre = mean.mean((1, 2), keepdims=True)
            scale = (variance + (mean - centre) ** 2).mean((1, 2), keepdims=True) ** -0.5
            mean = centre
        return self.with_tensors({"mean": mean.astype(np.float32), "scale": scale.astype(np.float32)})

    def with_tensors(self, changed: Mapping[str, NDArray[np.generic]]) -> Head:
        """The same with some other tensors."""
        return replace(self, tensors={**self.tensors, **changed})

    @property
    def last(self) -> str | None:
        """The name of the last layer where it is linear, without its .weight and .bias; else None."""
        if self.spec["kind"] in ("knn", "forest"):
            return None
        place = f".{max(dense(self.spec, self.spec['width']))}" if self.spec["kind"] != "linear" else ""
        return f"judge{place}"

    def centred(self) -> Head | None:
        """The same with logits that sum to 0 for every image; None where the last layer is not linear.

        Softmax does not see what all logits share. Class-wise calibration does: it multiplies each logit, and is
        found on logits of another fit, whose common part is another.
        """
        if self.last is None:
            return None
        names = f"{self.last}.weight", f"{self.last}.bias"
        return self.with_tensors({name: _centred(self.tensors[name]) for name in names})


def blank(spec: Mapping[str, Any]) -> dict[str, NDArray[np.generic]]:
    """The tensors of a head that does nothing yet: 0, and 1 as the scale."""
    found = {name: np.zeros(shape, kind) for name, (kind, shape) in shapes(spec).items()}
    return found | {"scale": np.ones_like(found["scale"])}


def _centred(tensor: NDArray[Any]) -> NDArray[np.float32]:
    return (tensor - tensor.mean(axis=0)).astype(np.float32)
