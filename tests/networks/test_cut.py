"""The cut: frozen half then tuned half is the whole network, and training the one trains the other.

Every network is shaken first: with freshly drawn weights many answer the same for every picture, and any cut would do.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.errors import CutError
from graft.networks import catalog, cut
from graft.networks import chain as chains
from graft.networks.catalog import Entry
from graft.networks.chain import Stage
from graft.networks.head import Head
from graft.networks.network import Backbone, Features, Network
from graft.networks.preprocess import Preprocess
from graft.networks.weights import Source

BORDERS = [  # network, pictures' side, borders
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
FIXED = ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224")  # built for one size of picture


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """Move scales, biases and statistics far from where they start."""
    random = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.ndim == 4:  # GoogLeNet's own start says almost nothing
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


def around(module: nn.Module, entry: Entry, size: int) -> Backbone:
    preprocess = Preprocess(size=size, resize=size)
    return Backbone(entry, shaken(module.eval()), preprocess, Source("file", None, "", ""))


def backbone_of(name: str, size: int) -> Backbone:
    torch.manual_seed(0)
    entry = catalog.find(name)
    if name in FIXED:
        return around(timm.create_model(name, img_size=size, num_classes=0), entry, size)
    return around(catalog.headless(entry, catalog.build(entry)), entry, size)


def network_of(backbone: Backbone, classes: int = 3) -> Network:
    torch.manual_seed(0)
    features = Features(backbone.module, backbone.preprocess, ())
    return Network(features, Head({"kind": "linear", "width": features.width, "classes": classes})).eval()


def pictures(size: int, count: int = 3) -> Tensor:
    """Noise of different brightness and contrast."""
    noise = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    strength = torch.linspace(10, 90, count).view(-1, 1, 1, 1)
    return (noise * strength + 100 + strength).clamp(0, 255).to(torch.uint8)


def pointers(module: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in [*module.parameters(), *module.buffers()] if tensor.numel()}


# --- the halves are the whole -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size", "borders"), BORDERS, ids=[name for name, *_ in BORDERS])
def test_the_halves_in_a_row_are_the_network(name: str, size: int, borders: list[Any]) -> None:
    backbone = backbone_of(name, size)
    network, images = network_of(backbone), pictures(size)
    with torch.no_grad():
        want = network(images)
    spread = (want[0] - want[1]).abs().max()
    assert spread > 1e-3 * want.abs().max()  # the answer does depend on the picture
    own = pointers(network)
    for border in borders:
        halves = cut.cut(network, backbone, border)
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
    network, images = network_of(backbone), pictures(64)
    with torch.no_grad():
        want = network(images)
        for stage in chains.stages(backbone)[1:]:
            halves = cut.cut(network, backbone, stage.name)
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
    halves = cut.cut(network, backbone, border)
    before = copy.deepcopy(network.state_dict())
    halves.frozen.train()
    halves.tuned.train()
    trained(halves.tuned, halves.frozen(pictures(64, 8)))
    for key, now in network.state_dict().items():
        inner = key.removeprefix("features.backbone.")
        if inner.startswith(above) or key.startswith("head.judge"):
            assert not torch.equal(now, before[key]), f"{key} was not trained"
        else:
            assert torch.equal(now, before[key]), f"{key} is frozen, and changed"


def tail(backbone: Backbone, border: str) -> list[Stage]:
    stages = chains.stages(backbone)
    return stages[[stage.name for stage in stages].index(border) :]


@pytest.mark.parametrize(
    ("name", "border"),
    [
        ("test_resnet", "layer3"),
        ("test_vit", "blocks.3"),
        ("test_convnext", "stages.2"),
        ("mobilenet_v2", "blocks.5.0"),
        ("googlenet", "inception5a"),
        ("test_resnet", "head"),
    ],
)
def test_training_on_stored_outputs_is_training_with_the_prefix_frozen(name: str, border: str) -> None:
    images, weights = pictures(64, 8), list[dict[str, Tensor]]()
    for stored in (True, False):
        backbone = backbone_of(name, 64)
        network = network_of(backbone)
        halves = cut.cut(network, backbone, border)
        torch.manual_seed(2)  # of dropout
        if stored:
            trained(halves.tuned.train(), halves.frozen(images).clone())
        else:
            stages = chains.stages(backbone)
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
    halves = cut.cut(network, backbone, "layer2")
    assert network.training
    crossing = halves.frozen(pictures(64))
    assert torch.equal(crossing, copy.deepcopy(halves.frozen).eval()(pictures(64)))
    assert all(torch.equal(now, before[key]) for key, now in network.state_dict().items())


def test_what_trains_is_set_stage_by_stage() -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone)
    for border, kept in [
        ("layer3", ("layer3.", "layer4.")),
        ("conv1.3", ("conv1.3", "conv1.4", "conv1.6", "bn1", "l")),
    ]:
        network.requires_grad_(True)
        halves = cut.cut(network, backbone, border)
        trains = {name for name, each in backbone.module.named_parameters() if each.requires_grad}
        assert trains == {name for name, _ in backbone.module.named_parameters() if name.startswith(kept)}
        assert all(each.requires_grad for each in network.head.parameters())
        assert not halves.frozen(pictures(64)).requires_grad


def test_the_head_alone_is_the_tuned_half_of_a_probe() -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone)
    halves = cut.cut(network, backbone, "head")
    assert halves.tuned is network.head
    assert not any(each.requires_grad for each in network.features.parameters())
    images = pictures(64)
    assert torch.equal(halves.tuned(halves.frozen(images)), network(images))


def test_a_cut_before_everything_trains_everything() -> None:
    backbone = backbone_of("test_resnet", 64)
    network = network_of(backbone).requires_grad_(False)
    halves = cut.cut(network, backbone, 0)
    assert halves.tuned is network
    assert all(each.requires_grad for each in network.parameters())
    assert torch.equal(halves.frozen(pictures(64)), pictures(64))


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
    assert cut.cut(network_of(backbone), backbone, at).border == border


def test_an_unknown_stage_is_answered_with_all_stages() -> None:
    backbone = backbone_of("test_convnext", 64)
    with pytest.raises(CutError, match=r"no stage 'layer1'\. The stages are stem\.0, stem\.1, .*stages\.3, head, and"):
        cut.cut(network_of(backbone), backbone, "layer1")


@pytest.mark.parametrize("at", [11, -11, 1.1, -0.2])
def test_an_index_or_share_outside_the_chain_is_refused(at: Any) -> None:
    backbone = backbone_of("test_resnet", 64)
    with pytest.raises(CutError, match=rf"from -10 to 10 or a share from 0\.0 to 1\.0\. Got {at}"):
        cut.cut(network_of(backbone), backbone, at)


def test_a_head_on_several_layers_is_cut_at_the_head_only() -> None:
    backbone = backbone_of("test_resnet", 64)
    features = Features(backbone.module, backbone.preprocess, ("layer2",))
    network = Network(features, Head({"kind": "linear", "width": features.width, "classes": 3})).eval()
    with pytest.raises(CutError, match="several layers"):
        cut.cut(network, backbone, "layer3")
    assert torch.equal(cut.cut(network, backbone, "head").frozen(pictures(64)), features(pictures(64)))


class Skipping(nn.Module):
    """Five stages; what the first says skips the next ones and joins again at number `to` of them."""

    def __init__(self, to: int) -> None:
        super().__init__()
        self.to = to
        self.a, self.b, self.c, self.d, self.e = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))

    def forward(self, images: Tensor) -> Tensor:
        first = x = self.a(images)
        for number, stage in enumerate((self.b, self.c, self.d, self.e, nn.Identity())):
            x = stage(x + first if number == self.to else x).relu()
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
    backbone = around(Skipping(to), Entry("skipping", "timm", None, None, 16, ""), 16)
    with pytest.raises(CutError, match=f"skipping cannot be cut before '{at}': more than one tensor crosses.*{hint}"):
        cut.cut(network_of(backbone), backbone, at)


# --- the chain --------------------------------------------------------------------------------------------------------


def test_the_stages_of_efficientnet_lite0() -> None:
    chain = chains.stages(backbone_of("tf_efficientnet_lite0", 224))
    blocks = [f"blocks.{group}.{block}" for group, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    blocks[0], blocks[-1] = "blocks.0", "blocks.6"  # a group of one is a stage as a whole
    assert [stage.name for stage in chain] == ["conv_stem", "bn1", *blocks, "conv_head", "bn2"]
    assert chain[0] == Stage("conv_stem", (32, 112, 112), 864)
    assert chain[-1] == Stage("bn2", (1280, 7, 7), 2560)
    assert sum(stage.parameters for stage in chain) == 3_371_008
    assert chains.layers(chain, 4) == ("blocks.0", "blocks.2.1", "blocks.4.2", "blocks.6")


def test_the_stages_of_deit_tiny() -> None:
    chain = chains.stages(backbone_of("deit_tiny_patch16_224", 64))
    assert [stage.name for stage in chain] == ["patch_embed", *(f"blocks.{number}" for number in range(12)), "norm"]
    assert [stage.shape for stage in chain] == [(16, 192), *[(17, 192)] * 13]
    assert chain[1].parameters == 444_864


def test_stages_leave_no_hooks_and_cover_the_weights_of_a_resnet() -> None:
    backbone = backbone_of("resnet50", 64)
    chain = chains.stages(backbone)
    assert sum(stage.parameters for stage in chain) == sum(each.numel() for each in backbone.module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in backbone.module.modules())


def test_layers_are_the_ends_of_each_width_or_quarters_of_a_network_of_one_width() -> None:
    widths = [4, 4, 8, 8, 8, 16, 32, 64]
    chain = [Stage(f"s{number}", (width,), 1) for number, width in enumerate(widths)]
    assert chains.layers(chain, 9) == ("s1", "s4", "s5", "s6")
    assert chains.layers(chain, 2) == ("s4", "s6")
    assert chains.layers(chain, 1) == ("s6",)
    same = [Stage(f"s{number}", (4,), 1) for number in range(12)]
    assert chains.layers(same, 4) == ("s2", "s5", "s8", "s11")


def test_a_backbone_of_another_size_has_the_same_stages() -> None:
    backbone = backbone_of("test_resnet", 64)
    larger = replace(backbone, preprocess=Preprocess(size=96, resize=96))
    assert [stage.name for stage in chains.stages(larger)] == [stage.name for stage in chains.stages(backbone)]
