"""Load an `.onnx` file of the user as a graph, checked before it runs.

- One input: images, [n, 3, S, S] with n free and S a number; uint8, which gets raw pixels, or float32, which gets
  them normalised: (pixel / 255 - mean) / std. Channels last, [n, S, S, 3], is not read.
- Outputs of float32: the one named, or the last, holds the features. [n, d] are used as they are; a map [n, c, h, w]
  and tokens [n, t, c] are averaged. The outputs before it are stages, by their names; there are no other stages.
- Whatever `inspection` refuses is not run: one file with all weights inside, of ONNX's own operators.

The file does not say how images are resized; the caller does, with mean and standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import inspection
from graft.backbones.graph import (
    LAST,
    MAP,
    POOLED,
    PREPARED,
    TOP,
    Graph,
    Stage,
    open_session,
    prune_graph,
    required_tensors,
    split_weights,
)
from graft.errors import ModelError, WeightsError
from graft_runtime import safe_files

OPSET, IR = 20, 10
MAX_FILE_BYTES = (1 << 31) - 1  # bytes: protobuf reads no more
MIN_EXTERNAL_SIZE = 1024  # numbers of a tensor from which on it is kept outside the structure
TOLERANCE = 1e-4  # between the outputs of the file and of the graph, relative to the largest feature
NAME_PREFIX = "net/"  # before every name in the file, so that none collides with those of graft

Triple = tuple[float, float, float]


def load_onnx(
    path: Path,
    output: str = "",
    mean: Triple = (0.485, 0.456, 0.406),
    std: Triple = (0.229, 0.224, 0.225),
) -> tuple[Graph, int]:
    """Load the network in the file; return its graph and the side of its images in pixels.

    Raises WeightsError that says what is wrong with the file, and what is legal.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(safe_files.read_limited(path, MAX_FILE_BYTES))
        if not model.graph.node:
            raise inspection.UnsafeModelError("it holds no graph")
        images, size = _find_input(model)
        chosen = _select_outputs(model, output)
        inspection.check(model)
        graph = _build_graph(model, images, size, chosen, (mean, std))
        _check_same(model, images, chosen[-1], graph, (mean, std), size)
    except DecodeError as fault:
        raise WeightsError(f"{path} is no ONNX file, or not all of it is there.") from fault
    except inspection.UnsafeModelError as fault:
        raise WeightsError(f"{path} cannot be used as a network: {fault}.") from fault
    except OSError as fault:
        raise WeightsError(f"Cannot read {path}: {fault.strerror}.") from fault
    except Exception as fault:  # hostile or truncated bytes make the readers raise anything
        reason = str(fault).strip().partition("\n")[0][:300]
        raise WeightsError(f"{path} cannot be used as a network: {type(fault).__name__}: {reason}") from fault
    return graph, size


def _find_input(model: Any) -> tuple[Any, int]:
    """Return the input for images, and their side in pixels."""
    import onnx

    held = {each.name for each in model.graph.initializer}
    inputs = [each for each in model.graph.input if each.name not in held]
    legal = "legal is one input, float32 or uint8 [n, 3, S, S], with n free and S a number"
    if len(inputs) != 1:
        raise inspection.UnsafeModelError(f"it has {len(inputs)} inputs; {legal}")
    kind = inputs[0].type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    words = f"its input '{inputs[0].name[:80]}' is {_type_name(kind.elem_type)} {dims[:8]}".replace("'", "")
    if kind.elem_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8):
        raise inspection.UnsafeModelError(f"{words}; {legal}")
    if len(dims) == 4 and dims[3] == 3 and dims[1] != 3:
        raise inspection.UnsafeModelError(f"{words}, with the channels last; {legal}")
    if len(dims) != 4 or dims[1] != 3 or not isinstance(dims[2], int) or dims[2] != dims[3] or not 0 < dims[2] < 4096:
        raise inspection.UnsafeModelError(f"{words}; {legal}")
    if isinstance(dims[0], int):
        raise inspection.UnsafeModelError(
            f"{words}, for {dims[0]} images at a time; {legal}: export it with a free batch size"
        )
    return inputs[0], dims[2]


def _type_name(number: int) -> str:
    import onnx

    return onnx.TensorProto.DataType.Name(number).lower() if number in onnx.TensorProto.DataType.values() else "?"


def _select_outputs(model: Any, output: str) -> list[str]:
    """Return the outputs up to the requested one."""
    names = [each.name for each in model.graph.output]
    if not names or (output and output not in names):
        there = ", ".join(name[:80] for name in names[:20]) or "none"
        raise inspection.UnsafeModelError(f"it has no output '{output[:80]}'; there are {there}")
    return names[: names.index(output) + 1] if output else names


def _build_graph(model: Any, images: Any, size: int, outputs: list[str], norm: tuple[Triple, Triple]) -> Graph:
    """Build the graph: graft's input and outputs around the nodes of the file."""
    from onnx import TensorProto, compose, helper, version_converter

    newer = model if inspection.opset_version(model) == OPSET else version_converter.convert_version(model, OPSET)
    inner = compose.add_prefix(newer, NAME_PREFIX).graph
    shapes = _measure_shapes(model, images, outputs, size)
    first, constants = _input_nodes(images, norm)
    last, made = _output_nodes(outputs, shapes)
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in made]
    given = helper.make_tensor_value_info(PREPARED, TensorProto.UINT8, ["n", 3, size, size])
    whole = helper.make_graph([*first, *inner.node, *last], "foreign", [given], infos, [*inner.initializer, *constants])
    bare = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    large = [each.name for each in inner.initializer if math.prod(each.dims) >= MIN_EXTERNAL_SIZE]
    structure, tensors = split_weights(bare, large)
    graph = Graph(structure, tensors, (), top_is_average=len(shapes[-1]) == 3)
    return prune_graph(
        Graph(structure, tensors, _build_stages(graph, outputs, shapes), graph.top_is_average),
        [name for name, _ in made],
    )


def _input_nodes(images: Any, norm: tuple[Triple, Triple]) -> tuple[list[Any], list[Any]]:
    """Return the nodes from graft's input to the file's, Identity or normalisation, and their constants."""
    from onnx import TensorProto, helper, numpy_helper

    name = NAME_PREFIX + images.name
    if images.type.tensor_type.elem_type == TensorProto.UINT8:
        return [helper.make_node("Identity", [PREPARED], [name])], []
    nodes = [
        helper.make_node("Cast", [PREPARED], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], [name]),
    ]
    values = [np.asarray(np.multiply(each, 255), np.float32).reshape(1, 3, 1, 1) for each in norm]
    return nodes, [numpy_helper.from_array(*each) for each in zip(values, ("mean", "deviation"), strict=True)]


def _output_nodes(
    outputs: list[str], shapes: list[tuple[int, ...]]
) -> tuple[list[Any], list[tuple[str, tuple[int, ...]]]]:
    """Return the nodes from the file's outputs to graft's, and graft's outputs with their shapes without n."""
    from onnx import helper

    nodes, made = [], []
    for name, shape in zip(outputs, shapes, strict=True):
        value = NAME_PREFIX + name
        if len(shape) == 1:
            nodes.append(helper.make_node("Identity", [value], [POOLED + name]))
        else:
            if len(shape) == 2:  # tokens: the channels come last
                nodes.append(helper.make_node("Transpose", [value], [f"{name}/turned"], perm=[0, 2, 1]))
            else:
                nodes.append(helper.make_node("Identity", [value], [MAP + name]))
                made.append((MAP + name, shape))
            rows = f"{name}/turned" if len(shape) == 2 else value
            nodes.append(helper.make_node("GlobalAveragePool", [rows], [f"{name}/average"]))
            nodes.append(helper.make_node("Flatten", [f"{name}/average"], [POOLED + name]))
        made.append((POOLED + name, (shape[1] if len(shape) == 2 else shape[0],)))
    nodes.append(helper.make_node("Identity", [POOLED + outputs[-1]], [TOP]))
    made.append((TOP, made[-1][1]))
    maps = [each for each in made if each[0].startswith(MAP)]
    if maps:
        nodes.append(helper.make_node("Identity", [maps[-1][0]], [LAST]))
        made.append((LAST, maps[-1][1]))
    return nodes, made


def _measure_shapes(model: Any, images: Any, outputs: list[str], size: int) -> list[tuple[int, ...]]:
    """Return the shape of each output for one image, found by running two; n must be the first dimension."""
    found = []
    for name, value in zip(outputs, _run_model(model, images, outputs, _random_images(size)), strict=True):
        if value.dtype != np.float32 or value.ndim not in (2, 3, 4) or value.shape[0] != 2 or 0 in value.shape:
            raise inspection.UnsafeModelError(
                f"its output '{name[:80]}' is {value.dtype} {list(value.shape)[:8]} for two images; legal are "
                "float32 [2, d], [2, t, c] and [2, c, h, w]"
            )
        if not np.isfinite(value).all():
            raise inspection.UnsafeModelError(f"its output '{name[:80]}' is not a number for some images")
        found.append(value.shape[1:])
    return found


def _build_stages(graph: Graph, outputs: list[str], shapes: list[tuple[int, ...]]) -> tuple[Stage, ...]:
    """Return each output as a stage, with the number of weights that no earlier one needs."""
    stages, counted = [], set()
    for name, shape in zip(outputs, shapes, strict=True):
        needed = required_tensors(prune_graph(graph, [POOLED + name]))
        stages.append(Stage(name, shape, sum(each.size for own, each in needed.items() if own not in counted)))
        counted.update(needed)
    return tuple(stages)


def _random_images(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8)


def _run_model(model: Any, images: Any, outputs: Sequence[str], given: NDArray[Any]) -> list[NDArray[Any]]:
    """Run the file unchanged."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # an error comes as an exception
    options.intra_op_num_threads = 1
    where = ["CPUExecutionProvider"]
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, where, enable_fallback=0)
    kind = np.uint8 if "uint8" in opened.get_inputs()[0].type else np.float32
    return [np.asarray(each) for each in opened.run(list(outputs), {images.name: given.astype(kind)})]


def _check_same(model: Any, images: Any, output: str, graph: Graph, norm: tuple[Triple, Triple], size: int) -> None:
    """Raise ModelError where the outputs of the graph, in OPSET, differ from those of the file."""
    given: NDArray[Any] = _random_images(size)
    got = open_session(graph, threads=1).run(given, [TOP])[0]
    if "mean" in [each.name for each in _input_nodes(images, norm)[1]]:
        mean, std = (np.multiply(each, 255).reshape(1, 3, 1, 1) for each in norm)
        given = (given - mean) / std
    want = _run_model(model, images, [output], given)[0]
    want = want.mean((2, 3)) if want.ndim == 4 else want.mean(1) if want.ndim == 3 else want
    if np.abs(got - want).max() > TOLERANCE * max(np.abs(want).max(), 1e-6):
        raise ModelError(f"it answers differently in opset {OPSET}; export it with this opset")
