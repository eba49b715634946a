"""The small reference networks: what they compute, and that they are members of the catalogue like all others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graft.backbones import catalog, weights
from graft.backbones.preprocess import Preprocess
from graft.errors import WeightsError
from graft.torch import build, chain, cut, restore
from graft.torch.head import HeadModule
from graft.torch.network import FeaturesModule, NetworkModule

HALF = (0.5, 0.5, 0.5)
FACTS = {  # name -> features, parameters counted by hand, stages
    "mlp": (128, 3072 * 256 + 256 + 256 * 128 + 128, ["dense1", "dense2"]),
    "cnn": (64, 896 + 18_496 + 36_928 + 65_600, ["conv1", "conv2", "conv3", "dense"]),
    "rnn": (128, 3 * 128 * (96 + 128 + 2), ["rows"]),
}


@pytest.fixture
def batch() -> Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_they_are_all_here() -> None:
    assert FACTS.keys() == build.SMALL.keys()


@pytest.mark.parametrize("name", FACTS)
def test_the_catalogue_knows_them(name: str, batch: Tensor) -> None:
    width, parameters, _ = FACTS[name]
    entry = catalog.find_entry(name)
    network = build.build_network(entry)
    assert name in catalog.list_names()
    assert (entry.library, entry.size, entry.licence) == ("graft", 32, "not needed")
    assert entry.parameters == parameters == sum(each.numel() for each in network.parameters())
    assert entry.gmac
    assert not any(part.training for part in network.modules())
    assert build.remove_classifier(entry, network) is network
    assert catalog.classifier_prefixes(entry) == ()
    assert network(batch).shape == (4, width)
    assert catalog.build_preprocess(entry) == Preprocess(32, 32, "bilinear", "center", HALF, HALF)


@pytest.mark.parametrize("name", FACTS)
def test_they_are_chains_of_stages(name: str) -> None:
    stages = chain.find_stages(restore.build_random_module(name))
    assert [stage.name for stage in stages] == FACTS[name][2]
    assert sum(stage.parameters for stage in stages) == FACTS[name][1]


@pytest.mark.parametrize("name", FACTS)
def test_they_can_be_cut_at_every_stage(name: str, batch: Tensor) -> None:
    backbone = restore.build_random_module(name)
    features = FeaturesModule(backbone.module, backbone.preprocess, ())
    network = NetworkModule(features, HeadModule({"kind": "linear", "width": features.width, "classes": 3})).eval()
    images = (batch * 40 + 128).clamp(0, 255).to(torch.uint8)
    for border in [*FACTS[name][2], "head"]:
        halves = cut.cut_network(network, backbone, border)
        with torch.no_grad():
            torch.testing.assert_close(halves.tuned.eval()(halves.frozen(images)), network(images))


def test_the_recurrent_one_reads_rows_from_top_to_bottom(batch: Tensor) -> None:
    """A GRU written out, one row after the other."""
    rows = restore.build_random_module("rnn").module.get_submodule("rows")
    cell = nn.GRUCell(96, 128)
    cell.load_state_dict(
        {name.removesuffix("_l0"): tensor for name, tensor in rows.get_submodule("gru").state_dict().items()}
    )
    state = torch.zeros(4, 128)
    for row in range(32):
        state = cell(torch.cat([batch[:, colour, row] for colour in range(3)], dim=1), state)
    torch.testing.assert_close(rows(batch), state.detach())


def test_there_is_no_batch_norm_in_the_dense_one() -> None:
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in build.mlp().modules())


@pytest.mark.parametrize("name", FACTS)
def test_they_have_no_pretrained_weights(name: str) -> None:
    with pytest.raises(WeightsError, match=f"no pretrained weights of '{name}'.*--strategy scratch"):
        weights.locate(catalog.find_entry(name))
