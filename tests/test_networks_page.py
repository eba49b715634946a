"""The page of the classic networks: its tables are the catalogue's, and what it says of their layers is so."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn
from torchvision.models.googlenet import Inception

from graft.backbones import catalog, graph
from graft.backbones.catalog import build_preprocess
from graft.backbones.weights import WeightsSource
from graft.torch import chain
from graft.torch.build import build_network, remove_classifier
from graft.torch.network import BackboneModule

PAGE = Path(__file__).parents[1] / "docs/networks.md"
NAMES = [
    "alexnet",
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    "googlenet",
    "inception_v3",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    "mobilenet_v2",
]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MEANS = {IMAGENET: "ImageNet", ((0.5,) * 3, (0.5,) * 3): "0.5, 0.5"}


def built(name: str) -> nn.Module:
    """The whole network, shapes without numbers."""
    with torch.device("meta"):
        return build_network(catalog.find_entry(name))


@functools.cache
def backbone(name: str) -> BackboneModule:
    """The same without its classifier."""
    entry = catalog.find_entry(name)
    module = remove_classifier(entry, built(name)).requires_grad_(False)
    return BackboneModule(entry, module, build_preprocess(entry), WeightsSource("random", None, "", ""))


@functools.cache
def chained(name: str) -> list[graph.Stage]:
    """Its stages, without computing anything."""
    return chain.find_stages(backbone(name))


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [each for each in module.modules() if isinstance(each, nn.Conv2d)]


def dropped(module: nn.Module) -> list[float]:
    """The dropout rates that are not zero."""
    return [each.p for each in module.modules() if isinstance(each, nn.Dropout) and each.p]


def of_cost(name: str) -> list[str]:
    """A row of the first table."""
    headless = backbone(name)
    entry = headless.entry
    width = headless.module(torch.empty(1, 3, entry.size, entry.size, device="meta")).shape[1]
    (classifier,) = (each.rstrip(".") for each in catalog.classifier_prefixes(entry))
    return [
        f"`{name}`",
        entry.library,
        f"{entry.parameters:,}",
        f"{entry.gmac:.2f}",
        f"{len(chain.find_stages(headless))}",
        f"{width:,}",
        f"`{classifier}`",
    ]


def of_weights(name: str) -> list[str]:
    """A row of the second table."""
    entry, prepare = catalog.find_entry(name), build_preprocess(catalog.find_entry(name))
    source = catalog.repository(entry) or Path(catalog.url(entry)).name
    mean = MEANS[prepare.mean, prepare.std]
    size = f"{prepare.resize}, {prepare.size}"
    return [f"`{name}`", f"`{source}`", size, prepare.interpolation, mean, entry.licence]


def rows(head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    table = PAGE.read_text(encoding="utf-8").partition(head)[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_both_tables_hold_these_networks() -> None:
    names = [f"`{name}`" for name in NAMES]
    for head in ("| network | library |", "| network | weights |"):
        assert [row[0] for row in rows(head)] == names


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_are_the_catalogues(name: str) -> None:
    place = NAMES.index(name)
    assert rows("| network | library |")[place] == of_cost(name)
    assert rows("| network | weights |")[place] == of_weights(name)


def test_every_network_with_a_tag_that_the_page_names_is_there() -> None:
    tags = re.findall(r"`(\w+\.\w+_in1k)`", PAGE.read_text(encoding="utf-8"))
    assert tags
    assert all(catalog.find_entry(name).name == name for name in tags)


@pytest.mark.parametrize("name", NAMES)
def test_no_network_normalises_local_responses_or_has_an_auxiliary_classifier(name: str) -> None:
    parts = dict(built(name).named_modules())
    assert not [each for each in parts.values() if isinstance(each, nn.LocalResponseNorm)]
    assert not [part for part in parts if "aux" in part.lower()]


@pytest.mark.parametrize(
    ("name", "rates"),
    [("alexnet", [0.5, 0.5]), ("googlenet", [0.2])]
    + [(name, []) for name in NAMES if name not in ("alexnet", "googlenet")],
)
def test_dropout(name: str, rates: list[float]) -> None:
    assert dropped(built(name)) == rates
    assert dropped(remove_classifier(catalog.find_entry(name), built(name))) == rates


def test_most_of_alexnet_is_dense() -> None:
    dense = [stage.parameters for stage in chained("alexnet") if stage.name.startswith("classifier.")]
    whole = sum(stage.parameters for stage in chained("alexnet"))
    assert [round(each / 1e6, 1) for each in (sum(dense), whole)] == [54.5, 57.0]


def test_other_weights_bring_their_own_preprocessing() -> None:
    found = [build_preprocess(catalog.find_entry(f"resnet50.{tag}")) for tag in ("tv_in1k", "a1_in1k")]
    assert [(each.resize, each.interpolation) for each in found] == [(256, "bilinear"), (235, "bicubic")]
    assert all(catalog.is_known(f"resnet{depth}.tv_in1k") for depth in (18, 34, 50, 101, 152))


def test_alexnet_has_one_column_and_its_own_filter_counts() -> None:
    found = convolutions(built("alexnet"))
    assert [each.out_channels for each in found] == [64, 192, 384, 256, 256]
    assert {each.groups for each in found} == {1}
    pools = [each.kernel_size for each in built("alexnet").features if isinstance(each, nn.MaxPool2d)]
    assert pools == [3, 3, 3]


@pytest.mark.parametrize(("name", "count"), [("vgg11", 8), ("vgg13", 10), ("vgg16", 13), ("vgg19", 16)])
def test_vgg_is_3_x_3_and_its_dense_layers_are_convolutions(name: str, count: int) -> None:
    network = built(name)
    trunk, dense = convolutions(network.features), convolutions(network.pre_logits)
    assert [each.kernel_size for each in trunk] == [(3, 3)] * count
    assert [each.kernel_size for each in dense] == [(7, 7), (1, 1)]
    assert [each.out_channels for each in dense] == [4096, 4096]
    norms = [sum(isinstance(each, nn.BatchNorm2d) for each in built(one).modules()) for one in (name, f"{name}_bn")]
    assert norms == [0, count]


def test_googlenet_has_batch_norm_no_5_x_5_and_a_small_fourth_pool() -> None:
    network = built("googlenet")
    blocks = [each for each in network.modules() if isinstance(each, Inception)]
    assert len(blocks) == 9
    assert {each.kernel_size for block in blocks for each in convolutions(block)} == {(1, 1), (3, 3)}
    assert len([each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]) == len(convolutions(network))
    pools = [getattr(network, f"maxpool{number}").kernel_size for number in (1, 2, 3, 4)]
    assert pools == [3, 3, 3, 2]


def test_googlenet_turns_imagenets_mean_into_that_of_its_weights() -> None:
    network = built("googlenet")
    image = torch.rand(1, 3, 2, 2)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in IMAGENET)
    torch.testing.assert_close(network._transform_input((image - mean) / std), (image - 0.5) / 0.5)


def test_inception_v3_has_the_stem_of_the_published_code() -> None:
    network = built("inception_v3")
    stem = [getattr(network, name).conv for name in ("Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")]
    found = [(each.kernel_size[0], each.stride[0], each.out_channels) for each in stem]
    assert found == [(3, 1, 64), (1, 1, 80), (3, 1, 192)]
    mixed = [stage.shape[-1] for stage in chained("inception_v3") if stage.name.startswith("Mixed")]
    assert mixed == [35] * 3 + [17] * 5 + [8] * 3


@pytest.mark.parametrize("depth", [50, 101, 152])
def test_the_stride_of_a_bottleneck_is_in_its_3_x_3(depth: int) -> None:
    network = built(f"resnet{depth}")
    for stage in (network.layer2, network.layer3, network.layer4):
        assert [each.stride for each in (stage[0].conv1, stage[0].conv2, stage[0].conv3)] == [(1, 1), (2, 2), (1, 1)]
        assert stage[0].conv2.kernel_size == (3, 3)


@pytest.mark.parametrize("depth", [18, 34])
def test_a_basic_block_is_that_of_the_paper(depth: int) -> None:
    network = built(f"resnet{depth}")
    for stage in (network.layer2, network.layer3, network.layer4):
        assert [(each.kernel_size, each.stride) for each in (stage[0].conv1, stage[0].conv2)] == [
            ((3, 3), (2, 2)),
            ((3, 3), (1, 1)),
        ]


@pytest.mark.parametrize(
    ("name", "growth", "blocks"),
    [
        ("densenet121", 32, [6, 12, 24, 16]),
        ("densenet161", 48, [6, 12, 36, 24]),
        ("densenet169", 32, [6, 12, 32, 32]),
        ("densenet201", 32, [6, 12, 48, 32]),
    ],
)
def test_densenet_grows_as_in_the_paper(name: str, growth: int, blocks: list[int]) -> None:
    features = built(name).features
    dense = [getattr(features, f"denseblock{number}") for number in (1, 2, 3, 4)]
    assert [len(block) for block in dense] == blocks
    layers = [layer for block in dense for layer in block.values()]
    assert {layer.conv2.out_channels for layer in layers} == {growth}
    assert {layer.conv1.out_channels for layer in layers} == {4 * growth}  # the bottleneck
    for transition in (features.transition1, features.transition2, features.transition3):
        assert transition.conv.out_channels * 2 == transition.conv.in_channels  # compression by half


def test_mobilenet_v2_has_relu6_and_linear_bottlenecks() -> None:
    network = built("mobilenet_v2")
    active = [type(each.act) for each in network.modules() if isinstance(each, BatchNormAct2d)]
    assert set(active) == {nn.ReLU6, nn.Identity}
    blocks = [block for stage in network.blocks for block in stage]
    assert len(blocks) == active.count(nn.Identity) == 17  # the last convolution of each is not activated
    assert [len(convolutions(block)) for block in blocks] == [2] + [3] * 16  # the first does not expand
    assert {each.padding for each in convolutions(network) if each.kernel_size == (3, 3)} == {(1, 1)}
