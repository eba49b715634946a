"""Phases: how the epochs are shared, what each phase feeds, trains and may change."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shaken import pretrained
from torch import nn

from graft.backbones.backbone import Backbone
from graft.backbones.features import build_probe_features
from graft.data.readers.folder import read_folder
from graft.errors import UsageError
from graft.features.embed import embed
from graft.progress import no_progress
from graft.torch import augment, loop, phases, restore
from graft.torch.cut import FrozenHalf
from graft.torch.feed import CachedFeed, ImageFeed
from graft.torch.phases import FinetuneInputs, prepare_phase, split_epochs
from graft.training.material import Material, prepare_material
from graft.training.plan import Plan
from graft.training.strategies import Phase

BACKBONE = "features.backbone."


@functools.cache
def backbone_of(name: str = "test_resnet", size: int = 64) -> Backbone:
    return pretrained(name, size)


@pytest.fixture(scope="module")
def material(photos: Path) -> Material:
    """The photos, looked at by a network with random weights."""
    data = read_folder(photos)
    return prepare_material(data, embed(build_probe_features(backbone_of()), data), 0)


def ground_of(strategy: str, recipe: str, material: Material, backbone: Backbone, head: str = "") -> FinetuneInputs:
    plan = Plan(strategy, head, recipe)
    return phases.build_finetune_inputs(plan, backbone, restore.backbone_to_module(backbone), material, no_progress)


STANDARDISED = {"head.mean", "head.scale"}  # no training moves them, but a checkpoint has them

# --- how the epochs are shared ----------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=8), st.integers(0, 60))
def test_epochs_are_shared_without_rest_and_each_phase_gets_one(shares: list[float], more: int) -> None:
    rows, epochs = [Phase("0", share / sum(shares)) for share in shares], len(shares) + more
    spans = split_epochs(rows, epochs)
    assert [span[0] for span in spans] == [0, *[span[1] for span in spans[:-1]]]
    assert spans[-1][1] == epochs
    counts = [last - first for first, last in spans]
    assert min(counts) >= 1
    exact = [phase.share * epochs for phase in rows]
    if min(exact) >= 2:  # rounding an end moves it by half an epoch at most
        assert max(abs(count - wanted) for count, wanted in zip(counts, exact, strict=True)) <= 1 + 1e-9


@given(st.integers(1, 12), st.integers(1, 20))
def test_equal_shares_of_a_multiple_are_equal(count: int, each: int) -> None:
    spans = split_epochs([Phase("0", 1 / count)] * count, count * each)
    assert [last - first for first, last in spans] == [each] * count


@pytest.mark.parametrize(
    ("shares", "epochs", "ends"),
    [
        ([0.3, 0.7], 10, [3, 10]),
        ([0.01, 0.99], 4, [1, 4]),
        ([0.99, 0.01], 4, [3, 4]),
        ([0.9, 0.05, 0.05], 3, [1, 2, 3]),
    ],
)
def test_a_small_share_is_one_epoch(shares: list[float], epochs: int, ends: list[int]) -> None:
    assert [last for _, last in split_epochs([Phase("0", share) for share in shares], epochs)] == ends


@pytest.mark.parametrize("count", [2, 5])
def test_fewer_epochs_than_phases_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match=f"has {count} phases, so 'epochs' must be at least {count}"):
        split_epochs([Phase("0", 1 / count)] * count, count - 1)
    assert split_epochs([Phase("0", 1 / count)] * count, count)[-1] == (count - 1, count)


# --- what may change --------------------------------------------------------------------------------------------------

WAYS = [
    ("tail:cut=layer3", ""),
    ("tail:cut=head", ""),
    ("tail:last=2", ""),
    ("tail:cut=layer2,until=layer4", ""),
    ("tail:cut=0,until=layer3", ""),
    ("early-features:at=layer3,cut=layer2", "linear"),
    ("early-features:at=layer2,cut=0", "linear"),
    ("early-features:at=layer2", "mlp:hidden=8,activation=gelu,init=glorot_uniform"),
    ("full", ""),
    ("full", "conv:filters=4,hidden=8,activation=gelu"),
    ("lora:rank=2,cut=layer2", ""),
    ("norm:cut=layer2", ""),
]


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
@pytest.mark.parametrize(("strategy", "head"), WAYS)
def test_what_may_change_is_what_differs_after_training(
    strategy: str, head: str, batch_norm: str, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All names of parameters and nothing else; of the statistics, those that the tuned half computes anew."""
    recipe = f"epochs=1,batch=8,rate=1e-3,warmup=0,batch_norm={batch_norm}"
    monkeypatch.setattr(loop, "MAX_LOSS_FACTOR", math.inf)  # random weights, and how well they learn is not asked
    ground = ground_of(strategy, recipe, material, backbone_of(), head)
    before = {name: value.clone() for name, value in ground.network.state_dict().items()}
    lesson = prepare_phase(ground, 0, {}).phase_inputs
    for _ in loop.train(lesson, loop.TrainingState(lesson)):
        pass
    after = ground.network.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    parameters = {name for name, each in ground.network.named_parameters() if each.requires_grad}
    assert set(ground.tensor_names) - set(before) == set()
    assert moved <= set(ground.tensor_names)
    assert moved & {name for name, _ in ground.network.named_parameters()} == parameters
    if batch_norm == "frozen":
        assert moved == set(ground.tensor_names) - STANDARDISED
    elif strategy == "full":
        never = STANDARDISED
        skipped = {name for name in before if head and name.startswith("features.backbone.") and "num_batches" in name}
        assert set(ground.tensor_names) - never - skipped <= moved | skipped


@pytest.mark.parametrize(
    ("strategy", "kept"),
    [
        ("tail:cut=layer2,until=layer4,views=0", ("layer2.", "layer3.")),
        ("tail:cut=0,until=layer3,views=0", ("conv1.", "bn1.", "layer1.", "layer2.")),
        ("tail:last=1,views=0", ("layer4.0.downsample.",)),
    ],
)
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_a_band_is_the_whole_network_with_just_that_trained(
    strategy: str, kept: tuple[str, ...], batch_norm: str, material: Material
) -> None:
    """The other run cuts nothing: all of the network goes on, in eval mode but for the parts that are trained."""
    recipe = f"epochs=1,batch=8,optimizer=sgd,rate=0.01,mixup=0,augment=none,layer_decay=0.9,batch_norm={batch_norm}"
    ends, start_at = [], dict[str, torch.Tensor]()
    for by_hand in (False, True):
        ground = ground_of(strategy, recipe, material, backbone_of())
        network, backbone = ground.network, ground.network.features.backbone
        start_at = {name: value.clone() for name, value in network.state_dict().items()}
        lesson = prepare_phase(ground, 0, {}).phase_inputs
        if by_hand:
            trained = tuple(f"{BACKBONE}{name}" for name in kept)
            for name, parameter in network.named_parameters():
                parameter.requires_grad_(name.startswith(("head.", *trained)))
            names = [name for name, part in backbone.named_modules() if name and not list(part.children())]
            data, digests = material.data.take(ground.train_rows), material.embeddings.digests[ground.train_rows]
            way = augment.Augment.parse("none")
            feed = ImageFeed(data, digests, network.preprocess, way, ground.seed, nn.Identity())
            still = tuple(backbone.get_submodule(name) for name in names if not f"{name}.".startswith(kept))
            parameters = phases.list_trainable_parameters(network, ground.chain)
            lesson = replace(lesson, tuned=network, feed=feed, frozen_parts=still, parameters=parameters)
        for _ in loop.train(lesson, loop.TrainingState(lesson)):
            pass
        ends.append({name: value.clone() for name, value in network.state_dict().items()})
    inside = ("head.judge", *(f"{BACKBONE}{name}" for name in kept))
    moved = {name for name, value in ends[0].items() if not torch.equal(value, start_at[name])}
    still_there = ("running_mean", "running_var", "num_batches_tracked") if batch_norm == "frozen" else ()
    assert moved == {name for name in start_at if name.startswith(inside) and not name.endswith(still_there)}
    for name, value in ends[1].items():
        torch.testing.assert_close(ends[0][name], value, rtol=0, atol=1e-6)


def test_what_may_change_in_any_phase_is_named(material: Material) -> None:
    ground = ground_of("two-phase", "epochs=2", material, backbone_of())
    assert set(ground.tensor_names) == STANDARDISED | {name for name, _ in ground.network.named_parameters()}
    prepare_phase(ground, 0, {})  # the first phase freezes all but the head
    trained = {name for name, each in ground.network.named_parameters() if each.requires_grad}
    assert trained == {name for name in ground.tensor_names if name.startswith("head.")} - STANDARDISED


# --- what a phase is made of ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("test_resnet", 64), ("test_vit", 160)])
def test_depths_are_counted_from_the_head_down(name: str, size: int, material: Material) -> None:
    ground = ground_of("full", "epochs=1", material, backbone_of(name, size))
    prepare_phase(ground, 0, {})
    placed = phases.list_trainable_parameters(ground.network, ground.chain)
    assert {each for _, each, _ in placed} == {each for each, _ in ground.network.named_parameters()}
    assert [depth for depth, _, _ in placed] == sorted(depth for depth, _, _ in placed)
    names = [stage.name for stage in ground.chain]
    for depth, parameter, tensor in placed:
        assert tensor is ground.network.get_parameter(parameter)
        inside = [
            place for place, stage in enumerate(names) if f"{parameter}.".startswith(f"features.backbone.{stage}.")
        ]
        if parameter.startswith("head."):
            assert depth == 0
        else:  # what is in no stage, a class token for instance, lies below all of them
            assert depth == (len(names) - inside[0] if inside else len(names) + 1)


@pytest.mark.parametrize("strategy", ["tail:cut=layer1,until=layer3", "tail:last=3"])
def test_a_stage_has_the_rate_that_it_has_when_everything_is_trained(strategy: str, material: Material) -> None:
    rates = []
    for each in (strategy, "lp-ft"):
        ground = ground_of(each, "epochs=1,layer_decay=0.5", material, backbone_of())
        lesson = prepare_phase(ground, 0, {}).phase_inputs
        shares = {
            id(tensor): part["lr"]
            for part in loop.TrainingState(lesson).optimizer.param_groups
            for tensor in part["params"]
        }
        rates.append({name: shares[id(parameter)] for _, name, parameter in lesson.parameters})
    band, whole = rates
    assert band == {name: whole[name] for name in band}
    assert 2 < len(band) < len(whole)
    assert len(set(band.values())) > 1


@pytest.mark.parametrize(
    ("strategy", "train", "held_out"),
    [
        ("tail:cut=layer3,views=3", CachedFeed, CachedFeed),
        ("tail:cut=head,views=2", CachedFeed, CachedFeed),
        ("tail:cut=layer3,views=0", ImageFeed, ImageFeed),
        ("tail:cut=0,views=3", ImageFeed, ImageFeed),  # nothing is frozen, so there is nothing to keep
        ("full", ImageFeed, ImageFeed),
        ("lora:cut=layer3", ImageFeed, ImageFeed),
    ],
)
def test_views_are_kept_where_something_is_frozen(
    strategy: str, train: type[Any], held_out: type[Any], material: Material
) -> None:
    ground = ground_of(strategy, "epochs=2", material, backbone_of())
    made = prepare_phase(ground, 0, {})
    assert type(made.phase_inputs.feed) is train
    assert type(made.held_out) is held_out
    assert len(made.phase_inputs.targets) == len(ground.train_rows)
    assert (made.phase_inputs.first_epoch, made.phase_inputs.epochs) == (0, 2)
    if train is CachedFeed:
        assert isinstance(made.phase_inputs.feed, CachedFeed)
        assert made.phase_inputs.feed.views == ground.phases[0].views
        assert isinstance(made.held_out, CachedFeed)
        assert made.held_out.views == 1
    else:
        assert isinstance(made.held_out, ImageFeed)
        assert made.held_out.augment.steps == ()
        assert isinstance(made.phase_inputs.feed, ImageFeed)
        assert made.phase_inputs.feed.augment.steps


@pytest.mark.parametrize("views", [0, 1])
def test_the_held_out_images_are_judged_as_the_whole_network_judges_them(views: int, material: Material) -> None:
    ground = ground_of(f"tail:cut=layer3,views={views}", "epochs=1", material, backbone_of())
    made = prepare_phase(ground, 0, {})
    said = loop.predict_logits(made.phase_inputs.tuned, made.held_out, len(ground.valid_rows), 4)
    feed = ImageFeed(
        material.data.take(ground.valid_rows),
        material.embeddings.digests[ground.valid_rows],
        ground.network.preprocess,
        augment.Augment.parse("none"),
        0,
        nn.Identity(),
    )
    with torch.no_grad():
        want = ground.network.eval()(feed.read_evaluation_batch(np.arange(len(ground.valid_rows)))).double().numpy()
    np.testing.assert_allclose(said, want, atol=(1e-2 if views else 1e-4) * np.ptp(want))  # 16 bits in the store
    assert np.ptp(want, axis=0).min() > 0


def test_rates_and_epochs_of_each_phase(material: Material) -> None:
    ground = ground_of("two-phase:first=0.25,lower=0.5", "epochs=8,rate=0.01", material, backbone_of())
    both = [prepare_phase(ground, number, {}) for number in (0, 1)]
    assert [each.name for each in both] == ["head", ground.chain[0].name]
    assert [(each.phase_inputs.first_epoch, each.phase_inputs.epochs, each.phase_inputs.rate) for each in both] == [
        (0, 2, 0.01),
        (2, 6, 0.005),
    ]
    assert isinstance(both[0].halves.frozen, FrozenHalf)
    assert both[0].phase_inputs.tuned is ground.network.head
    assert both[1].phase_inputs.tuned is ground.network


@pytest.mark.slow
def test_an_automatic_rate_changes_nothing_else(material: Material) -> None:
    ground = ground_of("tail:cut=layer3", "epochs=2,rate=auto", material, backbone_of())
    before = {name: value.clone() for name, value in ground.network.state_dict().items()}
    rates = [prepare_phase(ground, 0, {}).phase_inputs.rate for _ in range(2)]
    assert rates[0] == rates[1] > 0
    assert all(torch.equal(value, before[name]) for name, value in ground.network.state_dict().items())


# --- what a training stands on ----------------------------------------------------------------------------------------


def test_in_a_refit_nothing_is_held_out_and_the_last_phase_is_trained_gently(material: Material) -> None:
    ground = ground_of("two-phase", "epochs=9", material, backbone_of())
    inner, valid = material.split_validation()
    assert np.array_equal(ground.train_rows, inner)
    assert np.array_equal(ground.valid_rows, valid)
    assert np.array_equal(ground.valid_labels, material.data.labels[valid])
    assert np.array_equal(ground.targets.numpy(), np.eye(3, dtype=np.float32)[material.data.labels[inner]])
    whole = ground.build_refit(rate=1e-4)
    assert whole.network is ground.network
    assert (whole.recipe.epochs, whole.recipe.rate) == (3, 1e-4)
    assert whole.phases == (Phase("0", 1.0, phases.REFIT_RATE),)
    assert np.array_equal(whole.train_rows, material.train)
    assert np.array_equal(whole.targets.numpy(), np.eye(3, dtype=np.float32)[material.data.labels[material.train]])
    assert len(whole.valid_rows) == len(whole.valid_labels) == 0
    assert whole.task == ground.task == "multiclass"


@pytest.mark.parametrize(
    ("recipe", "few", "refits"),
    [
        ("refit=auto", True, True),
        ("refit=auto", False, False),
        ("refit=yes", False, True),
        ("refit=no", True, False),
        ("refit=auto,patience=2", True, True),
    ],
)
def test_few_images_are_all_trained_on_in_the_end(
    recipe: str, few: bool, refits: bool, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground = ground_of("full", f"epochs=1,{recipe}", material, backbone_of())
    monkeypatch.setattr(phases, "REFIT_BELOW", len(ground.train_rows) + few)
    assert ground.has_refit is refits
    assert ground.is_last_epoch_kept is (refits and "patience" not in recipe)  # else the best one counts


def test_adapters_stand_above_the_cut_only(material: Material) -> None:
    backbone = backbone_of()
    names = [stage.name for stage in backbone.graph.stages]
    ground = ground_of("lora:cut=layer3,rank=2", "epochs=1", material, backbone)
    added = {name for name, _ in ground.network.named_parameters() if "lora_" in name}
    above = tuple(f"features.backbone.{name}." for name in names[names.index("layer3") :])
    assert added
    assert all(name.startswith(above) for name in added)
    assert {name for name in ground.tensor_names if not name.startswith("head.")} == added
