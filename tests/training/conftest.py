"""Tiny networks with weights of their own in a folder, and pictures prepared for training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from graft.networks import catalog


@torch.no_grad()
def _shaken(module: nn.Module) -> nn.Module:
    """Move scales, biases and statistics far from where they start, so that answers depend on the picture."""
    random = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.ndim == 4:
            nn.init.kaiming_normal_(weight, generator=random)
        elif weight.ndim == 1 and "bias" not in name:
            weight.uniform_(0.5, 1.5, generator=random)
        elif weight.ndim == 1 or not weight.any():
            weight.normal_(0, 0.1, generator=random)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=random)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=random)
    return module


def written(name: str, folder: Path) -> Path:
    """A file with random weights for this network, as if it had been pretrained."""
    path = folder / f"{name}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        save_file(_shaken(catalog.build(catalog.find(name))).state_dict(), path)
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
    return _shaken
