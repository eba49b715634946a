"""The formats of an export, and which one is meant: told before what writes them is loaded."""

from __future__ import annotations

from pathlib import Path

from graft import extras, spec
from graft.errors import UsageError

NAMES = ONNX, OPENVINO, TORCH, WEB = "onnx", "openvino", "torch", "web"
ENDINGS = {ONNX: ".onnx", OPENVINO: ".onnx", TORCH: ".pt2"}
FLOAT32, INT8 = "float32", "int8"


def chosen(to: str | None, path: Path, int8: bool, *, blind: bool) -> str:
    """The format that is asked for, or follows from the name of the file. Raises UsageError for what cannot be."""
    kind = to or (TORCH if path.suffix == ENDINGS[TORCH] else ONNX)
    if kind not in NAMES:
        raise UsageError(f"An export is to {', '.join(NAMES)}. Got {kind!r}.{spec.meant(kind, NAMES)}")
    if kind == WEB and path.suffix in ENDINGS.values():
        raise UsageError(f"An export to web is a folder. Got {path.name}, which is the name of a file.")
    if kind != WEB and path.suffix != ENDINGS[kind]:
        raise UsageError(f"A file for {kind} ends in {ENDINGS[kind]}. Got {path.name}.")
    if kind == TORCH:
        extras.needed("torch", "An export to torch")
    if kind == OPENVINO:
        extras.needed("openvino", "An export to openvino")
    if int8 and kind == WEB:
        raise UsageError("In browsers 8-bit numbers are slower than float32 and answer otherwise. Leave --int8 out.")
    if int8 and kind != ONNX:
        raise UsageError(f"int8 is for onnx. Got {kind}. Leave --int8 out, or write a file .onnx.")
    if int8 and blind:
        raise UsageError("int8 needs pictures, to find the ranges of numbers on: name them with --check photos/.")
    return kind
