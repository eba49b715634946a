"""Safety checks of an untrusted ONNX file, before any of it runs.

An image network runs the same ONNX operators for every image, on tensors of known sizes. Everything else is refused:
data in other files, custom operators, functions, loops and branches, weights that are declared and missing, and
constants or maps that fill the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOMAINS = ("", "ai.onnx")
CONTROL_FLOW_OPS = ("If", "Loop", "Scan", "SequenceMap")
RANDOM_OPS = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
MAX_DEPTH = 20  # graphs inside graphs
MAX_FOLDED_SIZE = 4096  # numbers of a constant that is folded to infer the sizes that follow from it
MAX_FOLD_ROUNDS = 128  # a block of a transformer takes one, as its sizes follow from those before it
MAX_VALUE_BYTES, MAX_TOTAL_BYTES = 1 << 29, 1 << 34  # for one image: of one value, and of all values together
MAX_CONSTANT_BYTES = 1 << 30  # of the values that do not depend on the image
FOLDABLE_OPS = {
    *("Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Range", "Reshape", "Shape", "Size"),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "Flatten"),
    *("Abs", "Add", "And", "Ceil", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
    *("Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "ReduceProd", "ReduceSum", "Round", "Sqrt", "Sub"),
}


class UnsafeModelError(ValueError):
    """The reason why a file is refused."""


def check(model: Any) -> None:
    """Raise UnsafeModelError unless the onnx.ModelProto is safe to run; its first dimensions may be free."""
    if model.functions:
        names = ", ".join(f"{each.domain}.{each.name}"[:80] for each in model.functions[:3])
        raise UnsafeModelError(
            f"it holds functions ({names}), and operators alone are legal; onnx.inliner puts them in place"
        )
    others = sorted({each.domain for each in model.opset_import} - set(DOMAINS))
    _check_graph(model.graph, opset_version(model))
    if others:
        raise UnsafeModelError(
            f"it asks for operators of {', '.join(map(repr, others[:3]))}; legal are ONNX's own (ai.onnx)"
        )
    _check_sizes(model)


def opset_version(model: Any) -> int:
    """Return the opset version of ONNX's own operators in a model."""
    return next((each.version for each in model.opset_import if each.domain in DOMAINS), 1)


def _check_graph(graph: Any, opset: int, depth: int = 0) -> None:
    import onnx

    if depth > MAX_DEPTH:
        raise UnsafeModelError(f"it has graphs inside graphs, more than {MAX_DEPTH} deep")
    if graph.sparse_initializer:
        raise UnsafeModelError("it holds sparse weights; legal are dense ones")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for node in graph.node:
        _check_node(node, opset, depth)
    for node in graph.node:  # after the graphs inside them
        where = _describe_node(node)
        if node.op_type in CONTROL_FLOW_OPS:
            raise UnsafeModelError(
                f"{where} runs other steps for other images, perhaps without end; legal is one way for all"
            )
        if node.op_type in RANDOM_OPS:
            raise UnsafeModelError(
                f"{where} draws random numbers; legal is what gives an image the same numbers every time"
            )
        if not onnx.defs.has(node.op_type, opset):
            raise UnsafeModelError(f"{where} is no operator of ONNX's opset {opset}")


def _check_node(node: Any, opset: int, depth: int) -> None:
    if node.domain not in DOMAINS:
        raise UnsafeModelError(
            f"{_describe_node(node)} is an operator of '{node.domain[:80]}'; legal are ONNX's own (ai.onnx)"
        )
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise UnsafeModelError(f"{_describe_node(node)} holds sparse numbers; legal are dense ones")
        for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
            _check_tensor(tensor)
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            _check_graph(inner, opset, depth + 1)


def _check_tensor(tensor: Any) -> None:
    """Raise UnsafeModelError unless the file holds exactly the numbers that the tensor declares."""
    import onnx

    name = repr(tensor.name[:80])
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise UnsafeModelError(f"the numbers of {name} are in another file; legal is one file with all inside")
    if tensor.HasField("segment"):
        raise UnsafeModelError(f"{name} is one of several pieces; legal is a whole")
    if any(each < 0 for each in tensor.dims):
        raise UnsafeModelError(f"{name} has the shape {list(tensor.dims)[:8]}")
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    held = sum(len(getattr(tensor, field)) for field in fields)
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        held, count = len(tensor.raw_data), count * _item_size(tensor.data_type, name)
    if held != count:
        raise UnsafeModelError(
            f"{name} announces the shape {list(tensor.dims)[:8]}, and the file does not hold so many numbers"
        )


def _item_size(kind: int, name: str = "a value") -> int:
    """Return the bytes of a number of this type. Raises UnsafeModelError for types that image networks do not use."""
    import onnx

    whole = {onnx.TensorProto.STRING, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
    try:
        found = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        found = None
    if found is None or kind in whole or kind > onnx.TensorProto.BFLOAT16:
        raise UnsafeModelError(f"{name} is of a type that no network for images has ({kind})")
    return found.itemsize


def _describe_node(node: Any) -> str:
    return f"{node.op_type[:80]} (node '{(node.name or ', '.join(node.output))[:80]}')"


def _check_sizes(model: Any) -> None:
    """Raise UnsafeModelError unless the sizes of all values for one image are known and fit into memory."""
    made = {name: node for node in model.graph.node for name in node.output if name}
    for name, shape, kind in (sizes := _SizeInference(model)).infer_values():
        if shape is None:
            raise UnsafeModelError(
                f"how large the output of {_describe_node(made[name])} becomes cannot be known before it runs; "
                "legal are sizes that do not depend on what an image shows, on a square image of a fixed size"
            )
        size = math.prod(shape) * _item_size(kind, repr(name[:80]))
        sizes.total_bytes += size
        sizes.constant_bytes += size if name in sizes.constant_names else 0
        if size > MAX_VALUE_BYTES or sizes.total_bytes > MAX_TOTAL_BYTES or sizes.constant_bytes > MAX_CONSTANT_BYTES:
            raise UnsafeModelError(
                f"{_describe_node(made[name])} makes {list(shape)[:8]} numbers of one image; that fills the memory"
            )


class _SizeInference:
    """Infer the sizes of all values for one image, without the large weights; small constants are folded."""

    def __init__(self, model: Any) -> None:
        import onnx

        self.model = onnx.ModelProto(ir_version=8, opset_import=model.opset_import)
        graph = self.model.graph
        graph.name = "sizes"
        graph.node.extend(model.graph.node)
        known = {each.name for each in model.graph.initializer}
        for each in model.graph.input:
            if each.name not in known:
                graph.input.append(each)
                first = graph.input[-1].type.tensor_type.shape.dim
                if first and not first[0].HasField("dim_value"):
                    first[0].dim_value = 1
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(each.name) for each in model.graph.output)
        self.known_values: dict[str, NDArray[Any]] = {}
        for each in model.graph.initializer:
            if math.prod(each.dims) <= MAX_FOLDED_SIZE:
                self.known_values[each.name] = onnx.numpy_helper.to_array(each)
                graph.initializer.append(each)
            else:
                graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims))
        self.constant_names = set(known)  # and all values that depend on nothing else
        self.total_bytes = self.constant_bytes = 0
        for node in graph.node:
            if all(name in self.constant_names for name in node.input if name):
                self.constant_names.update(node.output)

    def infer_values(self) -> Iterator[tuple[str, tuple[int, ...] | None, int]]:
        """Yield the name, shape (None: unknown) and type of every output of a node."""
        shapes = self._infer_shapes()
        for _ in range(MAX_FOLD_ROUNDS):
            if not self._fold(shapes):
                break
            shapes = self._infer_shapes()
        for node in self.model.graph.node:
            for name in filter(None, node.output):
                yield (name, *shapes.get(name, (None, 1)))

    def _infer_shapes(self) -> dict[str, tuple[tuple[int, ...] | None, int]]:
        import onnx

        try:
            # Without data_prop, which would expand a Range of any length; `_fold` does that for small values.
            graph = onnx.shape_inference.infer_shapes(self.model).graph
        except Exception as fault:
            raise UnsafeModelError(
                f"its shapes do not fit each other: {str(fault).partition(chr(10))[0][:200]}"
            ) from fault
        found = {}
        for each in [*graph.value_info, *graph.input, *graph.output]:
            kind = each.type.tensor_type
            dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
            whole = None if not kind.HasField("shape") or None in dims else tuple(dims)
            found[each.name] = (whole, kind.elem_type)
        for name, value in self.known_values.items():
            found[name] = (value.shape, onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
        return found

    def _fold(self, shapes: dict[str, tuple[tuple[int, ...] | None, int]]) -> bool:
        """Fold nodes whose inputs are known small values; return whether there was any."""
        import onnx

        nodes, found = list(self.model.graph.node), False
        for node in nodes:
            if node.op_type == "Constant" and node.output[0] not in self.known_values:
                value = _read_constant(node)
            elif node.op_type not in FOLDABLE_OPS or node.output[0] in self.known_values or len(node.output) != 1:
                continue
            else:
                value = self._evaluate_node(node, shapes)
            if value is not None:
                self.known_values[node.output[0]], found = value, True
                node.CopyFrom(
                    onnx.helper.make_node(
                        *("Constant", [], [node.output[0]], node.name), value=onnx.numpy_helper.from_array(value)
                    )
                )
        return found

    def _evaluate_node(self, node: Any, shapes: dict[str, tuple[tuple[int, ...] | None, int]]) -> NDArray[Any] | None:
        from onnx.reference import ReferenceEvaluator

        given = [name for name in node.input if name]
        if node.op_type in ("Shape", "Size"):
            shape = shapes.get(node.input[0], (None, 1))[0]
            if shape is None:
                return None
            if node.op_type == "Size":
                return np.array(math.prod(shape), np.int64)
            ends = {each.name: each.i for each in node.attribute}
            return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)
        if not all(name in self.known_values for name in given) or self._max_output_size(node) > MAX_FOLDED_SIZE:
            return None
        try:
            with np.errstate(all="ignore"):
                evaluator = ReferenceEvaluator(node, opsets={"": opset_version(self.model)})
                values: Any = evaluator.run(None, {name: self.known_values[name] for name in given})
        except Exception as fault:  # numpy and the evaluator raise anything
            raise UnsafeModelError(f"{_describe_node(node)} cannot be worked out: {str(fault)[:100]}") from fault
        return np.asarray(values[0])

    def _max_output_size(self, node: Any) -> int:
        """Return an upper bound of the numbers that the node outputs; in Python integers, which cannot overflow."""
        given = [self.known_values[name] for name in node.input if name]
        if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
            factors = [abs(int(each)) for each in given[-1].reshape(-1)]
            return math.prod(max(each, 1) for each in factors) * max(1, given[0].size if len(given) > 1 else 1)
        if node.op_type == "Range":
            first, limit, step = (float(each.reshape(-1)[0]) for each in given)
            return int(min(abs(limit - first) / max(abs(step), 1e-9), 2.0**62)) + 1
        if node.op_type == "Concat":
            return sum(each.size for each in given)
        return math.prod(max(each.size, 1) for each in given)


def _read_constant(node: Any) -> NDArray[Any] | None:
    """Return the value of a Constant node, if it is small; its tensor has been checked."""
    import onnx

    for each in node.attribute:
        if each.name == "value":
            return onnx.numpy_helper.to_array(each.t) if math.prod(each.t.dims) <= MAX_FOLDED_SIZE else None
        if each.name in ("value_int", "value_ints", "value_float", "value_floats"):
            value = np.asarray(onnx.helper.get_attribute_value(each), np.int64 if "int" in each.name else np.float32)
            return value if value.size <= MAX_FOLDED_SIZE else None
    return None
