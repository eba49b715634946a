"""A network as an ONNX graph with named outputs, run by ONNX Runtime without PyTorch.

The structure of the graph and its weights are separate: the structure is a small ONNX model whose weights are external
data, by their PyTorch names (`conv_stem.weight`), and the weights are arrays. So a saved classifier holds its weights
once, in model.safetensors, and both ONNX Runtime and PyTorch read them there.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from graft.backbones import wire
from graft.errors import ModelError
from graft_runtime import protobuf

PREPARED = "prepared"  # the input: uint8 [n, 3, size, size], resized and cropped, not normalised
TOP = "top"  # the output of the whole backbone, pooled: float32 [n, width]
POOLED = "pooled/"  # + a stage's name: its output averaged over space or tokens, float32 [n, channels]
LAST = "last"  # the last map of the network, float32 [n, channels, height, width]; not of every network
MAP = "map/"  # + a stage's name: its output as a map, float32 [n, channels, height, width]; not of every stage
CONSTANT = "constant/"  # + a name: a large tensor of the graph that is not among the network's weights in PyTorch
BATCH = 8  # small batches stay in the processor's cache (bench/README.md has the rates of others)
# A session also serves fewer outputs, if its structure is at most so many times as long as theirs alone.
MAX_SHARED_GROWTH = 1.05
FACTS_PROPERTY = "graft.graph"  # metadata property of a dumped structure


# --- Sessions and forks -----------------------------------------------------------------------------------------------


@runtime_checkable
class SessionOwner(Protocol):
    """An object that owns sessions."""

    def on_fork(self) -> None:
        """Drop the sessions in the child of a fork, after `keep_alive`."""
        ...


_OWNERS: WeakSet[SessionOwner] = WeakSet()


def register(thing: SessionOwner) -> None:
    """Call its `on_fork` after each fork, for as long as it lives."""
    _OWNERS.add(thing)


def keep_alive(session: Any) -> None:
    """Never destroy this session: its threads do not exist in the child of a fork."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _after_fork() -> None:
    for each in list(_OWNERS):
        each.on_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- Graphs and their sessions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One stage of the chain: its name in the backbone, the shape of its output, and its number of parameters."""

    name: str
    shape: tuple[int, ...]
    parameters: int


@runtime_checkable
class GraphRunner(Protocol):
    """Runs a graph; fastest with `batch` images at a time."""

    batch: int

    def open(self, outputs: Sequence[str]) -> object:
        """Prepare to run these outputs."""
        ...

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Return these outputs for any number of images, in this order."""
        ...


@dataclass(frozen=True, eq=False)
class Graph:
    """From uint8 images [n, 3, size, size] to outputs by name, any number n.

    `structure` is the ONNX model without its weights, `tensors` are these by name; there may be more of them than the
    structure needs, as PyTorch needs them all. `stages` is the chain, in the order of a forward pass. `top_is_average`
    says that TOP is LAST averaged over space: the class activation map of a linear head (Zhou et al. 2016) is then
    exact. `shapes` are those of each output for one image, and `identity` is a hash of structure and weights: features
    are cached under it. `other_runner` runs the graph in place of ONNX Runtime.
    """

    structure: bytes
    tensors: Mapping[str, NDArray[np.generic]]
    stages: tuple[Stage, ...]
    top_is_average: bool = False
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    identity: str = ""
    other_runner: GraphRunner | None = None

    @cached_property
    def runner(self) -> GraphRunner:
        """The runner, opened once: `other_runner`, or a session on all cores."""
        return self.other_runner or open_session(self)

    def __reduce__(self) -> tuple[Any, ...]:
        plain = tuple(getattr(self, each.name) for each in fields(self) if each.name != "other_runner")
        return Graph, plain  # an open session cannot be copied


def prune_graph(graph: Graph, outputs: Sequence[str]) -> Graph:
    """Return the graph with these outputs only: the nodes and the tensors that they need. Raises ModelError."""
    wanted = list(dict.fromkeys(outputs))
    try:
        have = wire.output_names(graph.structure)
        if missing := [name for name in wanted if name not in have]:
            raise ModelError(f"The graph has no output {', '.join(map(repr, missing))}; it has {', '.join(have)}.")
        structure = wire.prune_structure(graph.structure, wanted)
        needed = wire.external_tensors(structure)
    except wire.MalformedError as fault:
        raise ModelError(f"The structure of the graph is damaged: {fault}.") from fault
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in needed}
    return replace(graph, structure=structure, tensors=tensors)


def open_session(graph: Graph, threads: int | None = None) -> Session:
    """Return a session that runs the graph on so many threads, by default on all cores.

    Raises ModelError where tensors are missing, or of another shape or type than in the structure.
    """
    required_tensors(graph)
    return Session(graph, threads or core_count())


class Session:
    """Runs a graph in ONNX Runtime; thread-safe.

    ONNX Runtime computes every node, whichever outputs are requested, so a set of outputs that needs fewer nodes has a
    session of its own, opened on the first request. All share the weights, but each packs some of them anew.
    """

    batch = BATCH

    def __init__(self, graph: Graph, threads: int) -> None:
        self.graph, self.threads = graph, threads
        self._opened: dict[tuple[str, ...], _OrtSession] = {}
        self._lock = threading.Lock()
        register(self)

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """Return these outputs for any number of images, in this order, computed `batch` images at a time."""
        opened = self.open(outputs)
        batches = [images[start : start + self.batch] for start in range(0, max(len(images), 1), self.batch)]
        rows = [opened.run(batch, outputs) for batch in batches]
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def open(self, outputs: Sequence[str]) -> _OrtSession:
        """Return a session that computes these outputs.

        Raises ModelError where ONNX Runtime cannot open it, or the outputs are not of the shapes that the graph states.
        """
        wanted = tuple(dict.fromkeys(outputs))
        with self._lock:
            if wanted not in self._opened:
                graph = prune_graph(self.graph, wanted)
                wider = (each for names, each in self._opened.items() if set(wanted) <= set(names))
                enough = (each for each in wider if each.length <= MAX_SHARED_GROWTH * len(graph.structure))
                self._opened[wanted] = next(enough, None) or _OrtSession(graph, self.threads)
            return self._opened[wanted]

    def on_fork(self) -> None:
        """Drop sessions and lock in the child of a fork: a thread of the parent may hold the lock."""
        for opened in self._opened.values():
            keep_alive(opened)
        self._opened, self._lock = {}, threading.Lock()


class _OrtSession:
    """A session of ONNX Runtime, which reads the weights in place."""

    def __init__(self, graph: Graph, threads: int) -> None:
        import onnxruntime

        self.tensors, self.shapes, self.length = required_tensors(graph), graph.shapes, len(graph.structure)
        self.values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for tensor in self.tensors.values()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # fatal only: errors are raised as exceptions
        # Waiting threads leave the cores to image decoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Never the ORT format, which is not checked.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_external_initializers(list(self.tensors), self.values)
        where = ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(graph.structure, options, where, enable_fallback=0)
        except Exception as fault:  # its exceptions have no other common base
            raise ModelError(f"ONNX Runtime cannot open the graph: {_reason(fault)}") from fault
        self.input = self.session.get_inputs()[0].name
        for each in self.session.get_outputs():
            self._check(each.name, tuple(each.shape[1:]))

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        try:
            found = [np.asarray(each) for each in self.session.run(list(outputs), {self.input: images})]
        except Exception as fault:
            raise ModelError(f"ONNX Runtime cannot run the graph: {_reason(fault)}") from fault
        for name, each in zip(outputs, found, strict=True):
            self._check(name, each.shape[1:])
        return found

    def _check(self, name: str, found: tuple[int | str | None, ...]) -> None:
        """Raise ModelError where an output is not of the shape that the graph states, as far as it is known."""
        want = self.shapes.get(name)
        numbers = [(each, own) for each, own in zip(found, want or (), strict=False) if isinstance(each, int)]
        if want is not None and (len(found) != len(want) or any(each != own for each, own in numbers)):
            raise ModelError(f"The graph gives {list(found)} as {name}, and states {list(want)}.")


def _reason(fault: Exception) -> str:
    return str(fault).partition("\n")[0][:300]


def required_tensors(graph: Graph) -> dict[str, NDArray[np.generic]]:
    """Return the tensors that the structure needs, in its order. Raises ModelError where one is missing or wrong."""
    try:
        needed = wire.external_tensors(graph.structure)
    except wire.MalformedError as fault:
        raise ModelError(f"The structure of the graph is damaged: {fault}.") from fault
    if faults := list(_find_faults(needed, graph.tensors)):
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ModelError(f"The weights do not fit the graph: {'; '.join(faults[:3])}{more}.")
    return {name: np.require(graph.tensors[name], requirements=["C", "A"]) for name in needed}


def _find_faults(needed: Mapping[str, wire.TensorSpec], tensors: Mapping[str, NDArray[np.generic]]) -> Iterator[str]:
    for name, want in needed.items():
        if name not in tensors:
            yield f"{name} is missing"
        elif (tensors[name].dtype, tensors[name].shape) != (want.dtype, want.shape):
            given = tensors[name]
            yield f"{name} is {given.dtype} {list(given.shape)} and should be {want.dtype} {list(want.shape)}"


def graph_key(graph: Graph) -> str:
    """Return a hash of the structure and the tensors that it needs."""
    whole = hashlib.sha256(graph.structure)
    for name, tensor in sorted(required_tensors(graph).items()):
        whole.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        whole.update(tensor.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()[:32]


def normalise_rows(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the rows [n, d] at length 1; nan where a number is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return (features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)).astype(
            np.float32, copy=False
        )


# --- Conversion from and to onnx.ModelProto ---------------------------------------------------------------------------


def inline_weights(graph: Graph) -> Any:
    """Return the graph as an onnx.ModelProto, with the weights inside."""

    import onnx

    tensors = required_tensors(graph)
    model = onnx.ModelProto.FromString(graph.structure)
    for initializer in model.graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            whole = onnx.numpy_helper.from_array(tensors[initializer.name], initializer.name)
            initializer.CopyFrom(whole)
    return model


def split_weights(model: Any, names: Collection[str]) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
    """Split an onnx.ModelProto into a structure, as in `Graph`, and these weights; the inverse of `inline_weights`.

    Raises ModelError for a name that is not a weight of the model.
    """

    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    found: dict[str, NDArray[np.generic]] = {}
    for initializer in bare.graph.initializer:
        if initializer.name in names:
            found[initializer.name] = onnx.numpy_helper.to_array(initializer)
            initializer.CopyFrom(external_tensor(initializer.name, found[initializer.name]))
    if missing := [name for name in names if name not in found]:
        raise ModelError(f"The model has no weights {', '.join(missing[:3])}.")
    return bare.SerializeToString(deterministic=True), found


def append_nodes(
    graph: Graph,
    nodes: Sequence[Any],
    tensors: Mapping[str, NDArray[np.generic]],
    outputs: Sequence[Any],
    constants: Sequence[Any] = (),
) -> Graph:
    """Return the graph with nodes appended, which may read its outputs and each other.

    `nodes` are onnx.NodeProto in the order of use, `tensors` the weights that they read by name, `constants` small
    onnx.TensorProto that stay in the structure (shapes and axes must, as ONNX Runtime reads these when it opens a
    graph), `outputs` the onnx.ValueInfoProto of the new outputs. Existing outputs stay; `prune_graph` removes those not
    needed. Raises ModelError for a name that the graph has already.
    """

    import onnx

    model = onnx.ModelProto.FromString(graph.structure)
    inner = model.graph
    taken = {name for node in inner.node for name in node.output} | {each.name for each in inner.initializer}
    taken |= {each.name for each in inner.input} | set(graph.tensors)
    new = [name for node in nodes for name in node.output if name] + list(tensors) + [each.name for each in constants]
    if twice := sorted({name for name in new if name in taken or new.count(name) > 1}):
        raise ModelError(f"The graph cannot have two values of one name: {', '.join(twice[:3])}.")
    inner.node.extend(nodes)
    inner.initializer.extend([*constants, *(external_tensor(name, tensor) for name, tensor in tensors.items())])
    inner.output.extend(outputs)
    return replace(graph, structure=model.SerializeToString(deterministic=True), tensors={**graph.tensors, **tensors})


def external_tensor(name: str, tensor: NDArray[np.generic]) -> Any:
    """Return the onnx.TensorProto of a weight that is held outside the structure."""

    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    found = onnx.TensorProto(name=name, dims=tensor.shape, data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
    for word, value in (("location", "weights"), ("offset", "0"), ("length", str(tensor.nbytes))):
        found.external_data.add(key=word, value=value)
    return found


def core_count() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- Serialisation ----------------------------------------------------------------------------------------------------


def complete_graph(graph: Graph, size: int) -> Graph:
    """Return the graph with the shapes of its outputs, found on one black image of `size` pixels, and its identity."""
    outputs = wire.output_names(graph.structure)
    found = graph.runner.run(np.zeros((1, 3, size, size), np.uint8), outputs)
    shapes = {name: tuple(each.shape[1:]) for name, each in zip(outputs, found, strict=True)}
    return replace(graph, shapes=shapes, identity=graph_key(graph))


def dump(graph: Graph) -> bytes:
    """Return the structure, with the other fields of the graph as a metadata property."""
    stages = [[stage.name, list(stage.shape), stage.parameters] for stage in graph.stages]
    shapes = {name: list(shape) for name, shape in graph.shapes.items()}
    beside = sorted(graph.tensors.keys() - wire.external_tensors(graph.structure).keys())
    facts = {"identity": graph.identity, "averaged": graph.top_is_average, "stages": stages, "shapes": shapes}
    return graph.structure + protobuf.encode_property(FACTS_PROPERTY, json.dumps({**facts, "beside": beside}))


def parse(content: bytes, tensors: Mapping[str, NDArray[np.generic]]) -> Graph:
    """Parse a dumped structure; return the graph with these weights. Raises ModelError where they do not match.

    The shapes of the weights are checked when the graph is opened.
    """
    try:
        files, own = wire.has_external_data(content), wire.external_tensors(content)
        facts = json.loads(protobuf.read_properties(content)[FACTS_PROPERTY])
        stages = tuple(Stage(str(name), _shape(shape), _count(count)) for name, shape, count in facts["stages"])
        shapes = {str(name): _shape(shape) for name, shape in facts["shapes"].items()}
        identity, averaged = str(facts["identity"]), facts["averaged"] is True
        wanted = own.keys() | set(map(str, facts["beside"]))
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"it is no graph that graft wrote ({type(error).__name__}: {error})") from error
    if files:
        raise ModelError("some of its tensors lie in other files, which a graph of graft never does")
    if odd := sorted(wanted ^ tensors.keys()):
        raise ModelError(f"{'missing' if odd[0] in wanted else 'unexpected'} {odd[0]}")
    return Graph(wire.remove_property(content, FACTS_PROPERTY), tensors, stages, averaged, shapes, identity)


def truncate_graph(graph: Graph, count: int) -> Graph:
    """Return the graph with its first `count` stages only, as for early features."""
    kept = {stage.name for stage in graph.stages[:count]}
    outputs = [name for name in graph.shapes if name.partition("/")[2] in kept and name not in (TOP, LAST)]
    return replace(
        prune_graph(graph, outputs), top_is_average=False, shapes={name: graph.shapes[name] for name in outputs}
    )


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(_count(each) for each in value)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**40:
        raise ValueError(f"{value!r} is no size")
    return value
