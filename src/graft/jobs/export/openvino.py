"""The same ONNX file in OpenVINO, for those who run it there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.jobs.export.parity import Answering, Run, told
from graft_runtime import contract
from graft_runtime.contract import PROBABILITIES, UNKNOWN

EXACT = {"INFERENCE_PRECISION_HINT": "f32"}  # some processors would be given 16 bits


def opened(content: bytes) -> tuple[Answering, Run, str]:
    """The file at work: how it answers pictures, what it finds of pixels, and in what.

    Raises ModuleNotFoundError without the package, RuntimeError where OpenVINO cannot run the file.
    """
    import openvino

    core = openvino.Core()
    model = core.compile_model(core.read_model(content, b""), "CPU", EXACT)

    def run(images: NDArray[np.uint8]) -> Mapping[str, NDArray[Any]]:
        found = model(images)
        return {name: found[name] for name in (PROBABILITIES, UNKNOWN)}

    return told(run, *contract.read(content)), run, f"openvino {openvino.__version__.partition('-')[0]}"
