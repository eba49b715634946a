"""The cut: frozen half then tuned half is the whole network, and training the one trains the other.

Every network is shaken first: with freshly drawn weights many answer the same for every image, and any cut would do.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch
from shaken import shaken, slim_networks
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones import catalog
from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import Stage
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import WeightsSource
from graft.errors import CutError, UsageError
from graft.torch import build, cut
from graft.torch import chain as chains
from graft.torch.head import HeadModule
from graft.torch.network import BackboneModule, FeaturesModule, NetworkModule

LARGE = (
    "vgg16",
    "densenet121",
    "swin_tiny_patch4_window7_224",
    "inception_v3",
    "resnet50",
    "convnext_tiny",
    "googlenet",
)
BORDERS = [  # network, images' side, borders
    ("alexnet", 96, ["features.3", "features.10", "classifier.4"]),
    ("vgg16", 64, ["features.10"]),
    ("googlenet", 64, ["conv2", "inception4c", "inception5b"]),
    ("inception_v3", 96, ["Conv2d_2b_3x3", "Mixed_6b", "Mixed_7c"]),
    ("resnet50", 64, ["layer1.0", "layer3.2", "layer4.2"]),
    ("densenet121", 64, ["features.denseblock1", "features.denseblock3", "features.norm5"]),
    ("mobilenet_v2", 64, ["blocks.1.0", "blocks.4.1", "conv_head"]),
    ("tf_efficientnet_lite0", 64, ["bn1", "blocks.3.1", "blocks.6"]),
    ("convnext_tiny", 64, ["stages.1", "stages.3.blocks.1", -1]),
    ("deit_tiny_patch16_224", 64, ["blocks.0", "blocks.6", "norm"]),
    ("swin_tiny_patch4_window7_224", 112, ["layers.1", "layers.3.blocks.1"]),
]
FIXED = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224")  # built for one size of image


def around(module: nn.Module, entry: CatalogEntry, size: int) -> BackboneModule:
    preprocess = Preprocess(size=size, resize=size)
    return BackboneModule(entry, shaken(module.eval()), preprocess, WeightsSource("file", None, "", ""))


def backbone_of(name: str, size: int) -> BackboneModule:
    torch.manual_seed(0)
    entry = catalog.find_entry(name)
    if name in FIXED:
        return around(timm.create_model(name, img_size=size, num_classes=0), entry, size)
    with slim_networks():  # a border is a border, whether dense layers have 4096 units or 128
        return around(build.remove_classifier(entry, build.build_network(entry)), entry, size)


def network_of(backbone: BackboneModule, classes: int = 3) -> NetworkModule:
    torch.manual_seed(0)
    features = FeaturesModule(backbone.module, backbone.preprocess, ())
    return NetworkModule(features, HeadModule({"kind": "linear", "width": features.width, "classes": classes})).eval()


def draw_batch(size: int, count: int = 3) -> Tensor:
    """Noise of different brightness and contrast."""
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    strength = torch.linspace(10, 90, count).view(-1, 1, 1, 1)
    return (noise * strength + 100 + strength).clamp(0, 255).to(torch.uint8)


def pointers(module: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in [*module.parameters(), *module.buffers()] if tensor.numel()}


# --- the halves are the whole -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "borders"),
    [pytest.param(*each, id=each[0], marks=[pytest.mark.slow] * (each[0] in LARGE)) for each in BORDERS],
)
def test_the_halves_in_a_row_are_the_network(name: str, size: int, borders: list[Any]) -> None:
    backbone = backbone_of(name, size)
    network, images = network_of(backbone), draw_batch(size)
    with torch.no_grad():
        want = network(images)
    spread = (want[0] - want[1]).abs().max()
    assert spread > 1e-3 * want.abs().max()  # the answer does depend on the image
    own = pointers(network)
    for border in borders:
        halves = cut.cut_network(network, backbone, border)
        assert halves.border == border or border == -1
        with torch.no_grad():
            crossing = halves.frozen(images)
            got = halves.tuned.eval()(crossing)
        assert len(crossing) == len(images)
        assert (got - want).abs().max() <= 1e-4 * spread, border
        rest = halves.tuned.get_submodule("0")
        assert pointers(halves.tuned) - {rest.get_buffer("blank").data_ptr()} <= own  # shared, never copied
        assert {id(each) for each in halves.tuned.parameters()} <= {id(each) for each in network.parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vgg16", "tf_efficientnet_lite0", "mobilenet_v2", "resnet50", "googlenet"])
def test_every_border_works(name: str) -> None:
    backbone = backbone_of(name, 64)
    network, images = network_of(backbone), draw_batch(64)
    with torch.no_grad():
        want = network(images)
        for stage in chains.find_stages(backbone)[1:]:
            halves = cut.cut_network(network, backbone, stage.name)
            got = halves.tuned.eval()(halves.frozen(images))
            assert (got - want).abs().max() <= 1e-4 * (want[0] - want[1]).abs().max(), stage.name


# --- training ---------------------------------------------------------------------------------------------------------


def trained(module: nn.Module, inputs: Tensor, epochs: int = 2) -> None:
    """Plain SGD in batches of four, in order."""
    weights = [each for each in module.parameters() if each.requires_grad]
    sgd = torch.optim.SGD(weights, lr=0.01, momentum=0.9)
    labels = torch.arange(len(inputs)) % 3
    for _ in range(epochs):
        for start in range(0, len(inputs), 4):
            sgd.zero_grad()
            functional.cross_entropy(module(inputs[start : start + 4]), labels[start : start + 4]).backward()
            sgd.step()


@pytest.mark.parametrize(
    ("name", "border"),
    [  # googlenet's and inception's first stage has a batch norm of its own, and still runs in the tuned half
        ("test_resnet", "layer2"),
        ("mobilenet_v2", "blocks.4.0"),
        ("googlenet", "inception4a"),
        ("test_vit", "blocks.3"),
    ],
)
def test_training_changes_everything_above_the_border_and_nothing_below(name: str, border: str) -> None:
    backbone = backbone_of(name, 64)
    network = network_of(backbone)
    above = tuple(f"{stage.name}." for stage in tail(backbone, border))
    halves = cut.cut_network(network, backbone, border)
    before = copy.deepcopy(network.state_dict())
    halves.frozen.train()
    halves.tuned.train()
    trained(halves.tuned, halves.frozen(draw_batch(64, 8)))
    for key, now in network.state_dict().items():
        inner = key.removeprefix("features.backbone.")
        if inner.startswith(above) or key.startswith("head.judge"):
            assert not torch.equal(now, before[key]), f"{key} was not trained"
        else:
            assert torch.equal(now, before[key]), f"{key} is frozen, and changed"


def tail(backbone: BackboneModule, border: str) -> list[Stage]:
    stages = chains.find_stages(backbone)
    return stages[[stage.name for stage in stages].index(border) :]


@pytest.mark.parametrize(
    ("name", "border"),
    [
        ("test_resnet", "layer3"),
        ("test_vit", "blocks.3"),
        ("test_convnext", "stages.2"),
        pytest.param("mobilenet_v2", "blocks.5.0", marks=pytest.mark.slow),
        pytest.param("googlenet", "inception5a", marks=pytest.mark.slow),
        ("test_resnet", "head"),
    ],
)
def test_training_on_stored_outputs_is_training_with_the_prefix_frozen(name: str, border: str) -> None:
    images, weights = draw_batch(64, 8), list[dict[str, Tensor]]()
    for stored in (True, False):
        backbone = backbone_of(name, 64)
        network = network_of(backbone)
        halves = cut.cut_network(network, backbone, border)
        torch.manual_seed(2)  # of dropout
        if stored:
            trained(halves.tuned.train(), halves.frozen(images).clone())
        else:
            stages = chains.find_stages(backbone)
            below = stages if border == "head" else stages[: -len(tail(backbone, border))]
            network.train(border != "head")
            for stage in below:
                backbone.module.get_submodule(stage.name).eval()
            trained(network, images)
        weights.append(network.state_dict())
    start = network_of(backbone_of(name, 64)).state_dict()
    assert any(not torch.equal(start[key], weights[0][key]) for key in start)
    gap = max(float((one - weights[1][key]).abs().max()) for key, one in weights[0].items())
    assert gap < 1e-6


def test_cutting_a_network_in_train_mode_changes_nothing_in_it() -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone).train()
    before = copy.deepcopy(network.state_dict())
    halves = cut.cut_network(network, backbone, "layer2")
    assert network.training
    crossing = halves.frozen(draw_batch(64))
    assert torch.equal(crossing, copy.deepcopy(halves.frozen).eval()(draw_batch(64)))
    assert all(torch.equal(now, before[key]) for key, now in network.state_dict().items())


def test_what_trains_is_set_stage_by_stage() -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone)
    for border, kept in [
        ("layer3", ("layer3.", "layer4.")),
        ("conv1.3", ("conv1.3", "conv1.4", "conv1.6", "bn1", "l")),
    ]:
        network.requires_grad_(True)
        halves = cut.cut_network(network, backbone, border)
        trains = {name for name, each in backbone.module.named_parameters() if each.requires_grad}
        assert trains == {name for name, _ in backbone.module.named_parameters() if name.startswith(kept)}
        assert all(each.requires_grad for each in network.head.parameters())
        assert not halves.frozen(draw_batch(64)).requires_grad


def test_the_head_alone_is_the_tuned_half_of_a_probe() -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone)
    halves = cut.cut_network(network, backbone, "head")
    assert halves.tuned is network.head
    assert not any(each.requires_grad for each in network.features.parameters())
    images = draw_batch(64)
    assert torch.equal(halves.tuned(halves.frozen(images)), network(images))


@pytest.mark.parametrize(
    ("at", "until", "kept"),
    [
        ("layer2", "layer4", ("layer2.", "layer3.")),
        (-3, -2, ("layer2.",)),
        (0.7, 0.8, ("layer2.",)),
        (0, "layer1", ("conv1.", "bn1.")),
        ("layer4", "head", ("layer4.",)),
        ("layer4", 1.0, ("layer4.",)),
        ("head", "head", ("-",)),
    ],
)
def test_until_leaves_what_lies_above_it_as_it_is(at: Any, until: Any, kept: tuple[str, ...]) -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone)
    halves = cut.cut_network(network, backbone, at, until)
    trains = {name for name, each in backbone.module.named_parameters() if each.requires_grad}
    assert trains == {name for name, _ in backbone.module.named_parameters() if name.startswith(kept)}
    assert all(each.requires_grad for each in network.head.parameters())
    images = draw_batch(64)
    with torch.no_grad():
        assert torch.equal(halves.tuned.eval()(halves.frozen(images)), network(images))


@pytest.mark.parametrize(("at", "until"), [("layer3", "layer3"), ("layer3", "layer2"), ("head", 0.5), (0, 0.0)])
def test_until_must_lie_above_the_cut(at: Any, until: Any) -> None:
    backbone = backbone_of("test_resnet", 64)
    with pytest.raises(UsageError, match=f"'until' must lie above the cut.* Got the cut {at}, stage .* until {until}"):
        cut.cut_network(network_of(backbone), backbone, at, until)


@pytest.mark.parametrize(
    ("name", "count", "border", "kept"),
    [
        ("mobilenetv2_100", 1, "conv_head", ("conv_head.", "bn2.")),
        ("mobilenetv2_100", 2, "blocks.6", ("blocks.6.0.conv_pwl.", "blocks.6.0.bn3.", "conv_head.", "bn2.")),
        ("test_resnet", 1, "layer4", ("layer4.0.downsample.",)),
        ("test_vit", 2, "blocks.5", ("blocks.5.mlp.fc1.", "blocks.5.mlp.fc2.", "norm.")),
        ("test_vit", 25, "patch_embed", ("",)),
    ],
)
def test_the_last_layers_alone_are_trained_from_the_border_below_them(
    name: str, count: int, border: str, kept: tuple[str, ...]
) -> None:
    size = 160 if name == "test_vit" else 64
    backbone = backbone_of(name, size)
    network, images = network_of(backbone), draw_batch(size)
    halves = cut.cut_last_layers(network, backbone, count)
    assert halves.border == border
    trains = {name for name, each in backbone.module.named_parameters() if each.requires_grad}
    assert trains == {name for name, _ in backbone.module.named_parameters() if name.startswith(kept)}
    assert all(each.requires_grad for each in network.head.parameters())
    with torch.no_grad():
        assert torch.equal(halves.tuned.eval()(halves.frozen(images)), network(images))


@pytest.mark.parametrize("count", [0, 16])
def test_more_layers_than_there_are_is_a_usage_error(count: int) -> None:
    backbone = backbone_of("test_resnet", 64)
    with pytest.raises(UsageError, match=f"'last' must be from 1 to 15, which is how many layers .* Got {count}"):
        cut.cut_last_layers(network_of(backbone), backbone, count)


def test_a_cut_before_everything_trains_everything() -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone).requires_grad_(False)
    halves = cut.cut_network(network, backbone, 0)
    assert halves.tuned is network
    assert all(each.requires_grad for each in network.parameters())
    assert torch.equal(halves.frozen(draw_batch(64)), draw_batch(64))


# --- heads that read several layers -----------------------------------------------------------------------------------

READING = [  # network, images' side, layers that the head reads, borders: each with some of them below, some above
    ("test_resnet", 64, ("layer1", "layer3"), ["layer1", "layer2", "layer3", "layer4"]),
    ("deit_tiny_patch16_224", 64, ("blocks.2", "blocks.8"), ["blocks.1", "blocks.3", "blocks.9", "norm"]),
    (
        "densenet121",
        64,
        ("features.denseblock1", "features.denseblock3"),
        ["features.denseblock2", "features.denseblock3", "features.transition3.conv"],
    ),
    ("googlenet", 64, ("conv1", "inception4a", "inception4e"), ["conv2", "inception4b", "inception5a"]),
]


def reading(backbone: BackboneModule, layers: tuple[str, ...], top: bool = True, pool: bool = True) -> NetworkModule:
    """A network whose head reads these layers, its weights such that each feature counts."""
    features = FeaturesModule(backbone.module, backbone.preprocess, layers, top=top, pool=pool)
    torch.manual_seed(0)
    return NetworkModule(features, HeadModule({"kind": "linear", "width": features.width, "classes": 3})).eval()


@pytest.mark.parametrize(
    ("name", "size", "layers", "borders"),
    [pytest.param(*each, id=each[0], marks=[pytest.mark.slow] * (each[0] in LARGE)) for each in READING],
)
def test_a_head_on_several_layers_is_cut_inside_too(
    name: str, size: int, layers: tuple[str, ...], borders: list[str]
) -> None:
    backbone = backbone_of(name, size)
    network, images = reading(backbone, layers), draw_batch(size)
    with torch.no_grad():
        want = network(images)
        parts = network.features.forward_parts(images)
    assert all((part[0] - part[1]).abs().max() > 1e-3 * part.abs().max() for part in parts)  # every layer tells
    spread = (want[0] - want[1]).abs().max()
    names = [stage.name for stage in chains.find_stages(backbone)]
    for border in borders:
        halves = cut.cut_network(network, backbone, border)
        assert halves.border == border
        assert isinstance(halves.frozen, cut.FrozenHalf)
        with torch.no_grad():
            crossing = halves.frozen(images)
            assert (halves.tuned.eval()(crossing) - want).abs().max() <= 1e-4 * spread, border
        assert tuple(crossing.shape) == (3, *halves.frozen.shape)
        below = [part for layer, part in zip(layers, parts, strict=False) if names.index(layer) < names.index(border)]
        if below:  # one row of numbers crosses, and what the head reads below stands at its end
            early = torch.cat(below, dim=1)
            assert torch.equal(crossing[:, -early.shape[1] :], early), border


@pytest.mark.parametrize(("layers", "top"), [(("layer1", "layer3"), True), (("layer2", "layer4"), False)])
@pytest.mark.parametrize("border", ["layer2", "layer3", "layer4"])
def test_training_such_a_head_on_stored_outputs_is_training_with_the_prefix_frozen(
    layers: tuple[str, ...], top: bool, border: str
) -> None:
    images, weights = draw_batch(64, 8), list[dict[str, Tensor]]()
    for stored in (True, False):
        backbone = backbone_of("test_resnet", 64)
        network = reading(backbone, layers, top)
        halves = cut.cut_network(network, backbone, border)
        if stored:
            trained(halves.tuned.train(), halves.frozen(images).clone())
        else:
            network.train()
            for stage in chains.find_stages(backbone)[: -len(tail(backbone, border))]:
                backbone.module.get_submodule(stage.name).eval()
            trained(network, images)
        weights.append(network.state_dict())
    before = reading(backbone_of("test_resnet", 64), layers, top).state_dict()
    above = tuple(f"features.backbone.{stage.name}." for stage in tail(backbone_of("test_resnet", 64), border))
    moved = {key for key in before if not torch.equal(before[key], weights[0][key])}
    assert {key for key in moved if not key.startswith("head.")} == {key for key in before if key.startswith(above)}
    assert {key for key in moved if key.startswith("head.")} == {key for key in before if key.startswith("head.judge")}
    assert max(float((one - weights[1][key]).abs().max()) for key, one in weights[0].items()) < 1e-6


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("border", ["layer3", "layer4", "head"])
def test_a_cut_above_the_only_layer_of_early_features_is_at_the_head(border: str, pool: bool) -> None:
    backbone = backbone_of("test_resnet", 64)
    network = reading(backbone, ("layer2",), top=False, pool=pool)
    halves = cut.cut_network(network, backbone, border)
    assert halves.border == "head"
    assert halves.tuned is network.head
    assert not any(each.requires_grad for each in network.features.parameters())
    images = draw_batch(64)
    assert torch.equal(halves.frozen(images), network.features(images))


@pytest.mark.parametrize("pool", [True, False])
def test_what_early_features_leave_out_is_not_trained(pool: bool) -> None:
    backbone = backbone_of("test_resnet", 64)
    network = reading(backbone, ("layer3",), top=False, pool=pool)
    for border, kept in (("layer2", ("layer2.", "layer3.")), ("layer3", ("layer3.",))):
        halves = cut.cut_network(network, backbone, border)
        assert halves.border == border
        trains = {name for name, each in backbone.module.named_parameters() if each.requires_grad}
        assert trains == {name for name, _ in backbone.module.named_parameters() if name.startswith(kept)}
        images = draw_batch(64)
        with torch.no_grad():
            want = network(images)
            got = halves.tuned.eval()(halves.frozen(images))
        assert (got - want).abs().max() <= 1e-4 * (want[0] - want[1]).abs().max()


def test_what_crosses_has_another_name_where_other_layers_are_read() -> None:
    backbone = backbone_of("test_resnet", 64)
    keys = []
    for layers in ((), ("layer1",), ("layer2",), ("layer1", "layer2")):
        frozen = cut.cut_network(reading(backbone, layers), backbone, "layer3").frozen
        assert isinstance(frozen, cut.FrozenHalf)
        keys.append(frozen.cache_key())
    assert len(set(keys)) == 4


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_a_share_that_is_no_number_is_refused(at: float) -> None:
    backbone = backbone_of("test_resnet", 64)
    with pytest.raises(CutError, match=rf"a share from 0\.0 to 1\.0\. Got {at}\."):
        cut.cut_network(network_of(backbone), backbone, at)


# --- which border -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "border"),
    [
        (-1, "layer4"),
        (7, "layer2"),
        (0.7, "layer2"),
        ("layer2", "layer2"),
        (1.0, "head"),
        (10, "head"),
        (0.0, "conv1.0"),
    ],
)
def test_a_border_is_a_name_an_index_or_a_share(at: Any, border: str) -> None:
    backbone = backbone_of("test_resnet", 64)
    assert cut.cut_network(network_of(backbone), backbone, at).border == border


def test_an_unknown_stage_is_answered_with_all_stages() -> None:
    backbone = backbone_of("test_convnext", 64)
    with pytest.raises(CutError, match=r"no stage 'layer1'\. The stages are stem\.0, stem\.1, .*stages\.3, head, and"):
        cut.cut_network(network_of(backbone), backbone, "layer1")


@pytest.mark.parametrize("at", [11, -11, 1.1, -0.2])
def test_an_index_or_share_outside_the_chain_is_refused(at: Any) -> None:
    backbone = backbone_of("test_resnet", 64)
    with pytest.raises(CutError, match=rf"from -10 to 10 or a share from 0\.0 to 1\.0\. Got {at}"):
        cut.cut_network(network_of(backbone), backbone, at)


class Skipping(nn.Module):
    """Five stages; what the first says skips the next ones and joins again at number `joins` of them."""

    def __init__(self, joins: int) -> None:
        super().__init__()
        self.joins = joins
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))

    def forward(self, images: Tensor) -> Tensor:
        first = x = self.a(images)
        for number, stage in enumerate((self.b, self.c, self.d, self.e, nn.Identity())):
            x = stage(x + first if number == self.joins else x).relu()
        return x.mean((2, 3))


@pytest.mark.parametrize(
    ("to", "at", "hint"),
    [
        (2, "c", r"The nearest border that works is 'd'\."),
        (2, "b", r"The nearest border that works is 'd'\."),
        (1, "b", r"The nearest border that works is 'c'\."),
        (4, "c", r"No border inside this network works"),
    ],
)
def test_where_two_tensors_cross_the_nearest_border_that_works_is_named(to: int, at: str, hint: str) -> None:
    torch.manual_seed(0)
    backbone = around(Skipping(to), CatalogEntry("skipping", "timm", None, None, 16, ""), 16)
    with pytest.raises(CutError, match=f"skipping cannot be cut before '{at}': more than one tensor crosses.*{hint}"):
        cut.cut_network(network_of(backbone), backbone, at)


@pytest.mark.parametrize(("count", "border"), [(1, "e"), (2, "d"), (3, "a"), (4, "a")])
def test_the_last_layers_begin_above_the_nearest_border_that_works(count: int, border: str) -> None:
    torch.manual_seed(0)
    backbone = around(Skipping(2), CatalogEntry("skipping", "timm", None, None, 16, ""), 16)
    assert cut.cut_last_layers(network_of(backbone), backbone, count).border == border
    trains = [name for name in "abcde" if backbone.module.get_parameter(f"{name}.weight").requires_grad]
    assert trains == list("abcde")[-count:]
