"""The Open Inference Protocol, version 2, as KServe, Triton and others speak it, in JSON and with binary tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.contract import IMAGE, PROBABILITIES, UNKNOWN
from graft_runtime.serve.asked import Asked, from_base64, parsed
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.model import Served
from graft_runtime.serve.refusal import Refusal

FILE, LABEL = "file", "label"  # an input and an output beside those of the file
LENGTH = "inference-header-content-length"  # where the JSON ends and binary tensors begin
TYPES = {"UINT8": np.uint8, "FP32": np.float32, "INT64": np.int64}


@dataclass(frozen=True, eq=False)
class Wish:
    """What an inference request asks for: pictures as files or as pixels, and the outputs by name, binary or not."""

    files: list[Asked]
    pixels: NDArray[np.uint8] | None
    outputs: dict[str, bool]
    id: str


def about(served: Served) -> dict[str, Any]:
    """The metadata of the model."""
    classes = len(served.predictor.classes)
    return {
        "name": served.name,
        "versions": [served.version],
        "platform": "graft_onnx",
        "inputs": [
            {"name": IMAGE, "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            {"name": FILE, "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": UNKNOWN, "datatype": "FP32", "shape": [-1]},
        ],
    }


def wish(body: bytes, headers: Mapping[str, str], bounds: Bounds) -> Wish:
    """The request. Raises Refusal for one that the protocol, or this model, does not know."""
    text, binary = _halves(body, headers.get(LENGTH))
    entries = parsed(text)
    inputs = entries.get("inputs") if isinstance(entries, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong(f"send one input, {IMAGE!r} or {FILE!r}")
    given = inputs[0]
    shape = given.get("shape")
    if not isinstance(shape, list) or not 0 < len(shape) <= 4 or not all(type(side) is int for side in shape):
        raise _wrong("its shape is no list of one number, or of four")
    if min(shape) < 1:
        raise _wrong(f"its shape {shape} has other than positive numbers")
    if shape[0] > bounds.images:
        raise Refusal(413, "too_many", f"At most {bounds.images} pictures go into one request. Send more requests.")
    kind = given.get("name"), given.get("datatype")
    outputs = _outputs(entries)
    if kind == (FILE, "BYTES"):
        return Wish(_files(given, shape, binary), None, outputs, str(entries.get("id", "")))
    if kind == (IMAGE, "UINT8"):
        return Wish([], _pixels(given, shape, binary, bounds), outputs, str(entries.get("id", "")))
    raise _wrong(f"there is no input {kind[0]!r} of the type {kind[1]!r}; see the model's metadata")


def reply(served: Served, asked: Wish, tensors: Mapping[str, NDArray[Any] | list[str]]) -> tuple[bytes, dict[str, str]]:
    """The body of the answer and its headers."""
    outputs, tail = list[dict[str, Any]](), list[bytes]()
    for name, binary in asked.outputs.items():
        values = tensors[name]
        texts = isinstance(values, list)
        entry: dict[str, Any] = {"name": name, "datatype": "BYTES" if texts else "FP32"}
        entry["shape"] = [len(values)] if texts else list(values.shape)
        if binary:
            raw = b"".join(_counted(text.encode()) for text in values) if texts else values.astype("<f4").tobytes()
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = values if texts else values.ravel().tolist()
        outputs.append(entry)
    head = {"model_name": served.name, "model_version": served.version, "outputs": outputs}
    text = json.dumps(head | ({"id": asked.id} if asked.id else {})).encode()
    if not tail:
        return text, {"content-type": "application/json"}
    return text + b"".join(tail), {"content-type": "application/octet-stream", LENGTH: str(len(text))}


def _halves(body: bytes, told: str | None) -> tuple[bytes, bytes]:
    if told is None:
        return body, b""
    if not told.isdecimal() or len(told) > 20 or int(told) > len(body):
        raise _wrong(f"the header {LENGTH} says {told[:20]}, and the body has {len(body)} bytes")
    return body[: int(told)], body[int(told) :]


def _outputs(entries: Mapping[str, Any]) -> dict[str, bool]:
    """The names that are asked for, and whether each comes as binary."""
    wanted = entries.get("outputs", [{"name": name} for name in (LABEL, PROBABILITIES, UNKNOWN)])
    every = _parameters(entries).get("binary_data_output", False)
    known = (LABEL, PROBABILITIES, UNKNOWN)
    if not isinstance(wanted, list) or not all(isinstance(each, dict) and each.get("name") in known for each in wanted):
        raise _wrong(f"its outputs are some of {', '.join(known)}")
    return {each["name"]: bool(_parameters(each).get("binary_data", every)) for each in wanted}


def _parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    found = entries.get("parameters", {})
    return found if isinstance(found, dict) else {}


def _files(given: Mapping[str, Any], shape: list[int], binary: bytes) -> list[Asked]:
    size = _parameters(given).get("binary_data_size")
    if size is not None:
        parts = _counted_parts(_exactly(binary, size), shape[0])
    else:
        data = given.get("data")
        if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
            raise _wrong(f"the data of {FILE!r} are files as base64")
        if len(data) > shape[0]:
            raise _wrong(f"its shape is {shape}, and it has {len(data)} files")
        parts = [from_base64(text, row) for row, text in enumerate(data)]
    if shape != [len(parts)]:
        raise _wrong(f"its shape is {shape}, and it has {len(parts)} files")
    return [Asked(f"picture {row}", part) for row, part in enumerate(parts)]


def _pixels(given: Mapping[str, Any], shape: list[int], binary: bytes, bounds: Bounds) -> NDArray[np.uint8]:
    if len(shape) != 4 or shape[3] != 3:
        raise _wrong(f"{IMAGE!r} has the shape [n, height, width, 3], and this one {shape}")
    if shape[1] * shape[2] > bounds.pixels:
        raise Refusal(413, "too_large", f"A picture has at most {bounds.pixels:,} pixels.")
    count = int(np.prod([*shape], dtype=object))
    size = _parameters(given).get("binary_data_size")
    if size is not None:
        values: Any = np.frombuffer(_exactly(binary, size), np.uint8)
    else:
        values = _flat(given.get("data"))
    if values.size != count:
        raise _wrong(f"its shape {shape} has {count} values, and its data {values.size}")
    return values.reshape(shape)


def _flat(data: Any) -> NDArray[np.uint8]:
    # As objects: of one long text among numbers, numpy would make an array of as many texts of that length.
    values = np.array(data, dtype=object).ravel().tolist()
    try:
        if set(map(type, values)) != {int}:
            raise ValueError
        return np.frombuffer(bytes(values), np.uint8)
    except (ValueError, OverflowError) as error:
        raise _wrong(f"the data of {IMAGE!r} are uneven, or no whole numbers from 0 to 255") from error


def _exactly(binary: bytes, size: Any) -> bytes:
    if type(size) is not int or size != len(binary):
        raise _wrong(f"binary_data_size says {size}, and {len(binary)} bytes follow the JSON")
    return binary


def _counted_parts(raw: bytes, most: int) -> list[bytes]:
    parts, at = list[bytes](), 0
    while at < len(raw):
        if len(parts) == most:
            raise _wrong(f"its shape is [{most}], and it has more files")
        if at + 4 > len(raw) or at + 4 + (size := struct.unpack_from("<I", raw, at)[0]) > len(raw):
            raise _wrong("a file among the binary data is cut off")
        parts.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return parts


def _counted(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _wrong(what: str) -> Refusal:
    return Refusal(400, "wrong_tensor", f"This is no request of the Open Inference Protocol for this model: {what}.")
