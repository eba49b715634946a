"""The network with its own classes: the published classifier on the features = the whole network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graft.backbones import catalog, weights
from graft.errors import DataError, UsageError, WeightsError
from graft.torch import build
from graft.torch.build import load_weights
from graft.torch.direct import list_class_names, load_published, match_class_names
from graft.torch.network import normalise

IMAGENET = list_class_names(1000)


def tensors(name: str) -> dict[str, Tensor]:
    """Weights that make answers differ from image to image."""
    torch.manual_seed(0)
    module = build.build_network(catalog.find_entry(name))
    return {
        key: torch.randn_like(t) * 0.05 + t if t.is_floating_point() else t for key, t in module.state_dict().items()
    }


def stored(folder: Path, name: str, content: dict[str, Tensor]) -> Path:
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous().clone() for key, tensor in content.items()}, path)
    return path


def whole(name: str, file: Path | None = None) -> nn.Module:
    entry = catalog.find_entry(name)
    module = build.build_network(entry)
    load_weights(entry, module, weights.locate(entry, file, offline=True))
    return module.eval()


@torch.no_grad()
def gap(name: str, file: Path | None = None) -> float:
    """The largest difference to the whole network, as a share of the difference between two images."""
    network, classes, backbone = load_published(name, file, offline=True)
    side = backbone.preprocess.size
    images = np.random.default_rng(3).integers(0, 256, (4, 3, side, side), np.uint8)
    images[1:] //= 3
    want = whole(name, file)(normalise(backbone.preprocess, torch.from_numpy(images))).numpy()
    got = network(images)
    assert got.shape == (4, len(classes))
    return float(np.abs(want - got).max() / np.abs(want[0] - want[1]).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"]
)
def test_the_published_classifier_on_the_features_is_the_whole_network(tmp_path: Path, name: str) -> None:
    assert gap(name, stored(tmp_path, name, tensors(name))) < 1e-4


@pytest.mark.slow
def test_the_default_network_knows_the_classes_of_imagenet() -> None:
    assert gap(catalog.DEFAULT) < 1e-4
    network, classes, backbone = load_published(offline=True)
    assert classes == IMAGENET
    assert backbone.source.where == "embedded"
    assert network.features.graph is backbone.graph


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv2_100", "deit_tiny_patch16_224", "mobilenetv1_100"])
def test_real_networks_are_whole(shared: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("GRAFT_WEIGHTS", str(shared / "weights"))
    assert gap(name) < 1e-4


@pytest.mark.slow
def test_a_classifier_before_the_pooling_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_WEIGHTS", str(shared / "weights"))
    with pytest.raises(UsageError, match=r"'squeezenet1_1' cannot be used directly.*tf_efficientnet_lite0, resnet50"):
        load_published("squeezenet1_1", offline=True)


@pytest.mark.parametrize("name", ["levit_128s", "deit_tiny_distilled_patch16_224"])
def test_a_classifier_of_several_layers_is_refused(tmp_path: Path, name: str) -> None:
    path = stored(tmp_path, name, tensors(name))
    with pytest.raises(UsageError, match=f"'{name}' cannot be used directly: its classifier is not one linear layer"):
        load_published(name, path)


def test_a_network_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path, "test_resnet", tensors("test_resnet"))

    def other(_entry: catalog.CatalogEntry, network: Any) -> Any:
        network.reset_classifier(0)
        network.global_pool = nn.Sequential(network.global_pool, nn.Tanh())
        return network

    load_published("test_resnet", path)
    monkeypatch.setattr(build, "remove_classifier", other)
    with pytest.raises(UsageError, match="cannot be used directly"):
        load_published("test_resnet", path)


@pytest.mark.parametrize("classifier", ["none", "of five classes"])
def test_weights_without_the_classifier_are_refused(tmp_path: Path, classifier: str) -> None:
    content = tensors("test_resnet")
    if classifier == "none":
        content = {key: tensor for key, tensor in content.items() if not key.startswith("fc.")}
    else:
        content |= {"fc.weight": content["fc.weight"][:5], "fc.bias": content["fc.bias"][:5]}
    path = stored(tmp_path, "test_resnet", content)
    with pytest.raises(WeightsError, match=f"{path} cannot be used directly: it holds no classifier for the classes"):
        load_published("test_resnet", path)


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1000, 11221, 11821, 21841, 21842, 21843])
def test_class_names_are_one_for_each_class(count: int) -> None:
    names = list_class_names(count)
    assert len(names) == len(set(map(str.casefold, names))) == count


def test_class_names_are_what_people_say() -> None:
    assert IMAGENET[:3] == ("tench", "goldfish", "great white shark")
    assert (IMAGENET[134], IMAGENET[517]) == ("crane (n02012849)", "crane (n03126707)")


def test_classes_of_unknown_sets_are_numbered() -> None:
    assert list_class_names(3) == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("daisy", 985),
        ("DAISY", 985),
        ("n11939491", 985),  # WordNet's id
        ("Great_White-Shark", 2),
        ("tench", 0),
        ("Tinca tinca", 0),  # a synonym
        ("missile", 657),  # 744 is 'projectile, missile': what a class is called first counts
        ("sunglasses", 837),
        ("crane (n03126707)", 517),
        ("n03126707", 517),
    ],
)
def test_a_name_means_the_class_of_that_name(name: str, index: int) -> None:
    assert match_class_names([name], IMAGENET) == {name: index}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["daisy", "crane"], "1 of 2 names.*'crane' could be 'crane \\(n02012849\\)' or 'crane \\(n03126707\\)'"),
        (["maillot"], "'maillot' could be 'maillot \\(n03710637\\)' or 'maillot \\(n03710721\\)'"),
        (
            ["tulip", "tensh"],
            "2 of 2 names mean none, or several, of the network's 1000 classes.*'tensh' \\(near: .*tench",
        ),
        ([f"thing {number}" for number in range(12)], "12 of 12 names.*And 2 more"),
    ],
)
def test_a_name_that_means_no_class_or_several_is_told(names: Sequence[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        match_class_names(names, IMAGENET)


def test_other_classes_have_their_names_alone() -> None:
    classes = ("Daisy", "red_rose")
    assert match_class_names(["red rose", "daisy", "DAISY"], classes) == {"red rose": 1, "daisy": 0, "DAISY": 0}
    with pytest.raises(DataError, match="'n11939491'"):
        match_class_names(["n11939491"], classes)


def test_every_class_of_imagenet_is_found_by_its_name_and_its_id() -> None:
    assert list(match_class_names(IMAGENET, IMAGENET).values()) == list(range(1000))
