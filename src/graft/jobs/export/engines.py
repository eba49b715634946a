"""Run an exported file: OpenVINO and torch.export programs, for the parity check."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.extras import require_package
from graft.jobs.export.parity import AnswerStream, BuildFile, RunPixels, build_answer_stream
from graft.model.classifier import Classifier
from graft_runtime import contract
from graft_runtime.contract import CARD, PROBABILITIES, UNKNOWN

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's default is 16 bits on some processors
SUFFIX = ".pt2"


# --- OpenVINO ---------------------------------------------------------------------------------------------------------


def open_openvino(content: bytes) -> tuple[AnswerStream, RunPixels, str]:
    """Load the file in OpenVINO; return (predictions of images, outputs of pixels, name and version of the runtime).

    Raises ModuleNotFoundError without the package, RuntimeError where OpenVINO cannot run the file.
    """
    import openvino

    core = openvino.Core()
    model = core.compile_model(core.read_model(content, b""), "CPU", EXACT)

    def run(images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        found = model(images)
        return {name: found[name] for name in (PROBABILITIES, UNKNOWN)}

    return (
        build_answer_stream(run, *contract.read_description(content)),
        run,
        f"openvino {openvino.__version__.partition('-')[0]}",
    )


# --- torch.export -----------------------------------------------------------------------------------------------------


def check() -> None:
    """Raise UsageError where PyTorch is not installed."""
    require_package("torch", "A program of torch.export is written by PyTorch, and that")


def build_program(classifier: Classifier) -> tuple[tuple[str, ...], BuildFile]:
    """Return the names of the outputs, and what builds the file. Raises whatever torch.export raises."""
    from graft.torch import program

    return program.export_program(classifier)


def open_program(content: bytes) -> tuple[AnswerStream, RunPixels, str]:
    """Load the file in PyTorch; returns as `open_openvino`. Raises ModelError."""
    from graft.torch import program

    run, texts = program.load_program(content)
    return build_answer_stream(run, *contract.parse_properties(texts)), run, program.RUNTIME


def is_ours(path: Path) -> bool:
    """Whether the file is a program of torch.export written by graft."""
    if not path.is_file() or not zipfile.is_zipfile(path):  # is_file: reading a pipe would block
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith(f"/extra/{CARD}") for name in file.namelist())
