"""The device that networks run on: chosen once for the whole process, and checked before any work."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from graft import extras
from graft.errors import UsageError

AUTO, CPU, CUDA, MPS = NAMES = "auto", "cpu", "cuda", "mps"


@dataclass
class _DeviceChoice:
    """The device of this process."""

    name: str = AUTO


_CURRENT = _DeviceChoice()


def current_device() -> str:
    """Return the chosen device; 'auto' is a GPU where PyTorch finds one, else the CPU."""
    return _CURRENT.name


def is_gpu_likely() -> bool:
    """Whether it is worth asking PyTorch for a GPU, which takes seconds: one was chosen, or the system has one."""
    if _CURRENT.name != AUTO:
        return _CURRENT.name != CPU
    has_gpu = Path("/dev/nvidiactl").exists() or (sys.platform == "darwin" and platform.machine() == "arm64")
    return has_gpu and find_spec("torch") is not None


def use(name: str, model: str | Path | None = None) -> None:
    """Set the device of every network of this process, from now on.

    Raises UsageError for a name that there is not, for a GPU that is not there, and for a GPU where `model` is an
    exported file, which ONNX Runtime runs on the CPU.

    >>> use("cpu"); current_device()
    'cpu'
    >>> use("auto")
    """
    if name not in NAMES:
        raise UsageError(f"A device is {', '.join(NAMES)}. Got {name!r}.")
    if name in (CUDA, MPS):
        if model is not None and Path(model).is_file():
            raise UsageError(f"{model} is an exported file, which runs on the CPU. Leave the device out.")
        _check_available(name)
    _CURRENT.name = name


def _check_available(name: str) -> None:
    extras.require_package("torch", f"The device {name!r}")
    import torch  # seconds, which whoever has a GPU spends anyway

    available = torch.cuda.is_available() if name == CUDA else torch.backends.mps.is_available()
    if not available:
        raise UsageError(
            f"PyTorch {torch.__version__} finds no device {name!r} here. Leave the device out, or choose {CPU}."
        )
