"""Inference with exported files: decode an image, run the network, decide. Never imports torch.

>>> import graft_runtime
>>> graft_runtime.load("flowers.onnx").predict("photo.jpg")[0].label  # doctest: +SKIP
'daisy'
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# ONNX Runtime since 1.29 sends telemetry unless this is set before it is imported; and the threads
# that do it are missing in the child of a fork, which then never ends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ does it
    from graft_runtime.predictor import load

__version__ = "0.1.0.dev0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import ONNX Runtime on first use only: graft itself needs the decoder alone."""
    if name not in __all__:
        raise AttributeError(f"module 'graft_runtime' has no attribute {name!r}")
    return getattr(import_module("graft_runtime.predictor"), name)
