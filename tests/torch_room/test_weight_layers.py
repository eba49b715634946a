"""Layers as a person counts them: every weight once, in the order of a forward pass, norms with what they follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.catalog import CatalogEntry
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import WeightsSource
from graft.torch.chain import find_weight_layers
from graft.torch.network import BackboneModule, FeaturesModule
from graft.torch.restore import build_random_module


def features_of(name: str, size: int = 64, layers: tuple[str, ...] = (), top: bool = True) -> FeaturesModule:
    backbone = build_random_module(name)
    return FeaturesModule(backbone.module, replace(backbone.preprocess, size=size, resize=size), layers, top)


def test_the_last_layers_of_mobilenet_are_convolutions_with_their_norms() -> None:
    *_, last = found = find_weight_layers(features_of("mobilenetv2_100"))
    assert len(found) == 52
    assert (last.name, last.parameters) == ("conv_head", 320 * 1280 + 2 * 1280)
    assert last.tensors == ("conv_head.weight", "bn2.weight", "bn2.bias")  # the norm is a stage of its own
    assert found[-2].tensors == tuple(f"blocks.6.0.{name}" for name in ("conv_pwl.weight", "bn3.weight", "bn3.bias"))


def test_a_transformer_has_four_layers_a_block_and_scales_belong_to_what_they_follow() -> None:
    vit = find_weight_layers(features_of("test_vit", 160))
    assert [layer.name.removeprefix("blocks.5.") for layer in vit[-4:]] == [
        "attn.qkv",
        "attn.proj",
        "mlp.fc1",
        "mlp.fc2",
    ]
    assert vit[-1].tensors[-2:] == ("norm.weight", "norm.bias")
    assert vit[0].tensors[2:4] == ("cls_token", "pos_embed")
    assert find_weight_layers(features_of("test_convnext"))[-1].tensors == (
        "stages.3.blocks.1.mlp.fc2.weight",
        "stages.3.blocks.1.mlp.fc2.bias",
        "stages.3.blocks.1.gamma",
        "head.norm.weight",
        "head.norm.bias",
    )


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("test_resnet", 64, 15),
        ("test_vit", 160, 25),
        ("test_convnext", 64, 31),
        ("googlenet", 64, 57),
        ("cnn", 32, 4),
        ("mlp", 32, 2),
        ("rnn", 32, 1),  # the four tensors of its GRU are one layer
    ],
)
def test_every_parameter_is_in_one_layer(name: str, size: int, count: int) -> None:
    features = features_of(name, size)
    found = find_weight_layers(features)
    tensors = [tensor for layer in found for tensor in layer.tensors]
    whole = dict(features.backbone.named_parameters())
    assert sorted(tensors) == sorted(whole)
    assert [layer.parameters for layer in found] == [
        sum(whole[each].numel() for each in layer.tensors) for layer in found
    ]
    assert len(found) == count == len({layer.name for layer in found})


def test_what_is_not_needed_is_not_counted_and_modes_stay() -> None:
    features = features_of("test_resnet", layers=("layer2",), top=False).train()
    found = find_weight_layers(features)
    assert found[-1].name.startswith("layer2.")
    assert all(part.training for part in features.modules())


class Read(nn.Module):
    """Scales its input first, and reads the weights of a layer that it never calls, as BEiT's attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.late, self.read, self.first = nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images.mean((2, 3)) * self.scale)
        assert self.late.weight.dtype == x.dtype  # only asked for its type
        return self.late(functional.linear(x, self.read.weight, self.read.bias))


def test_layers_that_are_read_but_not_called_count_and_come_in_the_order_of_use() -> None:
    entry = CatalogEntry("read", "timm", None, None, 8, "")
    backbone = BackboneModule(entry, Read(), Preprocess(size=8, resize=8), WeightsSource("file", None, "", ""))
    found = find_weight_layers(FeaturesModule(backbone.module, backbone.preprocess, ()))
    assert [layer.name for layer in found] == ["first", "read", "late"]
    assert found[0].tensors == ("scale", "first.weight", "first.bias")
