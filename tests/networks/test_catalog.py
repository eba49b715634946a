"""The catalogue: names, numbers, networks without their classifier, and what they expect of a picture."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError
from graft.networks import catalog

FEATURES = {  # name -> what comes out without the classifier, as published
    "alexnet": 4096,
    "googlenet": 1024,
    "squeezenet1_0": 512,
    "squeezenet1_1": 512,
    "vgg11": 4096,
    "vgg16": 4096,
    "inception_v3": 2048,
    "resnet18": 512,
    "resnet50": 2048,
    "densenet121": 1024,
    "densenet201": 1920,
    "mobilenet_v2": 1280,
    "tf_efficientnet_lite0": 1280,
    "deit_tiny_distilled_patch16_224": 192,
    "test_vit": 64,
    "test_convnext": 64,
}

HALF = (0.5, 0.5, 0.5)

CLASSICS = {
    "alexnet",
    "googlenet",
    "inception_v3",
    "mobilenetv2_100",
    *(f"vgg{depth}" for depth in (11, 13, 16, 19)),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *(f"densenet{depth}" for depth in (121, 169, 201)),
}


def on_meta(name: str) -> tuple[catalog.Entry, torch.nn.Module]:
    entry = catalog.find(name)
    with torch.device("meta"):
        return entry, catalog.build(entry)


def test_names_are_sorted_and_hold_the_classics() -> None:
    names = catalog.names()
    assert names == sorted(set(names))
    assert set(names) >= CLASSICS
    assert len(names) > 1000
    assert catalog.DEFAULT in names


def test_all_names_are_found_and_all_entries_are_listed() -> None:
    listed = list(catalog.entries())
    assert [entry.name for entry in listed] == catalog.names()
    assert all(catalog.find(entry.name) == entry for entry in listed[::50])


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("mobilenet_v2", "mobilenetv2_100"),
        ("vit_b_16", "vit_base_patch16_224"),
        ("convnext_tiny_in22ft1k", "convnext_tiny.fb_in22k_ft_in1k"),  # timm's own former name
    ],
)
def test_other_names_lead_to_the_same_network(said: str, meant: str) -> None:
    assert catalog.find(said) == catalog.find(meant)
    assert catalog.find(said).name == meant


@pytest.mark.parametrize("name", sorted(catalog.ALIASES))
def test_no_alias_hides_a_network(name: str) -> None:
    assert name not in catalog.names()
    assert catalog.find(name).name in catalog.names()


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(UsageError, match=r"There is no network 'resnt50'\. Did you mean resnet50, .*graft backbones"):
        catalog.find("resnt50")
    with pytest.raises(UsageError, match=r"no network 'resnet50\.a1_in2k'\. Did you mean resnet50\.a1_in1k"):
        catalog.find("resnet50.a1_in2k")
    with pytest.raises(UsageError, match=r"^There is no network '§'\. `graft backbones` lists all\.$"):
        catalog.find("§")
    with pytest.raises(UsageError, match="no network ''"):
        catalog.find("")


def test_networks_for_oblong_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="768 x 1024 pixels"):
        catalog.find("vit_base_patch16_sapiens2")
    assert not list(catalog.entries("sapiens2"))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("vgg11*", ["vgg11", "vgg11_bn"]),
        ("googl", ["googlenet"]),
        ("mobilenet_v2", ["mobilenetv2_100"]),
        ("squeezenet1_?", ["squeezenet1_0", "squeezenet1_1"]),
        ("vgg11_bn.*", ["vgg11_bn.tv_in1k"]),
        ("no such network", []),
    ],
)
def test_entries_match_a_pattern_or_contain_the_text(pattern: str, found: list[str]) -> None:
    assert [entry.name for entry in catalog.entries(pattern)] == found


@pytest.mark.parametrize(
    ("name", "parameters", "gmac", "size", "licence"),
    [  # parameters and GMAC as torchvision and timm publish them
        ("alexnet", 61_100_840, 0.71, 224, "not stated"),
        ("googlenet", 6_624_904, 1.50, 224, "not stated"),
        ("vgg16", 138_357_544, 15.47, 224, "bsd-3-clause"),
        ("resnet50", 25_557_032, 4.09, 224, "apache-2.0"),
        ("resnet50.a1_in1k", 25_557_032, 4.09, 224, "apache-2.0"),
        ("inception_v3", 23_834_568, 5.71, 299, "apache-2.0"),
        ("mobilenetv2_100", 3_504_872, 0.30, 224, "apache-2.0"),
        ("tf_efficientnet_lite0", 4_652_008, 0.39, 224, "apache-2.0"),
    ],
)
def test_entries_say_what_a_network_costs(name: str, parameters: int, gmac: float, size: int, licence: str) -> None:
    entry = catalog.find(name)
    assert (entry.parameters, entry.size, entry.licence) == (parameters, size, licence)
    assert entry.gmac == pytest.approx(gmac, abs=0.006)


def test_numbers_of_the_default_weights_are_not_lent_to_others() -> None:
    assert catalog.find("convnext_tiny").parameters == 28_589_128
    assert catalog.find("convnext_tiny.fb_in22k").parameters is None  # 21,841 classes
    assert catalog.find("convnext_tiny.fb_in22k_ft_in1k_384").gmac is None  # 384 pixels


def test_networks_that_nobody_measured_have_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "catalog.csv"
    table.write_text("# measured\nname,parameters,gmac,size\nresnet18,11,2.5,224\nresnet34,,,224\nvgg11,9,9,225\n")
    for path, expected in ((table, (11, 2.5)), (tmp_path / "none.csv", (None, None))):
        monkeypatch.setattr(catalog, "TABLE", path)
        catalog._table.cache_clear()
        entry = catalog.find("resnet18")
        assert (entry.parameters, entry.gmac) == expected
        assert catalog.find("resnet34").parameters is catalog.find("vgg11").gmac is None
    catalog._table.cache_clear()


def test_the_table_belongs_to_the_catalogue() -> None:
    first, header, *rows = catalog.TABLE.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# Measured by bench/catalog.py with timm ")
    assert header == "name,parameters,gmac,size"
    measured = [row.partition(",")[0] for row in rows]
    assert measured == sorted(measured)
    assert len(measured) > 1300


@pytest.mark.parametrize("name", FEATURES)
def test_headless_networks_give_pooled_features(name: str) -> None:
    entry, network = on_meta(name)
    assert not any(module.training for module in network.modules())
    assert sum(each.numel() for each in network.parameters()) == entry.parameters
    pictures = torch.empty(2, 3, entry.size, entry.size, device="meta")
    assert network(pictures).shape == (2, 1000)
    assert catalog.headless(entry, network)(pictures).shape == (2, FEATURES[name])


@pytest.mark.parametrize("name", FEATURES)
def test_classifier_names_are_what_headless_takes_away(name: str) -> None:
    entry, network = on_meta(name)
    before = list(network.state_dict())
    after = list(catalog.headless(entry, network).state_dict())
    assert after == [tensor for tensor in before if not tensor.startswith(catalog.classifier_names(entry))]
    assert len(after) < len(before)


def test_googlenet_is_built_as_its_pretrained_version() -> None:
    _, network = on_meta("googlenet")
    assert network.transform_input is True
    assert network.aux1 is None


def test_headless_squeezenet_gives_the_mean_of_its_last_map() -> None:
    entry = catalog.find("squeezenet1_1")
    network = catalog.headless(entry, catalog.build(entry))
    picture = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected = network.features(picture).mean(dim=(2, 3))  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(network(picture), expected)
    assert expected.std() > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tf_efficientnet_lite0", Preprocess(224, 256, "bicubic", "center", HALF, HALF)),
        ("inception_v3", Preprocess(299, 341, "bicubic", "center", HALF, HALF)),
        ("resnet50", Preprocess(224, 235, "bicubic", "center")),
        ("vgg11", Preprocess(224, 256, "bilinear", "center")),
        ("alexnet", Preprocess(224, 256, "bilinear", "center")),
        ("googlenet", Preprocess(224, 256, "bilinear", "center")),
        ("volo_d4_448", Preprocess(448, 448, "bicubic", "center")),  # crop_pct 1.15
    ],
)
def test_preprocessing_belongs_to_the_weights(name: str, expected: Preprocess) -> None:
    assert catalog.preprocess(catalog.find(name)) == expected


def test_preprocessing_of_every_network_can_be_done() -> None:
    crops = set()
    for entry in catalog.entries():
        preprocess = catalog.preprocess(entry)
        crops.add(preprocess.crop)
        assert preprocess.resize >= preprocess.size == entry.size
        assert all(math.isfinite(mean / std) for mean, std in zip(preprocess.mean, preprocess.std, strict=True))
    assert crops == {"center", "squash"}
