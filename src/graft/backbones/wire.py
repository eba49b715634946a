"""A minimal protobuf reader: list the weights of an ONNX graph, and prune it to some outputs.

Prediction needs only numpy and ONNX Runtime. The package `onnx` would be needed just to find which weights a structure
needs and which nodes an output needs, so both are read from the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from graft_runtime import protobuf

# Field numbers of onnx.proto.
GRAPH = 7  # of a model
NODE, INITIALIZER, INPUT, OUTPUT, VALUE_INFO, ANNOTATION, SPARSE = 1, 5, 11, 12, 13, 14, 15  # of a graph
NODE_INPUT, NODE_OUTPUT, NODE_ATTRIBUTE = 1, 2, 5
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11
DIMS, DATA_TYPE, TENSOR_NAME, DATA_LOCATION = 1, 2, 8, 14  # of a tensor
EXTERNAL = 1

DTYPES = {
    number: np.dtype(name)
    for number, name in {
        1: "float32",
        2: "uint8",
        3: "int8",
        4: "uint16",
        5: "int16",
        6: "int32",
        7: "int64",
        9: "bool",
        10: "float16",
        11: "float64",
        12: "uint32",
        13: "uint64",
    }.items()
}
MAX_DEPTH = 20  # graphs inside graphs


class MalformedError(ValueError):
    """The bytes are not a protobuf message, or not of the expected type."""


@dataclass(frozen=True, eq=False)
class Field:
    """One field of a message: its number, its value, and the bytes that it takes with its tag."""

    number: int
    value: int | memoryview
    raw: memoryview

    def message(self) -> memoryview:
        """Return the value of a field of bytes."""
        if isinstance(self.value, int):
            raise MalformedError(f"field {self.number} is a number and should be a message")
        return self.value

    def text(self) -> str:
        """Return the value of a text field."""
        try:
            return bytes(self.message()).decode("utf-8")
        except UnicodeDecodeError as fault:
            raise MalformedError(f"field {self.number} is no text") from fault

    def as_uint32(self) -> int:
        """Return the value of a 32-bit field, truncated as protobuf does."""
        if not isinstance(self.value, int):  # ONNX Runtime would ignore it
            raise MalformedError(f"field {self.number} is a message and should be a number")
        return self.value & 0xFFFFFFFF

    def numbers(self) -> list[int]:
        """Return the values of a repeated integer field, packed or single."""
        if isinstance(self.value, int):
            return [self.value]
        found, at = [], 0
        while at < len(self.value):
            number, at = _varint(self.value, at)
            found.append(number)
        return found


@dataclass(frozen=True)
class TensorSpec:
    """The type and shape of an external weight in a structure."""

    dtype: np.dtype | None  # None: one that numpy does not have
    shape: tuple[int, ...]


def read_fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message, in their order. Raises MalformedError."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        kind = tag & 7
        if tag >> 32:  # ONNX Runtime would read another number, of 32 bits
            raise MalformedError(f"no field begins with {tag}")
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise MalformedError(f"no field begins with {tag}")
        if at > len(message):
            raise MalformedError("it ends within a field")
        yield Field(tag >> 3, value, message[start:at])


@lru_cache(maxsize=4)
def external_tensors(structure: bytes) -> Mapping[str, TensorSpec]:
    """Return the external weights of a structure, by name. Raises MalformedError."""
    found = {}
    for field in read_fields(_graph_message(structure)):
        if field.number == INITIALIZER:
            name, tensor = _read_tensor(field.message())
            if tensor is not None:
                found[name] = tensor
    return found


def output_names(structure: bytes) -> list[str]:
    """Return the names of the outputs, in their order. Raises MalformedError."""
    return [_first_text(each.message()) for each in read_fields(_graph_message(structure)) if each.number == OUTPUT]


def has_external_data(structure: bytes) -> bool:
    """Return whether a tensor other than the initializers of the graph itself has external data.

    Initializers are passed by name; other external data, in a node, a branch or a function, would be read from a file.
    Raises MalformedError.
    """
    graph = b"".join(each.raw for each in read_fields(_graph_message(structure)) if each.number != INITIALIZER)
    model = [each.raw for each in read_fields(memoryview(structure)) if each.number != GRAPH]
    try:
        return protobuf.has_external_data(b"".join([*model, protobuf.encode_field(GRAPH, graph)]))
    except (ValueError, IndexError) as fault:
        raise MalformedError(f"{fault}") from fault


def remove_property(structure: bytes, key: str) -> bytes:
    """Return the structure without the metadata property of this name. Raises MalformedError."""
    return b"".join(
        field.raw
        for field in read_fields(memoryview(structure))
        if field.number != protobuf.PROPERTY or _first_text(field.message()) != key
    )


def input_names(structure: bytes) -> list[str]:
    """Return the names of the inputs, in their order. Raises MalformedError."""
    return [_first_text(each.message()) for each in read_fields(_graph_message(structure)) if each.number == INPUT]


def prune_structure(structure: bytes, wanted: Sequence[str]) -> bytes:
    """Return the structure with only these outputs, in this order, and what they need. Raises MalformedError."""
    graph = list(read_fields(_graph_message(structure)))
    own = {_first_text(each.message()): each for each in graph if each.number == OUTPUT}
    needed, nodes = _find_needed(graph, wanted)
    kept: list[memoryview] = []
    for at, field in enumerate(graph):
        if field.number == NODE:
            keep = at in nodes
        elif field.number == INITIALIZER:
            keep = _read_tensor(field.message())[0] in needed
        elif field.number in (VALUE_INFO, ANNOTATION):
            keep = _first_text(field.message()) in needed
        else:
            keep = field.number != OUTPUT
        if keep:
            kept.append(field.raw)
    inner = b"".join([*kept, *(own[name].raw for name in wanted)])
    model = [each.raw for each in read_fields(memoryview(structure)) if each.number != GRAPH]
    return b"".join([*model, protobuf.encode_field(GRAPH, inner)])


def _graph_message(structure: bytes) -> memoryview:
    found = [field.message() for field in read_fields(memoryview(structure)) if field.number == GRAPH]
    if len(found) != 1:
        raise MalformedError(f"it holds {len(found)} graphs and should hold one")
    return found[0]


def _find_needed(graph: Sequence[Field], wanted: Sequence[str]) -> tuple[set[str], set[int]]:
    """Return the names of all values that the outputs need, and the indices of their nodes, given in order of use."""
    needed, nodes = set(wanted), set()
    for at in reversed(range(len(graph))):
        if graph[at].number != NODE:
            continue
        node = graph[at].message()
        if any(each.number == NODE_OUTPUT and each.text() in needed for each in read_fields(node)):
            nodes.add(at)
            needed.update(_read_names(node))
    return needed - {""}, nodes


def _read_names(node: memoryview, depth: int = 0) -> Iterator[str]:
    """Yield the names that a node reads, and those that its subgraphs read from outside."""
    if depth > MAX_DEPTH:
        raise MalformedError(f"graphs inside graphs, more than {MAX_DEPTH} deep")
    for field in read_fields(node):
        if field.number == NODE_INPUT:
            yield field.text()
        elif field.number == NODE_ATTRIBUTE:
            for part in read_fields(field.message()):
                if part.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                    for inner in read_fields(part.message()):
                        if inner.number == NODE:
                            yield from _read_names(inner.message(), depth + 1)
                        elif inner.number == OUTPUT:  # a branch may return a value from outside unchanged
                            yield _first_text(inner.message())


def _read_tensor(tensor: memoryview) -> tuple[str, TensorSpec | None]:
    """Return the name of a tensor and, where its data is external, its type and shape."""
    name, dims, kind, elsewhere = "", [], 0, False
    for field in read_fields(tensor):
        if field.number == TENSOR_NAME:
            name = field.text()
        elif field.number == DIMS:
            dims += field.numbers()
        elif field.number == DATA_TYPE:
            kind = field.as_uint32()
        elif field.number == DATA_LOCATION:
            elsewhere = field.as_uint32() == EXTERNAL
    return name, TensorSpec(DTYPES.get(kind), tuple(dims)) if elsewhere else None


def _first_text(message: memoryview) -> str:
    """Return field 1 of a message: the name in a ValueInfoProto."""
    return next((field.text() for field in read_fields(message) if field.number == 1), "")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the varint at this offset, and the offset after it."""
    number = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
    raise MalformedError("it ends within a number")
