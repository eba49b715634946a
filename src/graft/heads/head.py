"""The head of a classifier as NumPy arrays, and the problem that its solvers solve: features, labels and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import graph
from graft.backbones.graph import register
from graft.data import dataset as table
from graft.data.duplicates import FeatureRows, iterate_blocks, mean_and_std
from graft.heads.nodes import OPSET, build_nodes, check_indices, check_spec, check_tensors, dense_layers, tensor_shapes
from graft.metrics.ranking import mean_average_precision

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


# --- problems ---------------------------------------------------------------------------------------------------------

# Bytes of features that a solver may hold in memory; beyond it only ridge, which streams, applies.
MAX_FEATURE_BYTES = 1 << 30


@dataclass(frozen=True)
class StandardisedFeatures:
    """Features with mean 0 and the given scale, computed on access, so that no second copy is held."""

    features: FeatureRows
    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    columns: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return (self.features[rows][:, self.columns] - self.mean) * self.scale

    def drop_before(self, first: int) -> StandardisedFeatures:
        """Return the features without the columns before `first`."""
        return StandardisedFeatures(self.features, self.mean[first:], self.scale[first:], self.columns[first:])


def standardise_features(features: FeatureRows, widths: Sequence[int]) -> StandardisedFeatures:
    """Standardise the features of several layers; `widths` are those of the layers, the last one last.

    The earlier layers together get the same norm as the last, else the wider group would dominate the other
    (Evci et al. 2022, Head2Toe). bench/README.md has the gain in accuracy.
    """
    mean, spread = mean_and_std(features)
    early = sum(widths[:-1])
    weight = np.ones(sum(widths), np.float32)
    weight[:early] = np.sqrt(widths[-1] / max(early, 1))
    return StandardisedFeatures(features, mean, weight / spread, np.arange(sum(widths)))


@dataclass(frozen=True)
class Problem:
    """Standardised training features [n, d] with labels, groups and cross-validation folds.

    `groups` number the rows that must stay together: all views of an image and its near-duplicates. No group is split
    over several `folds`. `labels` are one class for each row [n], or 0 and 1 for each row and class [n, classes].
    """

    features: StandardisedFeatures
    labels: NDArray[np.integer]
    groups: NDArray[np.int64]
    folds: NDArray[np.int8]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        """The number of features."""
        return len(self.features.columns)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.labels.ndim == 2

    @cached_property
    def targets(self) -> NDArray[np.float32]:
        """The labels as a matrix [n, classes] of 0 and 1."""
        return table.label_matrix(self.labels, self.classes)

    @property
    def fits_in_memory(self) -> bool:
        """Whether all features fit in memory at once, as all solvers but ridge need."""
        return len(self) * self.width * 4 <= MAX_FEATURE_BYTES

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """All features [n, d] in memory."""
        matrix = np.empty((len(self), self.width), np.float32)
        for rows, block in iterate_blocks(self.features):
            matrix[rows] = block
        return matrix

    @cached_property
    def axes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(power [r], axes [d, r]): the principal axes of the features, and the squared length along each.

        Computed from the smaller Gram matrix, features by features or images by images.
        """
        if len(self) <= self.width:
            power, left = _eigendecompose(self.matrix @ self.matrix.T)
            return power, (self.matrix.T @ left) / np.sqrt(power)
        gram = np.zeros((self.width, self.width), np.float32)
        for _, block in iterate_blocks(self.features):
            gram += block.T @ block
        return _eigendecompose(gram)


def _eigendecompose(symmetric: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from scipy.linalg import eigh  # twice as fast as NumPy's, and here because it takes half a second to import

    values, vectors = eigh(symmetric, driver="evd")
    real = values > values[-1] * 1e-6  # below it float32 holds only rounding
    return values[real].astype(np.float64), vectors[:, real].astype(np.float64)


@dataclass(frozen=True)
class Solution:
    """A solved head with its out-of-fold logits [n, classes] on the training images.

    `strength` is the chosen penalty (or k of kNN); `loss` is the calibrated log-loss of the out-of-fold logits.
    """

    name: str
    strength: float
    head: Head
    logits: NDArray[np.float64]
    loss: float

    def accuracy(self, labels: NDArray[np.integer]) -> float:
        """Return the out-of-fold accuracy; with several labels, the share of right decisions over images and labels."""
        y_pred = self.logits.argmax(axis=1) if labels.ndim == 1 else self.logits > 0
        return float((y_pred == labels).mean())

    def metrics(self, labels: NDArray[np.integer]) -> dict[str, float]:
        """Return the out-of-fold metrics by name for a report; with several labels also mean average precision."""
        found = {"out_of_fold_loss": self.loss, "out_of_fold_accuracy": self.accuracy(labels)}
        if labels.ndim == 2:
            found["out_of_fold_mean_average_precision"] = mean_average_precision(self.logits, labels)
        return found
