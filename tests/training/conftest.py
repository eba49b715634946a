"""Tiny networks with weights of their own in a folder, and pictures prepared for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from shaken import shaken as shake
from torch import nn

from graft.backbones import catalog
from graft.torch import build


def written(name: str, folder: Path) -> Path:
    """A file with random weights for this network, as if it had been pretrained."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(shake(build.build(catalog.find(name))).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for GRAFT_WEIGHTS."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("test_resnet", "test_vit"):
        written(name, folder)
    return folder


@pytest.fixture(scope="session")
def shaken() -> Callable[[nn.Module], nn.Module]:
    """Moves a network's numbers far from where they start."""
    return shake
