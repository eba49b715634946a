"""A classifier as a program of torch.export (.pt2): what PyTorch runs without graft, timm or the network's code."""

from __future__ import annotations

import zipfile
from pathlib import Path

from graft.extras import needed
from graft.jobs.export.parity import Answering, Described, Run, told
from graft.model.classifier import Classifier
from graft_runtime import contract
from graft_runtime.contract import CARD

SUFFIX = ".pt2"


def check() -> None:
    """Raises UsageError where PyTorch is not installed."""
    needed("torch", "A program of torch.export is written by PyTorch, and that")


def made(classifier: Classifier) -> tuple[tuple[str, ...], Described]:
    """The names of the outputs, and the file by its description. Raises whatever torch.export does."""
    from graft.torch import program

    return program.made(classifier)


def opened(content: bytes) -> tuple[Answering, Run, str]:
    """The file at work: how it answers images, what it finds of pixels, and in what. Raises ModelError."""
    from graft.torch import program

    run, texts = program.opened(content)
    return told(run, *contract.understood(texts)), run, program.RUNTIME


def is_ours(path: Path) -> bool:
    """Whether the file is such a program, written by graft."""
    if not path.is_file() or not zipfile.is_zipfile(path):  # a pipe would be waited for
        return False
    with zipfile.ZipFile(path) as file:
        return any(name.endswith(f"/extra/{CARD}") for name in file.namelist())
