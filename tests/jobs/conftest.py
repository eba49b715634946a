"""A classifier that was trained and saved, and weights that were not, for the jobs that use them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from graft.backbones import catalog
from graft.jobs.fit import fit
from graft.torch import build


@pytest.fixture(scope="module")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jobs") / "model"
    fit(photos, folder, strategy="probe:head=ridge,layers=last")
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of test_resnet, as if they had been pretrained; features of an image differ by much."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(build.build_network(catalog.find_entry("test_resnet")).state_dict(), path)
    return path
