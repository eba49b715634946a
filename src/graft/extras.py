"""Optional packages that some jobs need, and the commands that install them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from graft.errors import UsageError

TRAIN = "train"
EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "peft", "sklearn", "huggingface_hub"), TRAIN),
    "pyarrow": "parquet",
    "openvino": "openvino",
    **dict.fromkeys(("httpx2", "protego"), "collect"),
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
    "datasets": "hf",
    "pandas": "pandas",
}
TITLES = {"torch": "PyTorch", "sklearn": "scikit-learn"}  # of packages that are imported by another name


def require_package(package: str, what: str) -> None:
    """Raise UsageError if a package is not installed that `what`, the beginning of a sentence, needs.

    Nothing is imported to find out: it costs no time, and goes before any work.
    """
    if find_spec(package) is None:
        raise UsageError(format_missing_message(package, what))


def import_optional(package: str, what: str) -> Any:
    """Import a package of EXTRAS. Raises UsageError where it is not installed; `what` begins the sentence."""
    require_package(package, what)
    return import_module(package)


def format_missing_message(package: str, what: str = "This") -> str:
    """Return the message about a package of EXTRAS that is not installed."""
    extra = EXTRAS[package]
    message = (
        f"{what} needs {TITLES.get(package, package)}, which is not installed: pip install 'graft-vision[{extra}]'"
    )
    if extra == TRAIN:
        message += f", or, without what only GPUs need, uv pip install --torch-backend cpu 'graft-vision[{extra}]'"
    return f"{message}."
