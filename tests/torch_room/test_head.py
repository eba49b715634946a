"""Heads: votes counted by hand, a small dictionary that rebuilds each kind, and a line of text that designs one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graft import spec as texts
from graft.errors import UsageError
from graft.heads.designs import HEADS, Conv, HeadOptions, Linear, Mlp
from graft.torch.head import ACTIVATIONS, HeadModule, NearestNeighbours, build_head

SPECS = [
    {"kind": "linear", "width": 6, "classes": 3},
    {"kind": "mlp", "width": 6, "classes": 3, "hidden": [5, 4]},
    {"kind": "knn", "width": 6, "classes": 3, "stored": 9, "neighbours": 4},
]
DESIGNS = [
    "linear",
    "linear:dropout=0.5,init=normal",
    "mlp:hidden=5+4,activation=gelu,dropout=0.5",
    "mlp:hidden=,init=glorot_uniform",
    "conv",
    "conv:filters=4,padding=valid,hidden=7,init=he_normal+he_uniform+glorot_normal,seed=0+32+33",
    "conv:filters=4,hidden=7,activation=tanh,spatial_dropout=0.4,dropout=0.2,seed=3",
]
MAP = (6, 5, 4)


def designed(text: str) -> HeadOptions:
    return texts.parse(text, HEADS, "head")


@pytest.mark.parametrize("neighbours", [1, 4, 99])
def test_nearest_neighbours_vote_as_counted_one_by_one(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    stored, asked = rng.standard_normal((20, 6)), rng.standard_normal((5, 6))
    labels = rng.integers(0, 3, 20)
    head = NearestNeighbours(20, 6, 4, neighbours)
    head.features = torch.nn.functional.normalize(torch.tensor(stored, dtype=torch.float32))
    head.labels = torch.tensor(labels)
    want = np.zeros((5, 4))
    for row, query in enumerate(asked):
        cosines = [float(query @ other / np.linalg.norm(query) / np.linalg.norm(other)) for other in stored]
        for near in sorted(range(20), key=lambda at: -cosines[at])[:neighbours]:
            want[row, labels[near]] += np.exp(cosines[near] / 0.07)
    want = np.log(want / want.sum(axis=1, keepdims=True) + 1e-4)
    got = head(torch.tensor(asked, dtype=torch.float32) * 7)  # the length of a query does not matter
    assert np.allclose(got.numpy(), want, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_a_head_is_rebuilt_from_its_spec_and_tensors(spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head = HeadModule(spec)
    for name, buffer in head.named_buffers():
        if not name.endswith("labels"):
            buffer.uniform_(0.5, 2)
    rebuilt = HeadModule(json.loads(json.dumps(head.spec)))
    features = torch.randn(7, 6)
    assert not torch.equal(rebuilt(features), head(features))
    rebuilt.load_state_dict(head.state_dict())
    assert torch.equal(rebuilt(features), head(features))
    assert rebuilt(features).shape == (7, 3)


def test_a_head_standardises_first() -> None:
    head = HeadModule(SPECS[0])
    head.mean, head.scale = torch.arange(6.0), torch.full((6,), 0.25)
    features = torch.randn(3, 6)
    assert torch.allclose(head(features), head.judge((features - torch.arange(6.0)) / 4))


def test_an_mlp_has_a_relu_between_its_layers_and_none_at_the_end() -> None:
    kinds = [type(layer).__name__ for layer in HeadModule(SPECS[1]).judge.children()]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="no head of kind 'tree'; there are linear, mlp, conv, knn and forest"):
        HeadModule({"kind": "tree", "width": 6, "classes": 3})


# --- designs ----------------------------------------------------------------------------------------------------------


def test_a_text_is_a_design_and_back() -> None:
    assert designed("mlp:hidden=256+128,activation=gelu,dropout=0.5") == Mlp("256+128", "gelu", 0.5)
    assert [designed(name) for name in HEADS] == [Linear(), Mlp(), Conv()]
    for text in DESIGNS:
        assert texts.format_spec(designed(text), HEADS) == text


@pytest.mark.parametrize("text", DESIGNS)
def test_a_designed_head_is_rebuilt_from_its_spec_and_tensors(text: str) -> None:
    head = build_head(designed(text), MAP, 3)
    head.standardise(torch.randn(120), torch.rand(120) + 0.5)
    nn.init.normal_(list(head.judge.parameters())[-1])
    rebuilt = HeadModule(json.loads(json.dumps(head.spec)))
    features = torch.randn(7, 120)
    rebuilt.load_state_dict(head.state_dict())
    assert torch.equal(rebuilt.eval()(features), head.eval()(features))
    assert head(features).shape == (7, 3)
    assert head.spec["width"] == 120
    torch.manual_seed(0)
    first = head.train()(features)
    torch.manual_seed(0)
    assert torch.equal(first, rebuilt.train()(features))  # it learns in the same way: dropout is part of the spec
    assert torch.equal(first, head.eval()(features)) == ("dropout" not in text)


@pytest.mark.parametrize("text", DESIGNS)
def test_a_fresh_head_depends_on_its_seed_alone_and_leaves_torch_its_numbers(text: str) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = build_head(designed(text), MAP, 3)
    assert torch.equal(torch.rand(1), expected)
    again = build_head(designed(text), MAP, 3)
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), again.parameters(), strict=True))
    other = build_head(texts.replace_options(designed(text), "seed=99", "head"), MAP, 3)
    assert torch.equal(first.state_dict()[_weight(first)], other.state_dict()[_weight(first)]) == (text == "linear")


def _weight(head: HeadModule) -> str:
    return next(name for name, tensor in head.state_dict().items() if name.startswith("judge") and tensor.ndim > 1)


@pytest.mark.parametrize(
    ("init", "spread", "bound"),  # of a normal distribution cut off at 2 of its deviations, 0.8796 of one is left
    [
        ("he_normal", (2 / 4000) ** 0.5, 2 * (2 / 4000) ** 0.5 / 0.8796),
        ("he_uniform", (2 / 4000) ** 0.5, (6 / 4000) ** 0.5),
        ("glorot_normal", (2 / 4050) ** 0.5, 2 * (2 / 4050) ** 0.5 / 0.8796),
        ("glorot_uniform", (2 / 4050) ** 0.5, (6 / 4050) ** 0.5),
        ("zero", 0.0, 0.0),
    ],
)
def test_weights_begin_as_keras_defines_each_initialiser_and_biases_at_zero(
    init: str, spread: float, bound: float
) -> None:
    judge = build_head(Linear(init=init), 4000, 50).judge
    assert isinstance(judge, nn.Linear)
    assert judge.weight.std().item() == pytest.approx(spread, rel=0.01)
    assert judge.weight.abs().max().item() == pytest.approx(bound, rel=0.001)
    assert judge.weight.abs().max().item() <= bound * 1.0001
    assert not judge.bias.any()


def test_normal_weights_have_a_spread_of_one_hundredth() -> None:
    assert build_head(Linear(init="normal"), 4000, 50).get_parameter("judge.weight").std().item() == pytest.approx(
        0.01, rel=0.01
    )


CLASSIC = (
    "conv:filters=32,padding=valid,hidden=30+30,init=he_normal+he_uniform+glorot_normal+glorot_uniform,seed=0+32+33+3"
)


def weights_of(text: str, shape: tuple[int, ...] = (64, 7, 7), classes: int = 3) -> list[Tensor]:
    return [tensor for tensor in build_head(designed(text), shape, classes).judge.parameters() if tensor.ndim > 1]


def test_each_layer_of_the_classic_head_begins_as_its_own_initialiser_says() -> None:
    conv, first, second, last = weights_of(CLASSIC)
    flat = 32 * 2 * 2  # 7 x 7 without a border are 5 x 5, of each 2 x 2 the largest
    assert [tuple(each.shape) for each in (conv, first, second, last)] == [
        *((32, 64, 3, 3), (30, flat), (30, 30), (3, 30))
    ]
    assert conv.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert conv.abs().max().item() <= 2 * (2 / (64 * 9)) ** 0.5 / 0.8796
    assert first.std().item() == pytest.approx((2 / flat) ** 0.5, rel=0.03)
    assert 0.99 < first.abs().max().item() / (6 / flat) ** 0.5 <= 1
    assert second.std().item() == pytest.approx((2 / 60) ** 0.5, rel=0.05)
    assert second.abs().max().item() > 1.2 * (6 / 60) ** 0.5  # no uniform draw goes so far
    assert 0.9 < last.abs().max().item() / (6 / 33) ** 0.5 <= 1
    biases = [tensor for tensor in build_head(designed(CLASSIC), (64, 7, 7), 3).judge.parameters() if tensor.ndim == 1]
    assert [len(each) for each in biases] == [32, 30, 30, 3]
    assert not any(each.any() for each in biases)


def test_a_glorot_convolution_counts_each_place_of_its_kernel() -> None:
    conv = weights_of("conv:init=glorot_normal")[0]
    assert conv.std().item() == pytest.approx((2 / (64 * 9 + 32 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_layers_seed_changes_that_layer_alone(changed: int) -> None:
    seeds = ["0", "32", "33", "3"]
    seeds[changed] = "77"
    others = weights_of(CLASSIC.replace("0+32+33+3", "+".join(seeds)))
    same = [torch.equal(one, other) for one, other in zip(weights_of(CLASSIC), others, strict=True)]
    assert same == [place != changed for place in range(4)]


def test_one_seed_serves_all_layers_and_draws_other_numbers_for_each() -> None:
    one, four = weights_of("conv:hidden=128+128,seed=5"), weights_of("conv:hidden=128+128,seed=5+5+5+5")
    assert all(torch.equal(*pair) for pair in zip(one, four, strict=True))
    _, first, second, _ = weights_of("conv:filters=32,padding=valid,hidden=128+128,seed=5")
    assert first.shape == second.shape
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_mlp_is_its_layers_with_the_activation_between(name: str) -> None:
    head = build_head(Mlp("5", name), 6, 3)
    first, _, last = head.judge.children()
    features = torch.randn(4, 6)
    by_hand = {
        "relu": lambda x: x.clamp(min=0),
        "leaky-relu": lambda x: torch.where(x > 0, x, 0.01 * x),
        "tanh": torch.tanh,
        "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
        "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
    }
    assert torch.allclose(head(features), last(by_hand[name](first(features))), atol=1e-6)


def test_a_conv_head_is_the_classic_recipe() -> None:
    head = build_head(Conv(filters=4, hidden="7+6"), MAP, 3)
    layers = list(head.judge.children())
    conv, dense = layers[0], [layer for layer in layers if isinstance(layer, nn.Linear)]
    maps = torch.randn(2, *MAP)
    inner = functional.max_pool2d(functional.relu(conv(maps)), 2).flatten(1)
    assert inner.shape == (2, 4 * 2 * 2)
    want = dense[2](functional.relu(dense[1](functional.relu(dense[0](inner)))))
    assert torch.allclose(head(maps.flatten(1)), want, atol=1e-6)


def test_without_padding_the_convolution_sees_only_what_is_there() -> None:
    head = build_head(designed("conv:filters=4,padding=valid,hidden=7"), (6, 7, 6), 3)
    conv, *_, first, _, last = head.judge.children()
    maps = torch.randn(2, 6, 7, 6)
    windows = maps.unfold(2, 3, 1).unfold(3, 3, 1)  # [n, channels, 5, 4, 3, 3]
    convolved = torch.einsum("nchwij,fcij->nfhw", windows, conv.get_parameter("weight")).relu()
    pooled = convolved[:, :, :4].unflatten(2, (2, 2)).unflatten(4, (2, 2)).amax((3, 5))  # the fifth row is left over
    want = last(first(pooled.flatten(1)).relu())
    assert pooled.shape == (2, 4, 2, 2)
    assert torch.allclose(head(maps.flatten(1)), want, atol=1e-6)


def test_a_map_that_is_too_small_for_a_convolution_without_padding_is_refused() -> None:
    with pytest.raises(UsageError, match=r"needs a map of 3 x 3 or more\. This one is 2 x 5: choose padding=same"):
        build_head(Conv(padding="valid"), (6, 2, 5), 3)
    assert build_head(Conv(padding="valid"), (6, 3, 3), 3)(torch.randn(2, 54)).shape == (2, 3)


def test_a_conv_head_that_was_saved_before_padding_could_be_chosen_is_as_it_was() -> None:
    head = build_head(Conv(), MAP, 3)
    old = HeadModule({name: value for name, value in head.spec.items() if name != "padding"})
    old.load_state_dict(head.state_dict())
    features = torch.randn(2, 120)
    assert torch.equal(old(features), head(features))


def test_a_conv_head_takes_the_smallest_map() -> None:
    assert build_head(Conv(), (6, 1, 1), 3)(torch.randn(2, 6)).shape == (2, 3)


def test_a_conv_head_standardises_each_channel_as_one() -> None:
    maps = torch.randn(500, *MAP) * torch.arange(1.0, 7).view(6, 1, 1) + torch.randn(MAP) * 3
    flat = maps.flatten(1)
    head = build_head(Conv(), MAP, 3)
    head.standardise(flat.mean(0), 1 / flat.std(0, correction=0))
    channels = maps.transpose(0, 1).flatten(1)
    assert torch.allclose(head.mean.flatten(), channels.mean(1), atol=1e-4)
    assert torch.allclose(head.scale.flatten(), 1 / channels.std(1, correction=0), rtol=1e-4)
    want = head.judge((maps - head.mean) * head.scale)
    assert torch.allclose(head(flat), want)


def test_standardised_features_have_mean_0_and_spread_1() -> None:
    features = torch.randn(500, 6) * 3 + 7
    head = build_head(Linear(), 6, 3)
    head.standardise(features.mean(0), 1 / features.std(0))
    head.judge = nn.Identity()
    assert torch.allclose(head(features).mean(0), torch.zeros(6), atol=1e-5)
    assert torch.allclose(head(features).std(0), torch.ones(6), atol=1e-5)


def test_dropout_of_averages_is_spatial_dropout_before_averaging() -> None:
    maps = torch.randn(8, 6, 5, 4)
    head = build_head(Linear(dropout=0.5, init="normal"), 6, 3)
    torch.manual_seed(0)
    averaged: Tensor = head(maps.mean((2, 3)))
    torch.manual_seed(0)  # the same channels go, for the same draws
    spatial = head.judge(functional.dropout2d(maps, 0.5).mean((2, 3)))
    assert torch.allclose(averaged, spatial, atol=1e-6)
    assert not torch.allclose(averaged, head.eval()(maps.mean((2, 3))), atol=1e-3)


def test_spatial_dropout_takes_whole_filters() -> None:
    head = build_head(Conv(filters=64, activation="sigmoid", spatial_dropout=0.5), MAP, 3).train()
    after = nn.Sequential(*list(head.judge.children())[:2])(torch.randn(1, *MAP))[0].flatten(1)
    gone = (after == 0).all(1)
    assert 10 < gone.sum() < 54
    assert (after[~gone] > 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tree", "There is no head 'tree'. Choose one of: linear, mlp, conv"),
        ("linear:dropout=1", "'dropout' must be from 0 to below 1. Got 1.0"),
        (
            "linear:init=ones",
            "'init' must be one of he_normal, he_uniform, glorot_normal, glorot_uniform, normal, zero. Got",
        ),
        ("linear:seed=-1", "'seed' must be from 0 to 2\\^64 - 1. Got -1"),
        ("mlp:init=zero", "'init' must be one of he_normal, .*, normal. Got 'zero'"),
        ("mlp:init=he", "'init' must be one of he_normal, .*, normal. Got 'he'"),
        ("mlp:seed=1+-2", "'seed' must be from 0 to 2\\^64 - 1. Got -2"),
        ("mlp:seed=one", "'seed' must be from 0 to 2\\^64 - 1. Got one"),
        ("mlp:init=he_normal+zero", "'init' must be one of he_normal, .*, normal. Got 'zero'"),
        ("mlp:hidden=8,seed=1+2+3", "'seed' must be one value .* each of the 2 \\(8, classes\\).* Got 3: '1\\+2\\+3'"),
        (
            "conv:init=he_normal+he_uniform",
            "'init' must be one value for all layers, or one for each of the 4 \\(conv, 30, 30, classes\\), joined by",
        ),
        ("conv:padding=full", "'padding' must be one of same, valid. Got 'full'"),
        ("mlp:activation=step", "'activation' must be one of relu, leaky-relu, tanh, sigmoid, gelu. Got 'step'"),
        ("mlp:hidden=256x128", "'hidden' must be widths of layers, such as 256 or 256\\+128. Got '256x128'"),
        ("mlp:hidden=256+0", "'hidden' must be widths"),
        ("mlp:dropout=nan", "'dropout' must be from 0 to below 1. Got nan"),
        ("conv:filters=0", "'filters' must be at least 1. Got 0"),
        ("conv:spatial_dropout=-0.1", "'spatial_dropout' must be from 0 to below 1"),
        ("conv:activation=swish", "'activation' must be one of"),
        ("conv:hidden=-3", "'hidden' must be widths"),
    ],
)
def test_a_design_that_cannot_be_says_what_can(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        designed(text)


@pytest.mark.parametrize("shape", [120, (120,), (24, 5)])
def test_a_conv_head_without_a_map_is_refused(shape: int | tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="needs a feature map"):
        build_head(Conv(), shape, 3)


def test_a_conv_head_whose_map_and_width_differ_is_refused() -> None:
    with pytest.raises(ValueError, match=r"A map of \[6, 5, 4\] has 120 features, not 7"):
        HeadModule(build_head(Conv(), MAP, 3).spec | {"width": 7})
