"""Random weights: a function of the seed, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.errors import UsageError
from graft.torch.restore import backbone_to_module, build_random_backbone, build_random_module

NAMES = ["mlp", "cnn", "rnn", "test_resnet", "test_vit", "test_convnext", "squeezenet1_1"]


def state(name: str, seed: int) -> dict[str, Tensor]:
    return build_random_module(name, seed).module.state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights_and_torch_is_left_as_it_was(name: str) -> None:
    torch.manual_seed(1)
    first = state(name, 5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    again, other = state(name, 5), state(name, 6)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", ["rnn", "test_resnet"])
def test_a_fresh_backbone_is_as_a_pretrained_one(name: str, tmp_path: Path) -> None:
    fresh = build_random_module(name, 3)
    safetensors.torch.save_file(fresh.module.state_dict(), tmp_path / "weights.safetensors")
    pretrained = load_backbone(name, tmp_path / "weights.safetensors", cache=tmp_path)
    loaded = backbone_to_module(pretrained)
    assert (fresh.entry, fresh.preprocess) == (loaded.entry, loaded.preprocess)
    assert not any(part.training for part in fresh.module.modules())
    assert not any(each.requires_grad for each in fresh.module.parameters())
    side = fresh.preprocess.size
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fresh.module(images), loaded.module(images))
    drawn = build_random_backbone(name, 3)
    assert (drawn.entry, drawn.preprocess, drawn.source) == (fresh.entry, fresh.preprocess, fresh.source)
    assert drawn.graph.structure == pretrained.graph.structure
    assert all(np.array_equal(each, drawn.graph.tensors[name]) for name, each in pretrained.graph.tensors.items())


def test_the_source_says_that_nothing_was_taken_from_anywhere() -> None:
    source = build_random_backbone("cnn", 7).source
    assert (source.where, source.path, source.licence, source.sha256) == ("random", None, catalog.NOT_NEEDED, "")
    assert source.origin == "drawn with seed 7"


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no network 'cnnn'"):
        build_random_backbone("cnnn", 0)
