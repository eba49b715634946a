"""Features: pooled layers side by side, and a key that changes exactly when they do."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError
from graft.heads.designs import Conv, Linear
from graft.torch import engine
from graft.torch.head import HeadModule, build_head
from graft.torch.network import (
    FeaturesModule,
    ForwardStopped,
    NetworkModule,
    collect_outputs,
    normalise,
    pool_output,
    to_feature_map,
)

PLAIN = Preprocess(size=8, resize=8)


@pytest.fixture
def backbone() -> nn.Module:
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts).eval()


def test_features_are_each_layer_averaged_over_space_and_then_the_last(backbone: nn.Module) -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8)).to(torch.uint8)
    network = FeaturesModule(backbone, PLAIN, ("0", "2"))
    normal = normalise(PLAIN, images)
    first = backbone.get_submodule("0")(normal)
    want = torch.cat([first.mean((2, 3)), backbone(normal), backbone(normal)], dim=1)
    assert torch.allclose(network(images), want, atol=1e-6)
    assert network.widths == (4, 5, 5)
    assert network.width == 14
    assert not backbone.get_submodule("0")._forward_hooks


def test_a_network_is_its_head_on_its_features(backbone: nn.Module) -> None:
    network = NetworkModule(
        FeaturesModule(backbone, PLAIN, ()), HeadModule({"kind": "linear", "width": 5, "classes": 2})
    )
    images = torch.randint(0, 256, (3, 3, 8, 8)).to(torch.uint8)
    assert torch.equal(network(images), network.head(network.features(images)))
    assert network.preprocess is PLAIN


def test_the_key_is_the_same_for_a_network_that_computes_the_same(backbone: nn.Module) -> None:
    key = FeaturesModule(backbone, PLAIN, ("0",)).cache_key()
    twin = copy.deepcopy(backbone).train().to(memory_format=torch.channels_last)
    assert FeaturesModule(twin, replace(PLAIN), ("0",)).cache_key() == key
    assert len(key) == 32


def test_the_key_changes_with_every_tensor_the_layers_and_the_preprocessing(backbone: nn.Module) -> None:
    keys = {FeaturesModule(backbone, PLAIN, ("0",)).cache_key(), FeaturesModule(backbone, PLAIN, ("2",)).cache_key()}
    keys |= {
        FeaturesModule(backbone, PLAIN, ("0", "2")).cache_key(),
        FeaturesModule(backbone, PLAIN, ("2", "0")).cache_key(),
    }
    changes = [{"size": 9}, {"resize": 9}, {"crop": "squash"}, {"interpolation": "bilinear"}]
    changes += [{"mean": (0.1, 0.2, 0.3)}, {"std": (0.1, 0.2, 0.3)}]
    keys |= {FeaturesModule(backbone, replace(PLAIN, **change), ("0",)).cache_key() for change in changes}  # type: ignore[arg-type]
    for name in backbone.state_dict():
        other = copy.deepcopy(backbone)
        tensor = other.state_dict()[name].view(-1)
        tensor[-1] += 1  # the last number of each tensor, running statistics too
        keys.add(FeaturesModule(other, PLAIN, ("0",)).cache_key())
    assert len(keys) == 4 + len(changes) + len(backbone.state_dict())


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((2, 6, 3, 3), (2, 3)), ((2, 3, 3, 6), (1, 2)), ((2, 5, 6), (1,)), ((2, 3, 3, 3), (2, 3)), ((2, 6, 1, 1), (2, 3))],
)
def test_pooling_averages_over_places_however_they_are_laid_out(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    output = torch.randn(shape)
    assert torch.allclose(pool_output(output), output.mean(axes))


def test_pooling_leaves_a_vector_alone() -> None:
    output = torch.randn(2, 6)
    assert pool_output(output) is output


def test_hooks_are_gone_after_an_error(backbone: nn.Module) -> None:
    with pytest.raises(ZeroDivisionError), collect_outputs(backbone, ["0", "2"]):
        raise ZeroDivisionError
    assert not any(part._forward_hooks for part in backbone.modules())


# --- early features and maps ------------------------------------------------------------------------------------------

SMALL = Preprocess(size=64, resize=64)


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0).eval().requires_grad_(False)


def images(side: int, count: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_early_features_are_all_features_without_the_last_and_what_comes_after_is_not_run(backbone: nn.Module) -> None:
    whole = FeaturesModule(backbone, PLAIN, ("2", "0"))
    want = whole(images(8))[:, :9]
    for late in (3, 4):
        backbone[late] = Never()  # type: ignore[index]
    early = FeaturesModule(backbone, PLAIN, ("2", "0"), top=False)
    assert torch.equal(early(images(8)), want)
    assert early.widths == (5, 4)
    assert early.shape == (9,)
    assert not any(part._forward_hooks for part in backbone.modules())


class Never(nn.Module):
    """Has weights, and fails when it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, _features: torch.Tensor) -> torch.Tensor:
        raise AssertionError("this layer comes after the last that is needed")


def test_the_map_of_one_layer_is_flattened_and_its_shape_is_known(backbone: nn.Module) -> None:
    features = FeaturesModule(backbone, PLAIN, ("0",), pool=False)
    want = backbone.get_submodule("0")(normalise(PLAIN, images(8)))
    assert torch.equal(features(images(8)), want.flatten(1))
    assert (features.shape, features.widths, features.top) == ((4, 6, 6), (144,), False)


@pytest.mark.parametrize(
    ("name", "layers", "side"),
    [
        ("test_resnet", ("layer2",), 64),
        ("test_convnext", ("stages.0", "stages.2"), 64),
        ("test_vit", ("blocks.1",), 160),
    ],
)
def test_early_features_are_exported_and_give_the_same_numbers(name: str, layers: tuple[str, ...], side: int) -> None:
    features = FeaturesModule(tiny(name), Preprocess(size=side, resize=side), layers, top=False).eval()
    run = engine.compile(features, side)
    assert isinstance(run, engine.OnnxRuntimeNetwork)
    want = features(images(side)).numpy()
    assert abs(run(images(side).numpy()) - want).max() < 1e-4 * abs(want).max()


@pytest.mark.parametrize(
    ("name", "layer", "shape"), [("test_resnet", "layer3", (192, 4, 4)), ("swin", "1", (12, 16, 16))]
)
def test_a_conv_head_on_a_map_is_exported_and_gives_the_same_numbers(
    name: str, layer: str, shape: tuple[int, ...]
) -> None:
    backbone = tiny(name) if name != "swin" else nn.Sequential(nn.Conv2d(3, 12, 4, 4), ChannelsLast()).eval()
    features = FeaturesModule(backbone, SMALL, (layer,), pool=False)
    assert features.shape == shape
    network = NetworkModule(features, build_head(Conv(), features.shape, 3)).eval().requires_grad_(False)
    run = engine.compile(network, 64)
    assert isinstance(run, engine.OnnxRuntimeNetwork)
    want = network(images(64)).numpy()
    assert abs(want[0] - want[1]).max() > 0
    assert abs(run(images(64).numpy()) - want).max() < 1e-4 * abs(want).max()


class ChannelsLast(nn.Module):
    """Lays its maps out as Swin does."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.permute(0, 2, 3, 1)


def test_a_map_with_channels_last_is_the_one_with_channels_first() -> None:
    maps = torch.randn(2, 6, 3, 3)
    assert torch.equal(to_feature_map("a", maps.permute(0, 2, 3, 1)), maps)
    assert to_feature_map("a", maps) is maps


def test_a_network_of_tokens_has_no_map_and_says_so() -> None:
    with pytest.raises(UsageError, match=r"The layer 'blocks.1' gives no feature map but \[101, 64\] numbers"):
        FeaturesModule(tiny("test_vit"), Preprocess(size=160, resize=160), ("blocks.1",), pool=False).shape  # noqa: B018


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ((), {"top": False}, "Early features need the name of at least one layer"),
        ((), {"pool": False}, "A feature map is that of one layer. Got 0"),
        (("0", "2"), {"pool": False}, "A feature map is that of one layer. Got 2: 0, 2"),
    ],
)
def test_features_that_cannot_be_say_why(
    backbone: nn.Module, layers: tuple[str, ...], options: dict[str, bool], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        FeaturesModule(backbone, PLAIN, layers, **options)


def test_the_key_tells_early_features_and_maps_apart_and_stays_what_it_was_for_all_others(backbone: nn.Module) -> None:
    for tensor in backbone.state_dict().values():
        tensor.zero_()
    keys = [
        FeaturesModule(backbone, PLAIN, ("0",), **options).cache_key()
        for options in ({}, {"top": False}, {"pool": False})
    ]
    assert len(set(keys)) == 3
    assert keys[0] == "3b18eb13765ea69f291927371bcae6c7"  # of format 2: what it cached is still found


def test_stopping_waits_for_the_last_of_the_layers(backbone: nn.Module) -> None:
    layers = nn.Sequential(backbone, Never())
    with pytest.raises(ForwardStopped), collect_outputs(layers, ["0.2", "0.0"], stop=True) as outputs:
        layers(torch.randn(2, 3, 8, 8))
    assert list(outputs) == ["0.0", "0.2"]


def test_what_is_read_early_is_what_stands_there_at_the_end_of_a_whole_pass() -> None:
    """An activation that works in place changes the output of the layer before it."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.AdaptiveAvgPool2d(1))
    whole = nn.Sequential(*whole, nn.Flatten()).eval()
    early = FeaturesModule(whole, PLAIN, ("0",), top=False)(images(8))
    assert (early >= 0).all()
    assert torch.equal(early, FeaturesModule(whole, PLAIN, ("0",))(images(8))[:, :4])


def test_a_linear_head_on_early_features_is_a_network(backbone: nn.Module) -> None:
    features = FeaturesModule(backbone, PLAIN, ("0",), top=False)
    assert NetworkModule(features, build_head(Linear(), features.width, 2))(images(8)).shape == (8, 2)
