"""The list of stages says what a cut there would freeze."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from graft.cli import networks
from graft.errors import UsageError
from graft.jobs.networks import stages
from graft.torch import cut, restore
from graft.torch.chain import find_weight_layers
from graft.torch.head import HeadModule
from graft.torch.network import FeaturesModule, NetworkModule
from graft.torch.record import _compute_tuned_share as share


def test_the_list_is_the_chain_in_order() -> None:
    found = stages("cnn")
    layers = [each.pop("layers") for each in found]
    work = [[each.pop("work"), each.pop("above")] for each in found]
    assert found == [
        {"index": 0, "share": 0.0, "name": "conv1", "shape": [32, 30, 30], "parameters": 896, "below": 0.0},
        {"index": 1, "share": 0.25, "name": "conv2", "shape": [64, 13, 13], "parameters": 18_496, "below": 0.0073},
        {"index": 2, "share": 0.5, "name": "conv3", "shape": [64, 4, 4], "parameters": 36_928, "below": 0.1591},
        {"index": 3, "share": 0.75, "name": "dense", "shape": [64], "parameters": 65_600, "below": 0.4619},
    ]
    assert layers == [[{"name": each["name"], "parameters": each["parameters"]}] for each in found]
    each = [27 * 32 * 30 * 30, 288 * 64 * 13 * 13, 576 * 64 * 4 * 4, 1024 * 64]
    whole = sum(each)
    assert work == [[round(own / whole, 4), round(sum(each[place:]) / whole, 4)] for place, own in enumerate(each)]


def test_without_pytorch_the_stages_are_listed_and_their_work_is_not_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stages()
    monkeypatch.setattr("graft.jobs.networks.find_spec", lambda _package: None)
    found = stages()
    assert found == [each | {"work": None, "above": None, "layers": []} for each in whole]
    networks.print_stages("tf_efficientnet_lite0", found)
    said = capsys.readouterr().out
    assert "      -       -\nThe work of a stage is counted by PyTorch, and that needs PyTorch" in said


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_work_adds_up_and_every_layer_is_in_one_stage(name: str) -> None:
    found = stages(name)
    assert found[0]["above"] == 1.0
    assert sum(each["work"] for each in found) == pytest.approx(1.0, abs=1e-3)
    for one, other in pairwise([*found, {"above": 0.0}]):
        assert one["above"] - other["above"] == pytest.approx(one["work"], abs=2e-4)
    backbone = restore.build_random_module(name)
    layers = find_weight_layers(FeaturesModule(backbone.module, backbone.preprocess, ()))
    assert [layer for each in found for layer in each["layers"]] == [
        {"name": layer.name, "parameters": layer.parameters} for layer in layers
    ]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_above_is_the_share_of_the_work_that_a_cut_there_trains(name: str) -> None:
    backbone = restore.build_random_module(name)
    features = FeaturesModule(backbone.module, backbone.preprocess, ())
    network = NetworkModule(features, HeadModule({"kind": "linear", "width": features.width, "classes": 2}))
    chain = stages(name)
    for stage in chain[2:]:
        halves = cut.cut_network(network, backbone, stage["name"])
        stem = chain[0]["work"]  # it still runs above the cut, on a blank image
        assert share(network, halves) == pytest.approx(stage["above"] + stem, abs=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "test_resnet"])
def test_a_cut_by_index_share_or_name_freezes_what_the_list_says(name: str) -> None:
    backbone = restore.build_random_module(name)
    features = FeaturesModule(backbone.module, backbone.preprocess, ())
    network = NetworkModule(features, HeadModule({"kind": "linear", "width": features.width, "classes": 2}))
    chain = stages(name)
    whole = sum(stage["parameters"] for stage in chain)
    for stage in chain[1:]:
        for at in (stage["index"], stage["share"], stage["name"]):
            assert cut.cut_network(network, backbone, at).border == stage["name"]
        tuned = sum(each.numel() for each in backbone.module.parameters() if each.requires_grad)
        assert 1 - tuned / whole == pytest.approx(stage["below"], abs=1e-4)


def test_the_list_is_plain_data() -> None:
    found = stages("test_vit")
    assert json.loads(json.dumps(found)) == found
    assert len(found) > 4


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no network 'resnt50'"):
        stages("resnt50")
