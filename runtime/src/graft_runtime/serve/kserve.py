"""The Open Inference Protocol, version 2, of KServe and Triton, in JSON and with binary tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.contract import IMAGE, PROBABILITIES, UNKNOWN
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.model import ServedModel
from graft_runtime.serve.request_body import ImageFile, decode_base64, parse_json

FILE, LABEL = "file", "label"  # an input and an output beside those of the file
JSON_LENGTH_HEADER = "inference-header-content-length"  # where the JSON ends and binary tensors begin
TYPES = {"UINT8": np.uint8, "FP32": np.float32, "INT64": np.int64}


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """An inference request: images as files or as pixels, and the outputs by name, binary or not."""

    files: list[ImageFile]
    pixels: NDArray[np.uint8] | None
    outputs: dict[str, bool]
    id: str


def build_metadata(served: ServedModel) -> dict[str, Any]:
    """Build the metadata of the model."""
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


def parse_request(body: bytes, headers: Mapping[str, str], bounds: Bounds) -> InferenceRequest:
    """Parse a request. Raises RequestError for one that does not fit the protocol or this model."""
    text, binary = _split_body(body, headers.get(JSON_LENGTH_HEADER))
    entries = parse_json(text)
    inputs = entries.get("inputs") if isinstance(entries, dict) else None
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _tensor_error(f"send one input, {IMAGE!r} or {FILE!r}")
    tensor = inputs[0]
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not 0 < len(shape) <= 4 or not all(type(side) is int for side in shape):
        raise _tensor_error("its shape is no list of one number, or of four")
    if min(shape) < 1:
        raise _tensor_error(f"its shape {shape} has other than positive numbers")
    if shape[0] > bounds.images:
        raise RequestError(413, "too_many", f"At most {bounds.images} images go into one request. Send more requests.")
    kind = tensor.get("name"), tensor.get("datatype")
    outputs = _parse_outputs(entries)
    if kind == (FILE, "BYTES"):
        return InferenceRequest(_parse_files(tensor, shape, binary), None, outputs, str(entries.get("id", "")))
    if kind == (IMAGE, "UINT8"):
        return InferenceRequest([], _parse_pixels(tensor, shape, binary, bounds), outputs, str(entries.get("id", "")))
    raise _tensor_error(f"there is no input {kind[0]!r} of the type {kind[1]!r}; see the model's metadata")


def build_response(
    served: ServedModel, request: InferenceRequest, tensors: Mapping[str, NDArray[Any] | list[str]]
) -> tuple[bytes, dict[str, str]]:
    """Build the body of the response and its headers."""
    outputs, tail = list[dict[str, Any]](), list[bytes]()
    for name, binary in request.outputs.items():
        values = tensors[name]
        texts = isinstance(values, list)
        entry: dict[str, Any] = {"name": name, "datatype": "BYTES" if texts else "FP32"}
        entry["shape"] = [len(values)] if texts else list(values.shape)
        if binary:
            raw = (
                b"".join(_prefix_length(text.encode()) for text in values) if texts else values.astype("<f4").tobytes()
            )
            entry["parameters"] = {"binary_data_size": len(raw)}
            tail.append(raw)
        else:
            entry["data"] = values if texts else values.ravel().tolist()
        outputs.append(entry)
    head = {"model_name": served.name, "model_version": served.version, "outputs": outputs}
    text = json.dumps(head | ({"id": request.id} if request.id else {})).encode()
    if not tail:
        return text, {"content-type": "application/json"}
    return text + b"".join(tail), {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(text))}


def _split_body(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    if length is None:
        return body, b""
    if not length.isdecimal() or len(length) > 20 or int(length) > len(body):
        raise _tensor_error(f"the header {JSON_LENGTH_HEADER} says {length[:20]}, and the body has {len(body)} bytes")
    return body[: int(length)], body[int(length) :]


def _parse_outputs(entries: Mapping[str, Any]) -> dict[str, bool]:
    """Return the requested outputs, and whether each is binary."""
    wanted = entries.get("outputs", [{"name": name} for name in (LABEL, PROBABILITIES, UNKNOWN)])
    every = _get_parameters(entries).get("binary_data_output", False)
    known = (LABEL, PROBABILITIES, UNKNOWN)
    if not isinstance(wanted, list) or not all(isinstance(each, dict) and each.get("name") in known for each in wanted):
        raise _tensor_error(f"its outputs are some of {', '.join(known)}")
    return {each["name"]: bool(_get_parameters(each).get("binary_data", every)) for each in wanted}


def _get_parameters(entries: Mapping[str, Any]) -> dict[str, Any]:
    found = entries.get("parameters", {})
    return found if isinstance(found, dict) else {}


def _parse_files(tensor: Mapping[str, Any], shape: list[int], binary: bytes) -> list[ImageFile]:
    size = _get_parameters(tensor).get("binary_data_size")
    if size is not None:
        parts = _split_parts(_check_size(binary, size), shape[0])
    else:
        data = tensor.get("data")
        if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
            raise _tensor_error(f"the data of {FILE!r} are files as base64")
        if len(data) > shape[0]:
            raise _tensor_error(f"its shape is {shape}, and it has {len(data)} files")
        parts = [decode_base64(text, row) for row, text in enumerate(data)]
    if shape != [len(parts)]:
        raise _tensor_error(f"its shape is {shape}, and it has {len(parts)} files")
    return [ImageFile(f"image {row}", part) for row, part in enumerate(parts)]


def _parse_pixels(tensor: Mapping[str, Any], shape: list[int], binary: bytes, bounds: Bounds) -> NDArray[np.uint8]:
    if len(shape) != 4 or shape[3] != 3:
        raise _tensor_error(f"{IMAGE!r} has the shape [n, height, width, 3], and this one {shape}")
    if shape[1] * shape[2] > bounds.pixels:
        raise RequestError(413, "too_large", f"An image has at most {bounds.pixels:,} pixels.")
    count = int(np.prod([*shape], dtype=object))
    size = _get_parameters(tensor).get("binary_data_size")
    if size is not None:
        values: Any = np.frombuffer(_check_size(binary, size), np.uint8)
    else:
        values = _flatten(tensor.get("data"))
    if values.size != count:
        raise _tensor_error(f"its shape {shape} has {count} values, and its data {values.size}")
    return values.reshape(shape)


def _flatten(data: Any) -> NDArray[np.uint8]:
    # As objects: of one long text among numbers, numpy would make an array of as many texts of that length.
    values = np.array(data, dtype=object).ravel().tolist()
    try:
        if set(map(type, values)) != {int}:
            raise ValueError
        return np.frombuffer(bytes(values), np.uint8)
    except (ValueError, OverflowError) as error:
        raise _tensor_error(f"the data of {IMAGE!r} are uneven, or no whole numbers from 0 to 255") from error


def _check_size(binary: bytes, size: Any) -> bytes:
    if type(size) is not int or size != len(binary):
        raise _tensor_error(f"binary_data_size says {size}, and {len(binary)} bytes follow the JSON")
    return binary


def _split_parts(raw: bytes, most: int) -> list[bytes]:
    parts, at = list[bytes](), 0
    while at < len(raw):
        if len(parts) == most:
            raise _tensor_error(f"its shape is [{most}], and it has more files")
        if at + 4 > len(raw) or at + 4 + (size := struct.unpack_from("<I", raw, at)[0]) > len(raw):
            raise _tensor_error("a file among the binary data is cut off")
        parts.append(raw[at + 4 : at + 4 + size])
        at += 4 + size
    return parts


def _prefix_length(text: bytes) -> bytes:
    return struct.pack("<I", len(text)) + text


def _tensor_error(what: str) -> RequestError:
    return RequestError(
        400, "wrong_tensor", f"This is no request of the Open Inference Protocol for this model: {what}."
    )
