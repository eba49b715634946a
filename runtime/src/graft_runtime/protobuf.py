"""The few lines of protobuf that an ONNX file needs: its fields, its properties, what of it lies in other files."""

from __future__ import annotations

from collections.abc import Iterator

GRAPH, PROPERTY, KEY, VALUE = 7, 14, 1, 2  # numbers of fields in onnx.proto: of a model, of an entry

EXTERNAL = 13  # of a tensor
HOLDS = {  # the messages of onnx.proto below which tensors stand, by their fields; a test compares it with onnx itself
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        **{5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto"},
        **{22: "SparseTensorProto", 23: "SparseTensorProto"},
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}


def fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of each field that has a length. Raises ValueError or IndexError for what is no message."""
    return ((number, message[start:end]) for number, _, start, end in spans(message))


def spans(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """(number, where the field begins, where its content begins, where it ends) of each field that has a length."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _varint(message, at)
        if key >> 32:
            raise ValueError("no such field")  # ONNX Runtime reads 32 bits of it: another field
        if key & 7 == 0:
            _, at = _varint(message, at)
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        elif key & 7 == 2:
            length, start = _varint(message, at)
            at = start + length
            yield key >> 3, begin, start, at
        else:
            raise ValueError("no such kind of field")
    if at > len(message):
        raise ValueError("the last field is cut off")


def properties(model: bytes) -> dict[str, str]:
    """The metadata of an ONNX file. Raises ValueError, IndexError or KeyError for what is none."""
    texts: dict[str, str] = {}
    for number, entry in fields(memoryview(model)):
        if number == PROPERTY:
            found = {own: bytes(value) for own, value in fields(entry)}
            key = found[KEY].decode()
            if key in texts:  # readers differ in which of the two counts
                raise ValueError(f"two properties are called {key!r}")
            texts[key] = found.get(VALUE, b"").decode()
    return texts


def external(model: bytes) -> bool:
    """Whether a tensor anywhere in an ONNX file says that its numbers lie elsewhere.

    Tensors stand in the graph, in attributes, in the branches and loops of nodes, in functions, in sparse tensors.
    """
    waiting = [("ModelProto", memoryview(model))]  # a list of our own: recursion would end in deep nesting
    while waiting:
        kind, message = waiting.pop()
        for number, content in fields(message):
            if kind == "TensorProto" and number == EXTERNAL:
                return True
            if inner := HOLDS.get(kind, {}).get(number):
                waiting.append((inner, content))
    return False


def entry(key: str, text: str) -> bytes:
    """A property as a field of an ONNX file."""
    return field(PROPERTY, field(KEY, key.encode()) + field(VALUE, text.encode()))


def field(number: int, content: bytes) -> bytes:
    """A field that has a length."""
    return _number(number << 3 | 2) + _number(len(content)) + content


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """(number, place after it); seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _number(value: int) -> bytes:
    low = value & 127
    return bytes([low]) if value < 128 else bytes([low | 128]) + _number(value >> 7)
