"""Features: pooled layers side by side, and a key that changes exactly when they do."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from graft.networks.head import Head
from graft.networks.network import Features, Network, heard, pooled
from graft.networks.preprocess import Preprocess

PLAIN = Preprocess(size=8, resize=8)


@pytest.fixture
def backbone() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts).eval()


def test_features_are_each_layer_averaged_over_space_and_then_the_last(backbone: nn.Module) -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8)).to(torch.uint8)
    network = Features(backbone, PLAIN, ("0", "2"))
    normal = PLAIN.normalise(images)
    first = backbone.get_submodule("0")(normal)
    want = torch.cat([first.mean((2, 3)), backbone(normal), backbone(normal)], dim=1)
    assert torch.allclose(network(images), want, atol=1e-6)
    assert network.widths == (4, 5, 5)
    assert network.width == 14
    assert not backbone.get_submodule("0")._forward_hooks


def test_a_network_is_its_head_on_its_features(backbone: nn.Module) -> None:
    network = Network(Features(backbone, PLAIN, ()), Head({"kind": "linear", "width": 5, "classes": 2}))
    images = torch.randint(0, 256, (3, 3, 8, 8)).to(torch.uint8)
    assert torch.equal(network(images), network.head(network.features(images)))
    assert network.preprocess is PLAIN


def test_the_key_is_the_same_for_a_network_that_computes_the_same(backbone: nn.Module) -> None:
    key = Features(backbone, PLAIN, ("0",)).key()
    twin = copy.deepcopy(backbone).train().to(memory_format=torch.channels_last)
    assert Features(twin, replace(PLAIN), ("0",)).key() == key
    assert len(key) == 32


def test_the_key_changes_with_every_tensor_the_layers_and_the_preprocessing(backbone: nn.Module) -> None:
    keys = {Features(backbone, PLAIN, ("0",)).key(), Features(backbone, PLAIN, ("2",)).key()}
    keys |= {Features(backbone, PLAIN, ("0", "2")).key(), Features(backbone, PLAIN, ("2", "0")).key()}
    changes = [{"size": 9}, {"resize": 9}, {"crop": "squash"}, {"interpolation": "bilinear"}]
    changes += [{"mean": (0.1, 0.2, 0.3)}, {"std": (0.1, 0.2, 0.3)}]
    keys |= {Features(backbone, replace(PLAIN, **change), ("0",)).key() for change in changes}  # type: ignore[arg-type]
    for name in backbone.state_dict():
        other = copy.deepcopy(backbone)
        tensor = other.state_dict()[name].view(-1)
        tensor[-1] += 1  # the last number of each tensor, running statistics too
        keys.add(Features(other, PLAIN, ("0",)).key())
    assert len(keys) == 4 + len(changes) + len(backbone.state_dict())


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((2, 6, 3, 3), (2, 3)), ((2, 3, 3, 6), (1, 2)), ((2, 5, 6), (1,)), ((2, 3, 3, 3), (2, 3)), ((2, 6, 1, 1), (2, 3))],
)
def test_pooling_averages_over_places_however_they_are_laid_out(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    assert torch.allclose(pooled(output), output.mean(axes))


def test_pooling_leaves_a_vector_alone() -> None:
    output = torch.randn(2, 6)
    assert pooled(output) is output


def test_hooks_are_gone_after_an_error(backbone: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), heard(backbone, ["0", "2"]):
        raise ZeroDivisionError
    assert not any(part._forward_hooks for part in backbone.modules())
