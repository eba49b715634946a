"""The list of stages says what a cut there would freeze."""

from __future__ import annotations

import json

import pytest

from graft.errors import UsageError
from graft.jobs.stages import stages
from graft.networks import cut, fresh
from graft.networks.head import Head
from graft.networks.network import Features, Network


def test_the_list_is_the_chain_in_order() -> None:
    assert stages("cnn") == [
        {"index": 0, "share": 0.0, "name": "conv1", "shape": [32, 30, 30], "parameters": 896, "below": 0.0},
        {"index": 1, "share": 0.25, "name": "conv2", "shape": [64, 13, 13], "parameters": 18_496, "below": 0.0073},
        {"index": 2, "share": 0.5, "name": "conv3", "shape": [64, 4, 4], "parameters": 36_928, "below": 0.1591},
        {"index": 3, "share": 0.75, "name": "dense", "shape": [64], "parameters": 65_600, "below": 0.4619},
    ]


@pytest.mark.parametrize("name", ["cnn", "test_resnet"])
def test_a_cut_by_index_share_or_name_freezes_what_the_list_says(name: str) -> None:
    backbone = fresh.fresh_backbone(name)
    features = Features(backbone.module, backbone.preprocess, ())
    network = Network(features, Head({"kind": "linear", "width": features.width, "classes": 2}))
    chain = stages(name)
    whole = sum(stage["parameters"] for stage in chain)
    for stage in chain[1:]:
        for at in (stage["index"], stage["share"], stage["name"]):
            assert cut.cut(network, backbone, at).border == stage["name"]
        tuned = sum(each.numel() for each in backbone.module.parameters() if each.requires_grad)
        assert 1 - tuned / whole == pytest.approx(stage["below"], abs=1e-4)


def test_the_list_is_plain_data() -> None:
    found = stages("test_vit")
    assert json.loads(json.dumps(found)) == found
    assert len(found) > 4


def test_an_unknown_name_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no network 'resnt50'"):
        stages("resnt50")
