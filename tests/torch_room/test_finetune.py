"""Every strategy on small and large networks: what is frozen stays, what is trained moves, the best of it is kept."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from shaken import CLASSIC, pretrained, slim_networks
from torch import nn

from graft.backbones.backbone import Backbone
from graft.backbones.features import build_probe_features
from graft.backbones.preprocess import Preprocess
from graft.data.readers.folder import read_folder
from graft.errors import CutError, GraftError, TrainingError, UsageError
from graft.features.embed import embed
from graft.model.history import Epoch
from graft.model.network import Network
from graft.progress import no_progress
from graft.torch import adapters, loop, optim, phases, restore
from graft.torch.feed import CachedFeed
from graft.torch.finetune import _fold_frozen_norms, finetune, train
from graft.torch.phases import FinetuneInputs, prepare_phase
from graft.torch.record import describe_phases
from graft.training.material import Material, prepare_material
from graft.training.plan import Plan
from graft.training.probe import fit_probe

TRAINED = ["tail", "lp-ft", "two-phase", "gradual", "full", "scratch", "lora", "norm", "early-features"]
PHASED = ("lp-ft", "two-phase", "gradual")  # each phase needs an epoch
OFTEN = ("tail", "gradual", "full", "lora")  # one of each kind: a cut, several phases, all, adapters
SMALL = [("test_resnet", 32), ("test_vit", 160), ("test_convnext", 32)]
LARGE = [
    *(each for each in CLASSIC if each[0] != "vgg11"),  # AlexNet has the same kinds of layers and is quicker
    ("mobilenet_v2", 64),
    ("mobilenet_v3_small", 64),
    ("efficientnet_b0", 96),
    ("convnext_atto", 64),
    ("deit_tiny_patch16_224", 64),
    ("swin_tiny_patch4_window7_224", 112),
]
FROM_SCRATCH = [("cnn", 32), ("mlp", 32), ("rnn", 32)]
FIXED = {"deit_tiny_patch16_224": {"img_size": 64}, "swin_tiny_patch4_window7_224": {"img_size": 112}}


def told(_epoch: Epoch) -> None:
    pass


@pytest.fixture(scope="module")
def material(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Six photos of each class, looked at by a small network."""
    few = tmp_path_factory.mktemp("few") / "photos"
    shutil.copytree(photos, few, ignore=shutil.ignore_patterns("0[6-9].*", "1*"))
    data = read_folder(few)
    return prepare_material(data, embed(build_probe_features(backbone_of("test_resnet", 64)), data), 0)


@pytest.fixture(scope="module", autouse=True)
def slimmed() -> Iterator[None]:
    """AlexNet's dense layers have nine tenths of its weights, and what is proved of 4096 units is proved of 128."""
    with slim_networks():
        yield


@functools.cache
def backbone_of(name: str, size: int) -> Backbone:
    """A network with random weights for images of this size."""
    return pretrained(name, size, built(name) if name in FIXED else None)


def built(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=0, **FIXED[name]).eval().requires_grad_(False)


SHORT = {"epochs": "4", "batch": "16", "schedule": "constant", "warmup": "0", "refit": "no"}


def ground_of(plan: Plan, backbone: Backbone, material: Material) -> FinetuneInputs:
    assert plan.parsed_recipe
    return phases.build_finetune_inputs(plan, backbone, restore.backbone_to_module(backbone), material, no_progress)


def plan_of(strategy: str, recipe: str = "", head: str = "") -> Plan:
    head = head or ("linear" if strategy.startswith("early") else "")
    own = dict(each.split("=", 1) for each in recipe.split(",") if each)
    return Plan(strategy, head, ",".join(f"{name}={value}" for name, value in (SHORT | own).items()))


# --- every strategy, every family -------------------------------------------------------------------------------------


def check(name: str, size: int, strategy: str, material: Material, recipe: str = "") -> None:
    """One training: what the last phase freezes is bit-identical, what it trains has moved, and all is finite."""
    backbone = backbone_of(name, size)
    before = {key: value.copy() for key, value in backbone.graph.tensors.items()}
    plain = name.startswith(("alexnet", "vgg"))  # without normalisation random weights explode at the usual rate
    # Two updates in an epoch: a new head starts at zero, and the first one moves nothing below it.
    plan = plan_of(strategy, "blend=none" + ",rate=2e-5,batch=8" * plain + recipe)
    trained = train(plan, backbone, material, None, told, no_progress)
    after = trained.network.features.graph.tensors
    assert before.keys() == after.keys()  # adapters are merged
    assert all(np.array_equal(value, before[key]) for key, value in backbone.graph.tensors.items())
    last = trained.record["phases"][-1]
    frozen = tuple(f"{stage}." for stage in last["frozen"])
    moved = {key for key, value in after.items() if not np.array_equal(value, before[key])}
    assert not {key for key in moved if key.startswith(frozen)}
    best = trained.record["training"]["history"][trained.record["training"]["kept"] - 1]
    if last["cut"] != "head" and best["phase"] == last["cut"]:  # an epoch of an earlier phase may have been better
        assert moved
    if strategy == "norm":
        assert all(after[key].ndim == 1 or "norm" in key for key in moved)
    assert np.isfinite(trained.logits).all()
    assert trained.logits.shape == (len(trained.labels), 3)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, size, size), np.uint8)
    assert np.isfinite(trained.network(images)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "strategy"),
    [
        pytest.param(*network, strategy, marks=[pytest.mark.slow] * (network != SMALL[0] or strategy not in OFTEN))
        for network in SMALL
        for strategy in TRAINED
    ],
)
def test_every_strategy_on_small_networks(name: str, size: int, strategy: str, material: Material) -> None:
    check(name, size, strategy, material, "" if strategy in PHASED else ",epochs=2")


SELDOM = [strategy for strategy in TRAINED if strategy not in OFTEN]
WAYS = [
    *(
        (*network, strategy)
        for place, network in enumerate(LARGE)
        for strategy in (*OFTEN, SELDOM[place % len(SELDOM)])
    ),
    *((*network, strategy) for network in FROM_SCRATCH for strategy in ("scratch", "full")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "strategy"), WAYS)
def test_every_kind_of_strategy_on_every_family(
    name: str, size: int, strategy: str, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each kind on each family, the others in turn; the journey has every strategy on each kind of network."""
    if name in FIXED:
        monkeypatch.setattr("graft.torch.build.build_network", lambda _entry: built(name))
    check(name, size, strategy, material, "" if strategy in PHASED else ",epochs=2")


# --- the laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_tail_on_stored_outputs_is_a_tail_on_outputs_computed_anew(
    name: str, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one view and the store in 32 bits the trained weights are the same, to rounding."""
    monkeypatch.setattr("graft.features.embed.np.float16", np.float32)
    found = []
    for views in (1, 0):
        backbone = backbone_of(name, 160)
        plan = plan_of(f"tail:cut=0.6,views={views}", "blend=none,rate=1e-4" + ("" if views else ",augment=none"))
        trained = train(plan, backbone, material, None, told, no_progress)
        found.append(tensors_of(trained.network))
    start_weights = backbone_of(name, 160).graph.tensors
    moved = max(float(np.abs(found[0][key] - value).max()) for key, value in start_weights.items())
    gap = max(float(np.abs(value - found[1][key]).max()) for key, value in found[0].items())
    assert moved > 1e-4
    assert gap < 1e-5


def tensors_of(network: Network) -> dict[str, NDArray[Any]]:
    """All that a network is made of, as numbers."""
    return {**network.features.graph.tensors, **{f"head.{name}": each for name, each in network.head.tensors.items()}}


def assert_equal(one: Network, other: Network) -> None:
    ours, theirs = tensors_of(one), tensors_of(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], name)


def test_the_solved_start_is_the_probe(material: Material) -> None:
    backbone = backbone_of("test_resnet", 64)
    ground = ground_of(plan_of("tail"), backbone, material)
    taught = phases.prepare_phase(ground, 0, {})
    assert isinstance(taught.held_out, CachedFeed)
    whole = ground.network.eval()
    images = torch.from_numpy(pixels_of(ground.network.preprocess, material, ground.valid_rows))
    said = loop.predict_logits(taught.phase_inputs.tuned, taught.held_out, len(ground.valid_rows), 8)
    with torch.no_grad():
        want = whole(images).double().numpy()
    np.testing.assert_allclose(said, want, atol=2e-2 * np.ptp(want))  # 16 bits in the store


def pixels(material: Material, row: int) -> Any:
    from graft.data.dataset import decode_pixels as decoded

    return decoded(material.data.read(row), 10_000)


@pytest.mark.slow
def test_with_nothing_gained_the_probe_on_all_images_is_the_result(material: Material) -> None:
    """A rate so small that no epoch can beat the start: the classifier is that of the strategy probe."""
    backbone = backbone_of("test_resnet", 64)
    probe = fit_probe(Plan(), backbone, material, no_progress)
    recipe = "epochs=1,optimizer=sgd,rate=1e-12"
    trained = train(Plan("tail", "", recipe), backbone_of("test_resnet", 64), material, None, told, no_progress)
    shares = trained.record["training"]["blend"]["tried"]
    assert {f"{share / 10:.1f} of the epoch" for share in range(10)} <= shares.keys()
    if trained.record["training"]["blend"]["share"] == 0:
        assert_equal(trained.network, probe.network)
        assert len(trained.labels) == len(material.train)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["full", "two-phase", "gradual"])
def test_a_new_head_that_learns_nothing_leaves_the_probe_and_says_so(strategy: str, material: Material) -> None:
    backbone = backbone_of("test_resnet", 64)
    trained = train(plan_of(strategy, "rate=1e-9"), backbone, material, None, told, no_progress)
    assert_equal(trained.network, fit_probe(Plan(), backbone, material, no_progress).network)
    assert len(trained.labels) == trained.record["solved_again"] == len(material.train)
    blend = trained.record["training"]["blend"]
    assert blend["share"] == 0
    assert blend["tried"]["solved head"] > max(score for name, score in blend["tried"].items() if name != "solved head")
    rows = material.split_validation()[0]
    inner = fit_probe(Plan(), backbone, material, no_progress, rows)  # no image that it is compared by was learned from
    assert np.array_equal(inner.rows, rows)
    assert len(inner.logits) == len(rows) < len(material.train)
    asked = train(plan_of(strategy, "rate=1e-9,blend=none"), backbone, material, None, told, no_progress)
    assert "solved_again" not in asked.record


@pytest.mark.slow
def test_two_phases_freeze_first_and_unfreeze_then(material: Material) -> None:
    heard: list[Epoch] = []
    plan = plan_of("two-phase:first=0.5,lower=0.1", "rate=0.01")
    backbone = backbone_of("test_resnet", 64)
    record = train(plan, backbone, material, None, heard.append, no_progress).record
    assert [epoch.phase for epoch in heard] == ["head", "head", *[record["phases"][1]["cut"]] * 2]
    assert [round(epoch.rate, 6) for epoch in heard] == [0.01, 0.01, 0.001, 0.001]
    assert record["phases"][0]["trained_parameters"] < record["phases"][1]["trained_parameters"]
    assert record["phases"][1]["frozen_parameters"] == 0


def test_gradual_unfreezes_from_the_top(material: Material) -> None:
    ground = ground_of(plan_of("gradual:steps=4"), backbone_of("test_resnet", 64), material)
    record = describe_phases(ground, [])
    places = [phase["place"] for phase in record["phases"]]
    assert places == sorted(places, reverse=True)
    assert places[0] == len(ground.chain)
    assert places[-1] == 0
    counts = [phase["trained_parameters"] for phase in record["phases"]]
    assert counts == sorted(counts)


@pytest.mark.slow
def test_patience_stops_and_the_best_epoch_is_kept(material: Material) -> None:
    heard: list[Epoch] = []
    plan = plan_of("full", "epochs=40,patience=2,rate=1e-3,blend=none,metric=accuracy")
    backbone = backbone_of("test_resnet", 64)
    trained = train(plan, backbone, material, None, heard.append, no_progress)
    assert 3 <= len(heard) < 40
    assert trained.record["phases"][0]["epochs"] == len(heard)
    assert trained.record["forward_equivalents"] == 1 + 3 * len(heard)  # what was done, not what was planned
    best = max(epoch.metrics["accuracy"] for epoch in heard)
    assert [epoch.metrics["accuracy"] for epoch in heard if epoch.best][-1] == best
    assert float((trained.logits.argmax(1) == trained.labels).mean()) == best


@pytest.mark.slow
@pytest.mark.fault(37)
def test_a_loss_that_explodes_at_once_is_an_error_and_later_keeps_the_best_epoch(
    material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("full", "optimizer=sgd,rate=1e9,clip=0")
    with pytest.raises(TrainingError, match="Lower the rate"):
        train(plan, backbone_of("test_resnet", 64), material, None, told, no_progress)
    heard: list[Epoch] = []

    def breaks(epoch: Epoch) -> None:
        heard.append(epoch)
        if epoch.number == 2:
            monkeypatch.setattr("graft.torch.loop.MAX_LOSS_FACTOR", 0.0)  # from here on every loss is too much

    plan = plan_of("full", "blend=none")
    trained = train(plan, backbone_of("test_resnet", 64), material, None, breaks, no_progress)
    assert len(heard) == 2
    assert "epoch 3, step 1" in trained.record["training"]["trouble"]
    assert "best epoch before that is kept" in trained.record["training"]["trouble"]
    best = next(epoch for epoch in reversed(heard) if epoch.best)
    assert float((trained.logits.argmax(1) == trained.labels).mean()) == best.metrics["accuracy"]


# --- what does not go together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "recipe", "head", "kind", "says"),
    [
        ("tail:cut=layer9", "", "", CutError, "There is no stage 'layer9'. The stages are"),
        ("tail:cut=77", "", "", CutError, "A cut is a stage, an index"),
        ("two-phase", "epochs=1", "", UsageError, "has 2 phases, so 'epochs' must be at least 2"),
        ("full", "loss=asymmetric,metric=loss,teacher=", "", None, ""),
        ("early-features:at=9.5", "", "linear", UsageError, "There is no stage '9.5'"),
    ],
)
def test_what_cannot_be_is_refused(
    strategy: str, recipe: str, head: str, kind: type[GraftError] | None, says: str, material: Material
) -> None:
    backbone = backbone_of("test_resnet", 64)
    plan = Plan(strategy, head, recipe)
    if kind is None:
        assert ground_of(plan, backbone, material).targets.shape[1] == 3
        return
    with pytest.raises(kind) as caught:
        phases.split_epochs(ground_of(plan, backbone, material).phases, plan.parsed_recipe.epochs)  # type: ignore[union-attr]
    assert says in str(caught.value)


def test_a_conv_head_needs_a_map(material: Material) -> None:
    backbone = backbone_of("test_vit", 160)
    with pytest.raises(UsageError, match="no feature map for a conv head"):
        ground_of(plan_of("full", head="conv"), backbone, material)


def test_a_map_too_small_for_the_conv_head_is_refused_before_an_image_is_embedded() -> None:
    backbone = backbone_of("test_resnet", 64)  # its last map is 2 x 2
    with pytest.raises(UsageError, match=r"needs a map of 3 x 3 or more\. This one is 2 x 2: choose padding=same"):
        phases.check_start(plan_of("tail:cut=head", head="conv:padding=valid"), backbone)
    phases.check_start(plan_of("tail:cut=head", head="conv:padding=same"), backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "head"),
    [
        pytest.param(strategy, head, marks=[pytest.mark.slow] * ((number + other) % 3 != 0))  # each head, each strategy
        for number, strategy in enumerate(
            ("tail:cut=0.6", "two-phase", "early-features:at=layer2", "early-features:at=layer2,cut=layer1")
        )
        for other, head in enumerate(("linear", "conv:filters=4,hidden=8", "mlp:hidden=8+8,activation=gelu,seed=1+2+3"))
    ],
)
def test_heads_go_on_top_of_what_is_trained(head: str, strategy: str, material: Material) -> None:
    backbone = backbone_of("test_resnet", 64)
    trained = train(plan_of(strategy, head=head), backbone, material, None, told, no_progress)
    assert trained.network.head.spec["kind"] == head.partition(":")[0]
    if "early" in strategy:
        assert trained.network.features.layers == ("layer2",)
        assert not trained.network.features.top


# --- a little further, on all images ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tail:cut=0.6", "lora:cut=0.6", "two-phase"])
def test_a_refit_trains_what_was_kept_on_all_images(strategy: str, material: Material) -> None:
    heard: list[Epoch] = []
    plan = plan_of(strategy, "refit=yes,blend=none,rate=1e-4")
    trained = train(plan, backbone_of("test_resnet", 64), material, None, heard.append, no_progress)
    assert (trained.record["refit"], trained.record["refit_epochs"]) == (len(material.train), 1)
    assert trained.record["training"]["kept"] == 4 == len(heard)
    assert len(trained.labels) == len(material.split_validation()[1])  # calibrated on images that were held out

    backbone = backbone_of("test_resnet", 64)
    module = restore.backbone_to_module(backbone)
    inputs = phases.build_finetune_inputs(plan, backbone, module, material, no_progress)
    starts = optim.snapshot(inputs.network, inputs.tensor_names)
    kept = finetune(inputs, starts, None, told)
    assert np.array_equal(kept.logits - kept.logits.mean(axis=1, keepdims=True), trained.logits)
    further = prepare_phase(inputs.build_refit(kept.progress.rates[-1]), 0, starts)
    assert further.phase_inputs.rate == pytest.approx(phases.REFIT_RATE * kept.progress.rates[-1])
    with _fold_frozen_norms(further.phase_inputs):
        for _ in loop.train(further.phase_inputs, loop.TrainingState(further.phase_inputs)):
            pass
    if "lora" in strategy:
        adapters.merge_adapters(module.module)
    want = restore.module_to_network(inputs.network.eval())
    head = want.head.centre_logits()
    assert head
    assert_equal(trained.network, replace(want, head=head))


@pytest.mark.fault(37)
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["tail:cut=0.6", "lora:cut=0.6"])
def test_a_refit_that_explodes_leaves_what_there_was_before(
    strategy: str, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = "blend=none,rate=1e-4"
    kept = train(plan_of(strategy, recipe), backbone_of("test_resnet", 64), material, None, told, no_progress)
    assert kept.record["training"]["trouble"] == ""

    def breaks(epoch: Epoch) -> None:
        if epoch.number == 4:  # the last one of the training
            monkeypatch.setattr("graft.torch.loop.MAX_LOSS_FACTOR", 0.0)

    plan = Plan(strategy, "", plan_of(strategy, recipe).recipe.replace("refit=no", "refit=yes"))
    broken = train(plan, backbone_of("test_resnet", 64), material, None, breaks, no_progress)
    assert "refit" not in broken.record
    assert "Training on, with all images, failed" in broken.record["training"]["trouble"]
    assert broken.record["training"]["kept"] == 4
    if kept.record["training"]["kept"] == 4:  # with a refit the last epoch counts, else the best: here the same
        assert np.array_equal(kept.logits, broken.logits)
        assert_equal(broken.network, kept.network)
    said = broken.network(pixels_of(broken.network.preprocess, material, material.split_validation()[1]))
    np.testing.assert_allclose(said, broken.logits, atol=2e-2 * np.ptp(broken.logits))  # 16 bits in the store


def pixels_of(preprocess: Preprocess, material: Material, rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    return np.stack([preprocess.prepare(pixels(material, int(row))) for row in rows])


@pytest.mark.slow
def test_many_images_are_not_trained_on_twice(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "REFIT_BELOW", 10)
    plan = plan_of("tail:cut=0.6", "refit=auto,rate=1e-4")
    trained = train(plan, backbone_of("test_resnet", 64), material, None, told, no_progress)
    assert "refit" not in trained.record
