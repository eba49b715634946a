"""The modules of the catalogue's entries: as published, and without their classifier; the table = what timm says."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from timm.models import get_deprecated_models, get_pretrained_cfg

from graft.backbones import catalog
from graft.errors import UsageError
from graft.torch.build import SIZE, SMALL, TORCHVISION, best_torchvision_weights, build_network, remove_classifier

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


def on_meta(name: str) -> tuple[catalog.CatalogEntry, torch.nn.Module]:
    entry = catalog.find_entry(name)
    with torch.device("meta"):
        return entry, build_network(entry)


@pytest.mark.parametrize("name", FEATURES)
def test_headless_networks_give_pooled_features(name: str) -> None:
    entry, network = on_meta(name)
    assert not any(module.training for module in network.modules())
    assert sum(each.numel() for each in network.parameters()) == entry.parameters
    images = torch.empty(2, 3, entry.size, entry.size, device="meta")
    assert network(images).shape == (2, 1000)
    assert remove_classifier(entry, network)(images).shape == (2, FEATURES[name])


@pytest.mark.parametrize("name", FEATURES)
def test_classifier_names_are_what_headless_takes_away(name: str) -> None:
    entry, network = on_meta(name)
    before = list(network.state_dict())
    after = list(remove_classifier(entry, network).state_dict())
    assert after == [tensor for tensor in before if not tensor.startswith(catalog.classifier_prefixes(entry))]
    assert len(after) < len(before)


def test_googlenet_is_built_as_its_pretrained_version() -> None:
    _, network = on_meta("googlenet")
    assert network.transform_input is True
    assert network.aux1 is None


def test_headless_squeezenet_gives_the_mean_of_its_last_map() -> None:
    entry = catalog.find_entry("squeezenet1_1")
    network = remove_classifier(entry, build_network(entry))
    image = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected = network.features(image).mean(dim=(2, 3))  # pyright: ignore[reportCallIssue]
        torch.testing.assert_close(network(image), expected)
    assert expected.std() > 0


def test_the_table_is_what_timm_says() -> None:
    """Of every network and of all its published weights; a newer timm needs `python bench/catalog.py`."""
    listed = [*timm.list_models(), *timm.list_pretrained()]
    for name in listed:
        cfg = get_pretrained_cfg(name, allow_unregistered=False)
        assert cfg is not None
        height, width = cfg.input_size[1:]
        if height != width:
            with pytest.raises(UsageError, match=f"{width} x {height} pixels"):
                catalog.find_entry(name)
            continue
        entry = catalog.find_entry(name)
        assert (entry.name, entry.library, entry.size) == (name, "timm", width)
        assert entry.licence == (cfg.license or "unknown").replace("unknown", catalog.NOT_STATED)
        assert catalog.repository(entry) == (cfg.hf_hub_id or "")
        assert catalog.url(entry) == (cfg.url or "")
        classifier = cfg.classifier or ()
        names = (classifier,) if isinstance(classifier, str) else classifier
        assert catalog.classifier_prefixes(entry) == tuple(f"{each}." for each in names)
        same_classes = cfg.num_classes == get_pretrained_cfg(name.partition(".")[0]).num_classes  # pyright: ignore
        assert same_classes or entry.parameters is None
        assert_prepared(entry, cfg)
    own = {*filter(catalog.is_known, listed), *TORCHVISION, *SMALL}
    assert {*catalog.list_names(), *(each.name for each in catalog.search("*.*"))} == own
    assert {name for name, row in catalog._table().items() if row.now} == set(get_deprecated_models())
    assert all(
        catalog.find_entry(name).name == now for name, now in get_deprecated_models().items() if catalog.is_known(now)
    )


def assert_prepared(entry: catalog.CatalogEntry, cfg: object) -> None:
    made, said = catalog.build_preprocess(entry), vars(cfg)
    assert made.size == said["input_size"][1]
    assert made.resize == max(made.size, math.floor(made.size / said["crop_pct"]))
    assert (made.mean, made.std) == (tuple(said["mean"]), tuple(said["std"]))
    assert (made.interpolation == "bilinear") == (said["interpolation"] == "bilinear")
    assert (made.crop == "squash") == (said["crop_mode"] == "squash")


@pytest.mark.parametrize("name", TORCHVISION)
def test_the_table_is_what_torchvision_says(name: str) -> None:
    entry, weights = catalog.find_entry(name), best_torchvision_weights(name)
    said, made = weights.transforms(), catalog.build_preprocess(entry)
    assert (entry.library, entry.licence, entry.size) == ("torchvision", catalog.NOT_STATED, said.crop_size[0])
    assert (made.size, made.resize) == (said.crop_size[0], said.resize_size[0])
    assert (made.interpolation, made.crop) == (said.interpolation.value, "center")
    assert (list(made.mean), list(made.std)) == (said.mean, said.std)
    assert catalog.url(entry) == weights.url
    assert catalog.repository(entry) == ""
    assert catalog.classifier_prefixes(entry) == (f"{TORCHVISION[name]}.",)


def test_our_own_networks_are_in_the_table() -> None:
    own = {entry.name: entry for entry in catalog.search() if entry.library == "graft"}
    assert own.keys() == SMALL.keys()
    assert {entry.size for entry in own.values()} == {SIZE}
    for entry in own.values():
        assert entry.parameters == sum(each.numel() for each in build_network(entry).parameters())


def test_a_network_that_the_installed_timm_lacks_is_said_to_be_newer() -> None:
    newer = catalog.CatalogEntry("resnet5000", "timm", None, None, 224, "mit")
    with pytest.raises(UsageError, match=r"The installed timm \d\S* has no network 'resnet5000', a newer one has"):
        build_network(newer)
