"""Whether an ONNX file of a stranger may be run: looked into before any of it runs.

A network that looks at images takes the same steps for each, of ONNX's own operators, on tensors whose sizes are known
beforehand. Whatever else a file may hold is refused: data in other files, operators that somebody would have to
install, functions, loops and branches, weights that are announced and not there, and constants or maps that fill the
memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

DOMAINS = ("", "ai.onnx")
NESTED = ("If", "Loop", "Scan", "SequenceMap")
DRAWN = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
DEEPEST = 20  # graphs inside graphs
SMALL = 4096  # numbers: what is worked out here to learn the sizes of what follows from it
ROUNDS = 12
ONE, ALL, FIXED = 1 << 29, 1 << 34, 1 << 30  # bytes for one image: of one value, of all, of those before any image
FOLDED = {
    *("Cast", "Concat", "ConstantOfShape", "Expand", "Gather", "Identity", "Range", "Reshape", "Shape", "Size"),
    *("Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "Flatten"),
    *("Abs", "Add", "And", "Ceil", "Div", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max"),
    *("Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "ReduceProd", "ReduceSum", "Round", "Sqrt", "Sub"),
}


class Refused(ValueError):
    """Why a file is not run."""


def check(model: Any) -> None:
    """Raises Refused unless the onnx.ModelProto may be run; its first dimensions may be free."""
    if model.functions:
        names = ", ".join(f"{each.domain}.{each.name}"[:80] for each in model.functions[:3])
        raise Refused(f"it holds functions ({names}), and operators alone are legal; onnx.inliner puts them in place")
    others = sorted({each.domain for each in model.opset_import} - set(DOMAINS))
    _check_graph(model.graph, _opset(model))
    if others:
        raise Refused(f"it asks for operators of {', '.join(map(repr, others[:3]))}; legal are ONNX's own (ai.onnx)")
    _check_sizes(model)


def _opset(model: Any) -> int:
    return next((each.version for each in model.opset_import if each.domain in DOMAINS), 1)


def _check_graph(graph: Any, opset: int, depth: int = 0) -> None:
    import onnx

    if depth > DEEPEST:
        raise Refused(f"it has graphs inside graphs, more than {DEEPEST} deep")
    if graph.sparse_initializer:
        raise Refused("it holds sparse weights; legal are dense ones")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for node in graph.node:
        _check_node(node, opset, depth)
    for node in graph.node:  # after all that is inside of them
        where = _where(node)
        if node.op_type in NESTED:
            raise Refused(f"{where} runs other steps for other images, perhaps without end; legal is one way for all")
        if node.op_type in DRAWN:
            raise Refused(f"{where} draws random numbers; legal is what gives an image the same numbers every time")
        if not onnx.defs.has(node.op_type, opset):
            raise Refused(f"{where} is no operator of ONNX's opset {opset}")


def _check_node(node: Any, opset: int, depth: int) -> None:
    if node.domain not in DOMAINS:
        raise Refused(f"{_where(node)} is an operator of '{node.domain[:80]}'; legal are ONNX's own (ai.onnx)")
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
            raise Refused(f"{_where(node)} holds sparse numbers; legal are dense ones")
        for tensor in [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]:
            _check_tensor(tensor)
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            _check_graph(inner, opset, depth + 1)


def _check_tensor(tensor: Any) -> None:
    """Whether all of its numbers are in the file, and no others."""
    import onnx

    name = repr(tensor.name[:80])
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise Refused(f"the numbers of {name} are in another file; legal is one file with all inside")
    if tensor.HasField("segment"):
        raise Refused(f"{name} is one of several pieces; legal is a whole")
    if any(each < 0 for each in tensor.dims):
        raise Refused(f"{name} has the shape {list(tensor.dims)[:8]}")
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    there = sum(len(getattr(tensor, field)) for field in fields)
    count = math.prod(tensor.dims)
    if tensor.HasField("raw_data"):
        there, count = len(tensor.raw_data), count * _item(tensor.data_type, name)
    if there != count:
        raise Refused(f"{name} announces the shape {list(tensor.dims)[:8]}, and the file does not hold so many numbers")


def _item(kind: int, name: str = "a value") -> int:
    """How many bytes a number of this type takes."""
    import onnx

    whole = {onnx.TensorProto.STRING, onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
    try:
        found = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        found = None
    if found is None or kind in whole or kind > onnx.TensorProto.BFLOAT16:
        raise Refused(f"{name} is of a type that no network for images has ({kind})")
    return found.itemsize


def _where(node: Any) -> str:
    return f"{node.op_type[:80]} (node '{(node.name or ', '.join(node.output))[:80]}')"


def _check_sizes(model: Any) -> None:
    """Whether the sizes of all values are known for one image, and fit into memory."""
    made = {name: node for node in model.graph.node for name in node.output if name}
    for name, shape, kind in (sizes := _Sizes(model)).values():
        if shape is None:
            raise Refused(
                f"how large the output of {_where(made[name])} becomes cannot be known before it runs; legal are sizes "
                "that do not depend on what an image shows, on a square image of a fixed size"
            )
        size = math.prod(shape) * _item(kind, repr(name[:80]))
        sizes.all += size
        sizes.fixed += size if name in sizes.constant else 0
        if size > ONE or sizes.all > ALL or sizes.fixed > FIXED:
            raise Refused(f"{_where(made[name])} makes {list(shape)[:8]} numbers of one image; that fills the memory")


class _Sizes:
    """The model without its large weights, for one image; small constants are worked out for the sizes they give."""

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
        self.known: dict[str, NDArray[Any]] = {}
        for each in model.graph.initializer:
            if math.prod(each.dims) <= SMALL:
                self.known[each.name] = onnx.numpy_helper.to_array(each)
                graph.initializer.append(each)
            else:
                graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, each.dims))
        self.constant = set(known)  # grows by what depends on nothing else
        self.all = self.fixed = 0
        for node in graph.node:
            if all(name in self.constant for name in node.input if name):
                self.constant.update(node.output)

    def values(self) -> Iterator[tuple[str, tuple[int, ...] | None, int]]:
        """Every value that a node makes: its name, shape (None: unknown) and type."""
        shapes = self._inferred()
        for _ in range(ROUNDS):
            if not self._fold(shapes):
                break
            shapes = self._inferred()
        for node in self.model.graph.node:
            for name in filter(None, node.output):
                yield (name, *shapes.get(name, (None, 1)))

    def _inferred(self) -> dict[str, tuple[tuple[int, ...] | None, int]]:
        import onnx

        try:
            graph = onnx.shape_inference.infer_shapes(self.model, data_prop=True).graph
        except Exception as fault:
            raise Refused(f"its shapes do not fit each other: {str(fault).partition(chr(10))[0][:200]}") from fault
        found = {}
        for each in [*graph.value_info, *graph.input, *graph.output]:
            kind = each.type.tensor_type
            dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
            whole = None if not kind.HasField("shape") or None in dims else tuple(dims)
            found[each.name] = (whole, kind.elem_type)
        for name, value in self.known.items():
            found[name] = (value.shape, onnx.helper.np_dtype_to_tensor_dtype(value.dtype))
        return found

    def _fold(self, shapes: dict[str, tuple[tuple[int, ...] | None, int]]) -> bool:
        """Work out what small values depend on nothing but small values; whether there was any."""
        import onnx

        nodes, found = list(self.model.graph.node), False
        for node in nodes:
            if node.op_type == "Constant" and node.output[0] not in self.known:
                value = _constant(node)
            elif node.op_type not in FOLDED or node.output[0] in self.known or len(node.output) != 1:
                continue
            else:
                value = self._worked_out(node, shapes)
            if value is not None:
                self.known[node.output[0]], found = value, True
                node.CopyFrom(
                    onnx.helper.make_node(
                        *("Constant", [], [node.output[0]], node.name), value=onnx.numpy_helper.from_array(value)
                    )
                )
        return found

    def _worked_out(self, node: Any, shapes: dict[str, tuple[tuple[int, ...] | None, int]]) -> NDArray[Any] | None:
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
        if not all(name in self.known for name in given) or self._made(node) > SMALL:
            return None
        try:
            with np.errstate(all="ignore"):
                evaluator = ReferenceEvaluator(node, opsets={"": _opset(self.model)})
                values: Any = evaluator.run(None, {name: self.known[name] for name in given})
        except Exception as fault:  # numpy and the evaluator raise anything
            raise Refused(f"{_where(node)} cannot be worked out: {str(fault)[:100]}") from fault
        return np.asarray(values[0])

    def _made(self, node: Any) -> int:
        """At most how many numbers the node makes of known values; whole numbers of Python's, that cannot overflow."""
        given = [self.known[name] for name in node.input if name]
        if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
            factors = [abs(int(each)) for each in given[-1].reshape(-1)]
            return math.prod(max(each, 1) for each in factors) * max(1, given[0].size if len(given) > 1 else 1)
        if node.op_type == "Range":
            first, limit, step = (float(each.reshape(-1)[0]) for each in given)
            return int(min(abs(limit - first) / max(abs(step), 1e-9), 2.0**62)) + 1
        if node.op_type == "Concat":
            return sum(each.size for each in given)
        return math.prod(max(each.size, 1) for each in given)


def _constant(node: Any) -> NDArray[Any] | None:
    """What a Constant node holds, if it is small; its tensor has been checked."""
    import onnx

    for each in node.attribute:
        if each.name == "value":
            return onnx.numpy_helper.to_array(each.t) if math.prod(each.t.dims) <= SMALL else None
        if each.name in ("value_int", "value_ints", "value_float", "value_floats"):
            value = np.asarray(onnx.helper.get_attribute_value(each), np.int64 if "int" in each.name else np.float32)
            return value if value.size <= SMALL else None
    return None
