"""The little of protobuf that it takes to look into an ONNX graph and to leave parts of it out.

Predicting needs numpy and ONNX Runtime; the package `onnx` would be a third, for two questions: which weights a
structure asks for, and which of its nodes an output needs. Both are answered on the bytes themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from graft_runtime import protobuf

# Numbers of the fields of onnx.proto that are read here.
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
DEEPEST = 20  # graphs inside graphs


class Malformed(ValueError):
    """Bytes that are no protobuf message, or not of the kind expected."""


@dataclass(frozen=True, eq=False)
class Field:
    """One field of a message: its number, its value, and the bytes that it takes with its tag."""

    number: int
    value: int | memoryview
    whole: memoryview

    def message(self) -> memoryview:
        """The value of a field that holds bytes."""
        if isinstance(self.value, int):
            raise Malformed(f"field {self.number} is a number and should be a message")
        return self.value

    def text(self) -> str:
        """The value of a field that holds a text."""
        try:
            return bytes(self.message()).decode("utf-8")
        except UnicodeDecodeError as fault:
            raise Malformed(f"field {self.number} is no text") from fault

    def number_alone(self) -> int:
        """The value of a field of one number of 32 bits, as protobuf cuts it."""
        if not isinstance(self.value, int):  # ONNX Runtime would overlook it
            raise Malformed(f"field {self.number} is a message and should be a number")
        return self.value & 0xFFFFFFFF

    def numbers(self) -> list[int]:
        """The value of a field of whole numbers, packed or single."""
        if isinstance(self.value, int):
            return [self.value]
        found, at = [], 0
        while at < len(self.value):
            number, at = _varint(self.value, at)
            found.append(number)
        return found


@dataclass(frozen=True)
class Tensor:
    """What a structure says of a weight that it holds elsewhere."""

    dtype: np.dtype | None  # None: one that numpy does not have
    shape: tuple[int, ...]


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in their order. Raises Malformed."""
    at = 0
    while at < len(message):
        start = at
        tag, at = _varint(message, at)
        kind = tag & 7
        if tag >> 32:  # ONNX Runtime would read another number, of 32 bits
            raise Malformed(f"no field begins with {tag}")
        if kind == 0:
            value, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = message[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise Malformed(f"no field begins with {tag}")
        if at > len(message):
            raise Malformed("it ends within a field")
        yield Field(tag >> 3, value, message[start:at])


@lru_cache(maxsize=4)
def external(structure: bytes) -> Mapping[str, Tensor]:
    """The weights that a structure holds elsewhere, by name. Raises Malformed."""
    found = {}
    for field in fields(_graph(structure)):
        if field.number == INITIALIZER:
            name, tensor = _weight(field.message())
            if tensor is not None:
                found[name] = tensor
    return found


def outputs(structure: bytes) -> list[str]:
    """The names of the outputs, in their order. Raises Malformed."""
    return [_first_text(each.message()) for each in fields(_graph(structure)) if each.number == OUTPUT]


def reads_files(structure: bytes) -> bool:
    """Whether a tensor other than the weights of the graph itself says that its numbers lie elsewhere.

    Weights are given by name; whatever else lies elsewhere, in a node, a branch or a function, would be read from a
    file. Raises Malformed.
    """
    graph = b"".join(each.whole for each in fields(_graph(structure)) if each.number != INITIALIZER)
    model = [each.whole for each in fields(memoryview(structure)) if each.number != GRAPH]
    try:
        return protobuf.external(b"".join([*model, protobuf.field(GRAPH, graph)]))
    except (ValueError, IndexError) as fault:
        raise Malformed(f"{fault}") from fault


def without(structure: bytes, key: str) -> bytes:
    """The structure without the property of this name. Raises Malformed."""
    return b"".join(
        field.whole
        for field in fields(memoryview(structure))
        if field.number != protobuf.PROPERTY or _first_text(field.message()) != key
    )


def inputs(structure: bytes) -> list[str]:
    """The names of the inputs, in their order. Raises Malformed."""
    return [_first_text(each.message()) for each in fields(_graph(structure)) if each.number == INPUT]


def pruned(structure: bytes, wanted: Sequence[str]) -> bytes:
    """The structure with these of its outputs, in this order, and what they need. Raises Malformed."""
    graph = list(fields(_graph(structure)))
    own = {_first_text(each.message()): each for each in graph if each.number == OUTPUT}
    needed, nodes = _needed(graph, wanted)
    kept: list[memoryview] = []
    for at, field in enumerate(graph):
        if field.number == NODE:
            keep = at in nodes
        elif field.number == INITIALIZER:
            keep = _weight(field.message())[0] in needed
        elif field.number in (VALUE_INFO, ANNOTATION):
            keep = _first_text(field.message()) in needed
        else:
            keep = field.number != OUTPUT
        if keep:
            kept.append(field.whole)
    inner = b"".join([*kept, *(own[name].whole for name in wanted)])
    model = [each.whole for each in fields(memoryview(structure)) if each.number != GRAPH]
    return b"".join([*model, protobuf.field(GRAPH, inner)])


def _graph(structure: bytes) -> memoryview:
    found = [field.message() for field in fields(memoryview(structure)) if field.number == GRAPH]
    if len(found) != 1:
        raise Malformed(f"it holds {len(found)} graphs and should hold one")
    return found[0]


def _needed(graph: Sequence[Field], wanted: Sequence[str]) -> tuple[set[str], set[int]]:
    """The names of all values that the outputs need, and the places of the nodes; nodes stand in order of use."""
    needed, nodes = set(wanted), set()
    for at in reversed(range(len(graph))):
        if graph[at].number != NODE:
            continue
        node = graph[at].message()
        if any(each.number == NODE_OUTPUT and each.text() in needed for each in fields(node)):
            nodes.add(at)
            needed.update(_reads(node))
    return needed - {""}, nodes


def _reads(node: memoryview, depth: int = 0) -> Iterator[str]:
    """The names that a node reads, and those that the graphs inside it read from around them."""
    if depth > DEEPEST:
        raise Malformed(f"graphs inside graphs, more than {DEEPEST} deep")
    for field in fields(node):
        if field.number == NODE_INPUT:
            yield field.text()
        elif field.number == NODE_ATTRIBUTE:
            for part in fields(field.message()):
                if part.number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):
                    for inner in fields(part.message()):
                        if inner.number == NODE:
                            yield from _reads(inner.message(), depth + 1)
                        elif inner.number == OUTPUT:  # a branch may hand on a value from outside as it is
                            yield _first_text(inner.message())


def _weight(tensor: memoryview) -> tuple[str, Tensor | None]:
    """The name of a tensor and, where its numbers are elsewhere, what it is like."""
    name, dims, kind, elsewhere = "", [], 0, False
    for field in fields(tensor):
        if field.number == TENSOR_NAME:
            name = field.text()
        elif field.number == DIMS:
            dims += field.numbers()
        elif field.number == DATA_TYPE:
            kind = field.number_alone()
        elif field.number == DATA_LOCATION:
            elsewhere = field.number_alone() == EXTERNAL
    return name, Tensor(DTYPES.get(kind), tuple(dims)) if elsewhere else None


def _first_text(message: memoryview) -> str:
    """Field 1 of what describes a value: its name."""
    return next((field.text() for field in fields(message) if field.number == 1), "")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins here, and where the next field does."""
    number = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
    raise Malformed("it ends within a number")
