"""A network as an ONNX graph with named outputs: what looks at images, without PyTorch.

The graph's structure and its weights are kept apart: the structure is a small ONNX model whose weights are external
data, named as PyTorch names them (`conv_stem.weight`), and the weights are arrays. So a saved classifier holds its
weights once, in model.safetensors, and both ONNX Runtime and PyTorch read them there.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graft.backbones import forked, wire
from graft.errors import ModelError

PREPARED = "prepared"  # the input: uint8 [n, 3, size, size], resized and cropped, not normalised
TOP = "top"  # the output of the whole backbone, pooled: float32 [n, width]
POOLED = "pooled/"  # + a stage's name: its output averaged over space or tokens, float32 [n, channels]
LAST = "last"  # the last map of the network, float32 [n, channels, height, width]; not of every network
MAP = "map/"  # + a stage's name: its output as a map, float32 [n, channels, height, width]; not of every stage
OWN = "constant/"  # + a name: a large tensor of the graph that is none of the network's, as PyTorch has it
BATCH = 8  # small batches stay in the processor's cache (bench/README.md has the rates of others)
WIDER = 1.05  # the length of a structure, over that of fewer outputs, up to which its session gives these too


@dataclass(frozen=True)
class Stage:
    """One link of the chain: its name in the backbone, the shape of what it hands on, and its parameters."""

    name: str
    shape: tuple[int, ...]
    parameters: int


@runtime_checkable
class Runs(Protocol):
    """A graph at work; fastest with `batch` images at a time."""

    batch: int

    def open(self, outputs: Sequence[str]) -> object:
        """Make ready what these outputs take."""
        ...

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """These outputs for any number of images, in the order asked for."""
        ...


@dataclass(frozen=True, eq=False)
class Graph:
    """uint8 images [n, 3, size, size] to the outputs by name, any number n.

    `structure` is the ONNX model without its weights, `tensors` are these by name; there may be more of them than the
    structure needs, as PyTorch wants them all. `stages` is the chain, in the order of a forward pass. `averaged` says
    that TOP is nothing but LAST averaged over space: the class activation map of a linear head (Zhou et al. 2016) is
    then exact. `shapes` is what each output gives for an image, and `identity` names the weights and what made the
    graph of them: features are cached under it. `elsewhere` computes the outputs in the place of ONNX Runtime.
    """

    structure: bytes
    tensors: Mapping[str, NDArray[np.generic]]
    stages: tuple[Stage, ...]
    averaged: bool = False
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    identity: str = ""
    elsewhere: Runs | None = None

    @cached_property
    def running(self) -> Runs:
        """The graph at work, opened once: on all cores, or `elsewhere`."""
        return self.elsewhere or session(self)

    def __reduce__(self) -> tuple[Any, ...]:
        plain = tuple(getattr(self, each.name) for each in fields(self) if each.name != "elsewhere")
        return Graph, plain  # an open session cannot be copied


def only(graph: Graph, outputs: Sequence[str]) -> Graph:
    """The same graph with these outputs alone: the nodes and the tensors that they need, and nothing else."""
    asked = list(dict.fromkeys(outputs))
    try:
        have = wire.outputs(graph.structure)
        if missing := [name for name in asked if name not in have]:
            raise ModelError(f"The graph has no output {', '.join(map(repr, missing))}; it has {', '.join(have)}.")
        structure = wire.pruned(graph.structure, asked)
        needed = wire.external(structure)
    except wire.Malformed as fault:
        raise ModelError(f"The structure of the graph is damaged: {fault}.") from fault
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name in needed}
    return replace(graph, structure=structure, tensors=tensors)


def session(graph: Graph, threads: int | None = None) -> Session:
    """The graph, ready to run on so many threads; as many as there are cores where nothing is said.

    Raises ModelError where tensors are missing, or not of the shape and type that the structure says.
    """
    weights(graph)
    return Session(graph, threads or cores())


class Session:
    """Runs a graph in ONNX Runtime; several threads may use it at once.

    ONNX Runtime computes every node whatever is asked for, so a set of outputs that needs fewer nodes has a session of
    its own, made when it is first asked for. All share the weights, but each lays some of them out anew for itself.
    """

    batch = BATCH

    def __init__(self, graph: Graph, threads: int) -> None:
        self.graph, self.threads = graph, threads
        self._made: dict[tuple[str, ...], _Opened] = {}
        self._lock = threading.Lock()
        forked.tell(self)

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """These outputs for any number of images, in the order asked for; `batch` images are computed at a time."""
        opened = self.open(outputs)
        batches = [images[start : start + self.batch] for start in range(0, max(len(images), 1), self.batch)]
        rows = [opened.run(batch, outputs) for batch in batches]
        return [parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def open(self, outputs: Sequence[str]) -> _Opened:
        """What gives these outputs, ready to run.

        Raises ModelError where ONNX Runtime cannot open it, or the outputs are not of the shapes that the graph states.
        """
        asked = tuple(dict.fromkeys(outputs))
        with self._lock:
            if asked not in self._made:
                graph = only(self.graph, asked)
                wider = (each for names, each in self._made.items() if set(asked) <= set(names))
                enough = (each for each in wider if each.length <= WIDER * len(graph.structure))
                self._made[asked] = next(enough, None) or _Opened(graph, self.threads)
            return self._made[asked]

    def forked(self) -> None:
        """In the child of a fork the lock may be that of a thread that is not here."""
        for opened in self._made.values():
            forked.left(opened)
        self._made, self._lock = {}, threading.Lock()


class _Opened:
    """A session of ONNX Runtime, with the weights that it reads in place."""

    def __init__(self, graph: Graph, threads: int) -> None:
        import onnxruntime

        self.tensors, self.shapes, self.length = weights(graph), graph.shapes, len(graph.structure)
        self.values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor) for tensor in self.tensors.values()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # an error comes as an exception; it warns of what it leaves out
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to the decoder
        options.add_session_config_entry("session.load_model_format", "ONNX")  # never its own, of no such check
        options.add_external_initializers(list(self.tensors), self.values)
        where = ["CPUExecutionProvider"]
        try:
            self.session = onnxruntime.InferenceSession(graph.structure, options, where, enable_fallback=0)
        except Exception as fault:  # its exceptions have no common base but this
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
        """Raises ModelError where an output is not of the shape that the graph states, as far as it is known."""
        want = self.shapes.get(name)
        numbers = [(each, own) for each, own in zip(found, want or (), strict=False) if isinstance(each, int)]
        if want is not None and (len(found) != len(want) or any(each != own for each, own in numbers)):
            raise ModelError(f"The graph gives {list(found)} as {name}, and states {list(want)}.")


def _reason(fault: Exception) -> str:
    return str(fault).partition("\n")[0][:300]


def weights(graph: Graph) -> dict[str, NDArray[np.generic]]:
    """The tensors that the structure needs, in its order. Raises ModelError where one is missing or does not fit."""
    try:
        needed = wire.external(graph.structure)
    except wire.Malformed as fault:
        raise ModelError(f"The structure of the graph is damaged: {fault}.") from fault
    if faults := list(_faults(needed, graph.tensors)):
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise ModelError(f"The weights do not fit the graph: {'; '.join(faults[:3])}{more}.")
    return {name: np.require(graph.tensors[name], requirements=["C", "A"]) for name in needed}


def _faults(needed: Mapping[str, wire.Tensor], tensors: Mapping[str, NDArray[np.generic]]) -> Iterator[str]:
    for name, want in needed.items():
        if name not in tensors:
            yield f"{name} is missing"
        elif (tensors[name].dtype, tensors[name].shape) != (want.dtype, want.shape):
            given = tensors[name]
            yield f"{name} is {given.dtype} {list(given.shape)} and should be {want.dtype} {list(want.shape)}"


def key(graph: Graph) -> str:
    """A name for what the graph computes, from its structure and the tensors that it needs."""
    whole = hashlib.sha256(graph.structure)
    for name, tensor in sorted(weights(graph).items()):
        whole.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        whole.update(tensor.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()[:32]


def inlined(graph: Graph) -> Any:
    """The graph as one whole onnx.ModelProto, with the weights inside."""
    import onnx

    tensors = weights(graph)
    model = onnx.ModelProto.FromString(graph.structure)
    for initializer in model.graph.initializer:
        if initializer.data_location == onnx.TensorProto.EXTERNAL:
            whole = onnx.numpy_helper.from_array(tensors[initializer.name], initializer.name)
            initializer.CopyFrom(whole)
    return model


def split(model: Any, names: Collection[str]) -> tuple[bytes, dict[str, NDArray[np.generic]]]:
    """A onnx.ModelProto without these of its weights, as a `Graph` has it, and the weights; the opposite of `inlined`.

    Raises ModelError for a name that the model has no weight of.
    """
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    found: dict[str, NDArray[np.generic]] = {}
    for initializer in bare.graph.initializer:
        if initializer.name in names:
            found[initializer.name] = onnx.numpy_helper.to_array(initializer)
            initializer.CopyFrom(external(initializer.name, found[initializer.name]))
    if missing := [name for name in names if name not in found]:
        raise ModelError(f"The model has no weights {', '.join(missing[:3])}.")
    return bare.SerializeToString(deterministic=True), found


def joined(
    graph: Graph,
    nodes: Sequence[Any],
    tensors: Mapping[str, NDArray[np.generic]],
    outputs: Sequence[Any],
    constants: Sequence[Any] = (),
) -> Graph:
    """The graph with further nodes behind it, which may read its outputs and each other.

    `nodes` are onnx.NodeProto in the order of use, `tensors` the weights that they read by name, `constants` small
    onnx.TensorProto that stay in the structure (shapes and axes must, as ONNX Runtime reads these when it opens a
    graph), `outputs` the onnx.ValueInfoProto of the outputs that are new. Those that the graph has stay; `only` takes
    away what nobody asks for. Raises ModelError for a name that the graph has already.
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
    inner.initializer.extend([*constants, *(external(name, tensor) for name, tensor in tensors.items())])
    inner.output.extend(outputs)
    return replace(graph, structure=model.SerializeToString(deterministic=True), tensors={**graph.tensors, **tensors})


def external(name: str, tensor: NDArray[np.generic]) -> Any:
    """The onnx.TensorProto of a weight that is held outside of the structure."""
    import onnx

    kind = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
    found = onnx.TensorProto(name=name, dims=tensor.shape, data_type=kind, data_location=onnx.TensorProto.EXTERNAL)
    for word, value in (("location", "weights"), ("offset", "0"), ("length", str(tensor.nbytes))):
        found.external_data.add(key=word, value=value)
    return found


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
