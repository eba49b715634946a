"""Export formats: their choice, OpenVINO, programs of torch.export, and int8 quantisation."""

from __future__ import annotations

from pathlib import Path

from graft import extras, spec
from graft.errors import UsageError

NAMES = ONNX, OPENVINO, TORCH, WEB = "onnx", "openvino", "torch", "web"
ENDINGS = {ONNX: ".onnx", OPENVINO: ".onnx", TORCH: ".pt2"}
FLOAT32, INT8 = "float32", "int8"


def choose_format(to: str | None, path: Path, int8: bool, *, without_images: bool) -> str:
    """Return the requested format, or that of the file's ending. Raises UsageError for an invalid combination."""
    kind = to or (TORCH if path.suffix == ENDINGS[TORCH] else ONNX)
    if kind not in NAMES:
        raise UsageError(f"An export is to {', '.join(NAMES)}. Got {kind!r}.{spec.format_suggestions(kind, NAMES)}")
    if kind == WEB and path.suffix in ENDINGS.values():
        raise UsageError(f"An export to web is a folder. Got {path.name}, which is the name of a file.")
    if kind != WEB and path.suffix != ENDINGS[kind]:
        raise UsageError(f"A file for {kind} ends in {ENDINGS[kind]}. Got {path.name}.")
    if kind == TORCH:
        extras.require_package("torch", "An export to torch")
    if kind == OPENVINO:
        extras.require_package("openvino", "An export to openvino")
    if int8 and kind == WEB:
        raise UsageError("In browsers 8-bit numbers are slower than float32 and answer otherwise. Leave --int8 out.")
    if int8 and kind != ONNX:
        raise UsageError(f"int8 is for onnx. Got {kind}. Leave --int8 out, or write a file .onnx.")
    if int8 and without_images:
        raise UsageError("int8 needs images, to find the ranges of numbers on: name them with --check photos/.")
    return kind
