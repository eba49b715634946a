"""Early features: which stages a text names, and that their features are what these stages say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError
from graft.networks.chain import Stage, stages
from graft.networks.fresh import fresh_backbone
from graft.networks.network import Backbone
from graft.networks.normalise import normalised
from graft.training.early import early, named

NAMES = ["stem", "blocks.0", "blocks.1", "blocks.2", "neck", "norm"]


@pytest.fixture(scope="module")
def backbone(shaken: Callable[[nn.Module], nn.Module]) -> Backbone:
    made = fresh_backbone("test_resnet")
    shaken(made.module)
    return replace(made, preprocess=Preprocess(size=64, resize=64))


@pytest.fixture(scope="module")
def chain(backbone: Backbone) -> list[Stage]:
    return stages(backbone)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def outputs(backbone: Backbone, chain: list[Stage], images: Tensor) -> dict[str, Tensor]:
    """What each stage says, from a plain forward pass with hooks of this test's own."""
    said: dict[str, Tensor] = {}
    for stage in chain:
        part = backbone.module.get_submodule(stage.name)
        part.register_forward_hook(lambda _part, _given, output, name=stage.name: said.update({name: output}))
    with torch.no_grad():
        backbone.module(normalised(backbone.preprocess, images))
    for part in backbone.module.modules():
        part._forward_hooks.clear()
    return said


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
    assert named(at, NAMES) == name


@pytest.mark.parametrize("at", ["6", "-7", "0.0", "1.1", "-0.5", "nan", "inf", "head", "Stem", ""])
def test_what_names_no_stage_is_answered_with_all_stages(at: str) -> None:
    with pytest.raises(UsageError) as caught:
        named(at, NAMES)
    assert str(caught.value) == (
        f"There is no stage '{at}'. The stages are stem, blocks.0, blocks.1, blocks.2, neck, norm; "
        "an index or a share will do."
    )


@given(st.integers(1, 60))
def test_an_index_a_share_and_a_name_are_three_ways_to_a_stage(count: int) -> None:
    names = [f"s{number}" for number in range(count)]
    for place, name in enumerate(names):
        ways = (name, str(place), str(place - count), str((place + 1) / count))
        assert [named(way, names) for way in ways] == [name] * 4


def test_one_part_that_names_nothing_is_enough(backbone: Backbone, chain: list[Stage]) -> None:
    with pytest.raises(UsageError, match=r"There is no stage 'layer9'\. The stages are conv1\.0, "):
        early("layer2+layer9", backbone, chain)


# --- what they say ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["layer1", "layer1+layer3", "layer3+layer1", "layer3+0.9+layer1+layer1"])
def test_features_are_what_the_stages_say_in_the_order_of_the_chain(
    at: str, backbone: Backbone, chain: list[Stage], images: Tensor
) -> None:
    names = [stage.name for stage in chain]
    wanted = sorted({named(part, names) for part in at.split("+")}, key=names.index)
    features = early(at, backbone, chain)
    assert features.layers == tuple(wanted)
    said = outputs(backbone, chain, images)
    with torch.no_grad():
        got = features(images)
    assert torch.equal(got, torch.cat([said[name].mean((2, 3)) for name in wanted], dim=1))
    assert got.shape == (3, features.width)
    assert (got[0] - got[1]).abs().max() > 1e-3 * got.abs().max()


def test_without_pooling_they_are_the_map(backbone: Backbone, chain: list[Stage], images: Tensor) -> None:
    features = early("layer2", backbone, chain, pool=False)
    with torch.no_grad():
        assert torch.equal(features(images).unflatten(1, features.shape), outputs(backbone, chain, images)["layer2"])
    with pytest.raises(UsageError, match=r"A feature map is that of one layer\. Got 2"):
        early("layer1+layer2", backbone, chain, pool=False)


def test_nothing_after_the_last_named_stage_is_computed(
    backbone: Backbone, chain: list[Stage], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_images: Tensor) -> Tensor:
        raise AssertionError("layer3 was computed")

    monkeypatch.setattr(backbone.module.get_submodule("layer3"), "forward", never)
    assert len(early("layer1+layer2", backbone, chain)(images)) == 3
