"""Early features: which stages a text names, and that their features are what these stages say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shaken import pretrained
from torch import Tensor

from graft.backbones.backbone import Backbone
from graft.backbones.features import build_early_features, find_stage
from graft.backbones.graph import prune_graph
from graft.errors import UsageError
from graft.torch.network import normalise
from graft.torch.restore import backbone_to_module

NAMES = ["stem", "blocks.0", "blocks.1", "blocks.2", "neck", "norm"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return pretrained("test_resnet", 64)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), np.uint8)


@pytest.fixture(scope="module")
def said(backbone: Backbone, images: NDArray[np.uint8]) -> dict[str, Tensor]:
    """What each stage says, from a plain forward pass in PyTorch with hooks of this test's own."""
    found: dict[str, Tensor] = {}
    module = backbone_to_module(backbone).module
    for stage in backbone.graph.stages:
        part = module.get_submodule(stage.name)
        part.register_forward_hook(lambda _part, _given, output, name=stage.name: found.update({name: output}))
    with torch.no_grad():
        module(normalise(backbone.preprocess, torch.from_numpy(images)))
    return found


def assert_close(ours: NDArray[np.float32], theirs: Tensor) -> None:
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5 * float(theirs.abs().max()))


# --- which stages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "name"),
    [
        ("blocks.1", "blocks.1"),
        ("0", "stem"),
        ("3", "blocks.2"),
        ("-1", "norm"),
        ("-6", "stem"),
        ("0.5", "blocks.1"),  # the one that ends half of the chain
        ("1.0", "norm"),
        ("0.01", "stem"),
        ("0.8", "neck"),
    ],
)
def test_a_stage_is_a_name_an_index_or_a_share(at: str, name: str) -> None:
    assert find_stage(at, NAMES) == name


@pytest.mark.parametrize("at", ["6", "-7", "0.0", "1.1", "-0.5", "nan", "inf", "head", "Stem", ""])
def test_what_names_no_stage_is_answered_with_all_stages(at: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_stage(at, NAMES)
    assert str(caught.value) == (
        f"There is no stage '{at}'. The stages are stem, blocks.0, blocks.1, blocks.2, neck, norm; "
        "an index or a share will do."
    )


@given(st.integers(1, 60))
def test_an_index_a_share_and_a_name_are_three_ways_to_a_stage(count: int) -> None:
    names = [f"s{number}" for number in range(count)]
    for place, name in enumerate(names):
        ways = (name, str(place), str(place - count), str((place + 1) / count))
        assert [find_stage(way, names) for way in ways] == [name] * 4


def test_one_part_that_names_nothing_is_enough(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match=r"There is no stage 'layer9'\. The stages are conv1\.0, "):
        build_early_features("layer2+layer9", backbone)


# --- what they say ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["layer1", "layer1+layer3", "layer3+layer1", "layer3+0.9+layer1+layer1"])
def test_features_are_what_the_stages_say_in_the_order_of_the_chain(
    at: str, backbone: Backbone, said: dict[str, Tensor], images: NDArray[np.uint8]
) -> None:
    names = [stage.name for stage in backbone.graph.stages]
    wanted = sorted({find_stage(part, names) for part in at.split("+")}, key=names.index)
    features = build_early_features(at, backbone)
    assert features.layers == tuple(wanted)
    got = features.compile_features()(images)
    assert_close(got, torch.cat([said[name].mean((2, 3)) for name in wanted], dim=1))
    assert got.shape == (3, features.width)
    assert np.abs(got[0] - got[1]).max() > 1e-3 * np.abs(got).max()


def test_without_pooling_they_are_the_map(
    backbone: Backbone, said: dict[str, Tensor], images: NDArray[np.uint8]
) -> None:
    features = replace(build_early_features("layer2", backbone), pool=False)
    assert_close(features.compile_features()(images).reshape(3, *features.shape), said["layer2"])
    with pytest.raises(UsageError, match=r"A feature map is that of one layer\. Got 2"):
        replace(build_early_features("layer1+layer2", backbone), pool=False)


def test_nothing_after_the_last_named_stage_is_computed(backbone: Backbone, images: NDArray[np.uint8]) -> None:
    features = build_early_features("layer1+layer2", backbone)
    least = prune_graph(backbone.graph, features.outputs)
    assert {name.partition(".")[0] for name in least.tensors} == {"conv1", "bn1", "layer1", "layer2"}
    np.testing.assert_array_equal(
        replace(features, graph=least).compile_features()(images), features.compile_features()(images)
    )
