"""A minimal protobuf reader and writer for ONNX files: fields, metadata properties, external data."""

from __future__ import annotations

from collections.abc import Iterator

GRAPH, PROPERTY, KEY, VALUE = 7, 14, 1, 2  # numbers of fields in onnx.proto: of a model, of an entry

EXTERNAL_DATA = 13  # of a tensor
# The messages of onnx.proto that hold tensors, by message and field number; a test compares it with onnx itself.
SUBMESSAGES = {
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


def iter_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (number, content) of each length-delimited field. Raises ValueError or IndexError for invalid data."""
    return ((number, message[start:end]) for number, _, start, end in iter_spans(message))


def iter_spans(message: memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Yield (number, start of the field, start of its content, end) of each length-delimited field."""
    at = 0
    while at < len(message):
        begin = at
        key, at = _read_varint(message, at)
        if key >> 32:
            raise ValueError("no such field")  # ONNX Runtime reads 32 bits of it: another field
        if key & 7 == 0:
            _, at = _read_varint(message, at)
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        elif key & 7 == 2:
            length, start = _read_varint(message, at)
            at = start + length
            yield key >> 3, begin, start, at
        else:
            raise ValueError("no such kind of field")
    if at > len(message):
        raise ValueError("the last field is cut off")


def read_properties(model: bytes) -> dict[str, str]:
    """Read the metadata properties of an ONNX file. Raises ValueError, IndexError or KeyError for invalid data."""
    texts: dict[str, str] = {}
    for number, entry in iter_fields(memoryview(model)):
        if number == PROPERTY:
            found = {own: bytes(value) for own, value in iter_fields(entry)}
            key = found[KEY].decode()
            if key in texts:  # readers differ in which of the two counts
                raise ValueError(f"two properties are called {key!r}")
            texts[key] = found.get(VALUE, b"").decode()
    return texts


def has_external_data(model: bytes) -> bool:
    """Whether any tensor of an ONNX file has external data.

    Tensors stand in the graph, in attributes, in the branches and loops of nodes, in functions, in sparse tensors.
    """
    waiting = [("ModelProto", memoryview(model))]  # a list of our own: recursion would end in deep nesting
    while waiting:
        kind, message = waiting.pop()
        for number, content in iter_fields(message):
            if kind == "TensorProto" and number == EXTERNAL_DATA:
                return True
            if inner := SUBMESSAGES.get(kind, {}).get(number):
                waiting.append((inner, content))
    return False


def encode_property(key: str, text: str) -> bytes:
    """Encode a metadata property as a field of an ONNX file."""
    return encode_field(PROPERTY, encode_field(KEY, key.encode()) + encode_field(VALUE, text.encode()))


def encode_field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited field."""
    return _encode_varint(number << 3 | 2) + _encode_varint(len(content)) + content


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return (number, offset after it); seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _encode_varint(value: int) -> bytes:
    low = value & 127
    return bytes([low]) if value < 128 else bytes([low | 128]) + _encode_varint(value >> 7)
