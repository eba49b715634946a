"""Every way of transferring, end to end on real files: what is trained, saved, loaded and scored is one classifier."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensors import same, tensors

from graft.backbones.backbone import load_backbone
from graft.backbones.features import build_probe_features
from graft.data.dataset import Dataset
from graft.data.readers.folder import read_folder
from graft.errors import CutError, DataError, GraftError, ModelError, UsageError
from graft.features.embed import embed
from graft.jobs.direct import load_published_classifier, relabel_dataset
from graft.jobs.evaluate import evaluate
from graft.jobs.fit import fit
from graft.model.classifier import load
from graft.progress import no_progress
from graft.torch import phases
from graft.torch.restore import backbone_to_module, build_random_module, network_to_module
from graft.training.material import prepare_material
from graft.training.plan import Plan

SHORT = "epochs=2,batch=8,refit=no"
LABELS = ("disc", "frame", "stripes", "wide")


@pytest.fixture
def small(weights: Path) -> dict[str, Any]:
    return {"backbone": "test_resnet", "weights": weights, "offline": True}


@pytest.fixture(scope="module")
def table(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photos in one folder with a table of their labels, of which some have two; every fourth is for the score."""
    folder = tmp_path_factory.mktemp("table")
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "labels", "split"])
        for number, image in enumerate(sorted(photos.rglob("*.*"))):
            name = f"{number:02d}{image.suffix}"
            shutil.copy(image, folder / name)
            with Image.open(image) as opened:
                labels = [image.parent.name] + ["wide"] * (opened.width > 80)
            rows.writerow([name, "|".join(labels), "test" if number % 4 == 0 else "train"])
    return folder / "labels.csv"


# --- several labels ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["probe", "tail:cut=0.6,views=2"])
def test_several_labels_from_a_table_to_the_same_answers(
    strategy: str, table: Path, tmp_path: Path, small: dict[str, Any]
) -> None:
    recipe = SHORT if strategy.startswith("tail") else None
    made = fit(table, tmp_path / "model", strategy=strategy, recipe=recipe, **small)
    again = load(tmp_path / "model")
    assert made.classes == again.classes == LABELS
    if recipe:
        assert (made.report["recipe"]["mixup"], made.report["recipe"]["smoothing"]) == (0, 0)
        assert again.card.choices["task"] == "multilabel"
    assert again.card.task == "multilabel"
    assert len(again.card.thresholds) == 4
    assert again.card.thresholds == made.card.thresholds
    assert all(0 < each < 1 for each in again.card.thresholds)
    assert same(made, again)
    images = sorted(table.parent.glob("*.png"))
    for one, other in zip(made.predict(images), again.predict(images), strict=True):
        assert one == other
        reached = {
            name for name, least in zip(LABELS, again.card.thresholds, strict=True) if one.probabilities[name] >= least
        }
        assert set(one.labels) == reached
    score, reported = evaluate(tmp_path / "model", table).as_dict(), again.report["evaluation"]
    assert score["count"] == reported["count"] == 9
    assert [each["threshold"] for each in score["classes"]] == list(again.card.thresholds)
    for name in ("mean_average_precision", "macro_f1", "micro_f1", "log_loss"):
        assert score[name] == pytest.approx(reported[name], abs=1e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"strategy": "direct"}, "'direct' answers one class"),
        ({"strategy": "tail", "recipe": "loss=cross-entropy"}, "several labels for each image. Got 'cross-entropy'"),
        ({"strategy": "tail", "recipe": "metric=balanced-accuracy"}, "'balanced-accuracy' is for one label an image"),
        ({"strategy": "probe:head=knn"}, "'knn' takes one label for each image"),
    ],
)
def test_what_is_for_one_label_is_refused_before_any_image_is_embedded(
    options: dict[str, Any], says: str, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.jobs.fit.embed", lambda *_, **__: pytest.fail("images were embedded first"))
    with pytest.raises(UsageError) as caught:
        fit(table, **options)
    assert says in str(caught.value)


# --- direct -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_direct_scores_folders_named_as_the_classes_of_imagenet(
    photos: Path, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_WEIGHTS", str(weights.parent))
    for source, name in (("disc", "n03944341"), ("frame", "picket fence"), ("stripes", "Daisy")):
        shutil.copytree(photos / source, tmp_path / "p" / name)
    made = fit(tmp_path / "p", tmp_path / "model", strategy="direct", backbone="test_resnet", offline=True)
    plain = load_published_classifier("test_resnet", offline=True)
    data = relabel_dataset(read_folder(tmp_path / "p"), plain)
    assert {made.classes[label] for label in data.labels} == {"daisy", "picket fence", "pinwheel"}
    want = made.report["evaluation"]
    chances, _, _ = plain.predict_probs(data)
    assert want["accuracy"] == float((chances.argmax(axis=1) == data.labels).mean())
    assert want["count"] == 36 == made.report["data"]["test"]
    assert made.report["data"]["train"] == 0
    again = load(tmp_path / "model")
    assert same(again, plain)
    assert again.card.strategy == "direct"
    assert again.card.choices == {
        "strategy": "direct",
        "head": "",
        "recipe": "",
        "backbone": "test_resnet",
        "seed": 0,
        "weights": "",
        "task": "multiclass",
    }
    assert evaluate("test_resnet", tmp_path / "p").as_dict() == want  # by its name


def test_direct_scores_only_the_test_part_where_there_is_one(
    photos: Path, tmp_path: Path, small: dict[str, Any]
) -> None:
    for part, images in (("train", slice(0, 9)), ("test", slice(9, 12))):
        for source, name in (("disc", "pinwheel"), ("frame", "daisy")):
            (tmp_path / "p" / part / name).mkdir(parents=True)
            for image in sorted((photos / source).iterdir())[images]:
                shutil.copy(image, tmp_path / "p" / part / name)
    assert fit(tmp_path / "p", strategy="direct", **small).report["evaluation"]["count"] == 6


def test_direct_knows_its_own_classes_only(photos: Path, small: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="'stripes'"):
        fit(photos, strategy="direct", **small)


# --- from what was chosen before --------------------------------------------------------------------------------------


def test_choices_of_a_classifier_are_used_where_none_are_given(
    photos: Path, tmp_path: Path, small: dict[str, Any]
) -> None:
    first = fit(photos, tmp_path / "one", strategy="early-features:at=layer2", seed=5, **small)
    kept = {name: small[name] for name in ("weights", "offline")}
    again = fit(photos, plan=Plan.read(tmp_path / "one" / "model.json"), **kept)
    assert same(first, again)
    assert again.card.choices == first.card.choices
    assert again.report["evaluation"] == first.report["evaluation"]
    other = fit(photos, plan=Plan.read(tmp_path / "one"), seed=6, **kept)
    assert other.card.choices == first.card.choices | {"seed": 6}
    with pytest.raises(UsageError, match="A recipe is for training"):  # what is chosen there and here must go together
        fit(photos, plan=Plan.read(tmp_path / "one"), recipe="epochs=2", **kept)


# --- what a network does not take -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "recipe", "kind", "says"),
    [
        ("tail:cut=layer9", None, CutError, "There is no stage 'layer9'. The stages are"),
        ("tail:cut=head", None, None, ""),
        ("tail:last=2", None, None, ""),
        ("tail:last=16", None, UsageError, "'last' must be from 1 to 15"),
        ("tail:cut=0.7,until=layer1", None, UsageError, "'until' must lie above the cut"),
        ("tail:until=layer9", None, CutError, "There is no stage 'layer9'. The stages are"),
        ("lora:cut=head", None, UsageError, "leaves no stage to adapt"),
        ("two-phase", "epochs=1", UsageError, "'epochs' must be at least 2"),
        ("early-features:at=layer9", None, UsageError, "There is no stage 'layer9'"),
    ],
)
def test_it_is_said_before_an_image_is_looked_at(
    strategy: str, recipe: str | None, kind: type[GraftError] | None, says: str, photos: Path, small: dict[str, Any]
) -> None:
    class LookedAt(Exception):
        pass

    def watch(things: Any, what: Any, _count: int) -> Any:
        if str(what) != "files found":
            raise LookedAt
        return things

    with pytest.raises(kind or LookedAt) as caught:
        fit(photos, strategy=strategy, recipe=recipe, watch=watch, **small)
    assert says in str(caught.value)


# --- distillation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(photos: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    fit(photos, folder, strategy="probe:head=ridge,layers=last", backbone="test_resnet", weights=weights, offline=True)
    return folder


@pytest.mark.slow
def test_a_teachers_probabilities_are_the_targets(
    photos: Path, teacher: Path, tmp_path: Path, small: dict[str, Any]
) -> None:
    recipe = f"{SHORT},blend=none,loss=kl,teacher={teacher}"
    fit(photos, tmp_path / "student", strategy="tail:cut=0.6,views=1", recipe=recipe, **small)
    assert load(tmp_path / "student").card.recipe["teacher"] == str(teacher)

    material, targets = taught(photos, recipe, small)
    probs, _, faults = load(teacher).predict_probs(material)
    assert not faults
    assert torch.equal(targets, torch.from_numpy(probs.astype(np.float32)))
    assert targets.sum(1).numpy() == pytest.approx(1)


def taught(photos: Path, recipe: str, small: dict[str, Any]) -> tuple[Dataset, torch.Tensor]:
    """The images that a training learns from, and its targets."""
    data, backbone = read_folder(photos), load_backbone("test_resnet", small["weights"])
    material = prepare_material(data, embed(build_probe_features(backbone), data), 0)
    ground = phases.build_finetune_inputs(
        Plan("full", "", recipe), backbone, backbone_to_module(backbone), material, no_progress
    )
    return material.data.take(ground.train_rows), ground.targets


@pytest.mark.slow
def test_of_several_teachers_it_is_the_mean_whatever_the_order_of_their_classes(
    photos: Path, teacher: Path, tmp_path: Path, small: dict[str, Any]
) -> None:
    data = read_folder(photos)
    order = (2, 0, 1)
    turned = replace(
        data,
        classes=tuple(data.classes[at] for at in order),
        labels=np.array([order.index(label) for label in data.labels.tolist()], np.int32),
    )
    plus = tmp_path / "a+b"  # a folder may be called so
    fit(turned, plus, strategy="probe:head=ncm,layers=last", **small)
    learned, targets = taught(photos, f"{SHORT},loss=kl,teacher={plus}", small)
    second = load(plus).predict_probs(learned)[0]
    assert load(plus).classes == ("stripes", "disc", "frame")
    second = second[:, [load(plus).classes.index(name) for name in learned.classes]]
    assert torch.equal(targets, torch.from_numpy(second.astype(np.float32)))

    (tmp_path / "other").symlink_to(plus)
    learned, targets = taught(photos, f"{SHORT},loss=kl,teacher={teacher}+{tmp_path / 'other'}", small)
    first = load(teacher).predict_probs(learned)[0]
    assert np.abs(first - second).max() > 0.05, "teachers that agree show nothing"
    assert targets.numpy() == pytest.approx((first + second) / 2, abs=1e-7)


@pytest.mark.parametrize(
    ("folder", "kind", "says"),
    [
        ("nowhere", UsageError, "There is no teacher"),
        ("empty", ModelError, "empty"),
        ("other", UsageError, "other knows other classes: disc, square, stripes"),
    ],
)
@pytest.mark.parametrize("before", ["", "{teacher}+"], ids=["alone", "second"])
def test_a_teacher_must_be_there_and_know_the_classes(
    folder: str,
    kind: type[GraftError],
    says: str,
    before: str,
    photos: Path,
    teacher: Path,
    tmp_path: Path,
    small: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also the second one, and before the network is loaded."""
    monkeypatch.setattr("graft.jobs.fit.load_backbone", lambda *_: pytest.fail("work was done first"))
    (tmp_path / "empty").mkdir()
    shutil.copytree(teacher, tmp_path / "other")
    card = json.loads((tmp_path / "other" / "model.json").read_text())
    card["classes"][1] = "square"
    (tmp_path / "other" / "model.json").write_text(json.dumps(card))
    recipe = f"{SHORT},loss=kl,teacher={before.format(teacher=teacher)}{tmp_path / folder}"
    with pytest.raises(kind, match=says):
        fit(photos, tmp_path / "student", strategy="full", recipe=recipe, **small)
    assert not (tmp_path / "student").exists()


# --- from scratch, adapters, heads ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_small_network_learns_from_scratch(photos: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategy": "scratch", "backbone": "cnn", "recipe": "epochs=3,batch=8"}
    made = fit(photos, tmp_path / "model", **options)
    phase = made.report["phases"][0]
    assert phase["frozen_parameters"] == 0
    assert phase["trained_parameters"] == sum(
        each.numel() for each in network_to_module(made.network, made.card).parameters()
    )
    again = load(tmp_path / "model")
    assert same(made, again)
    images = sorted((photos / "disc").iterdir())
    assert [each.probabilities for each in made.predict(images)] == [
        each.probabilities for each in again.predict(images)
    ]
    assert same(made, fit(photos, **options))
    begin = build_random_module("cnn", 0).module.state_dict()
    assert begin
    assert not any(np.array_equal(made.network.features.graph.tensors[name], each) for name, each in begin.items())


@pytest.mark.slow
def test_adapters_are_a_part_of_the_weights_in_the_end(photos: Path, tmp_path: Path, small: dict[str, Any]) -> None:
    recipe = f"{SHORT},blend=none,rate=0.005"
    made = fit(photos, tmp_path / "model", strategy="lora:rank=2,cut=layer3", recipe=recipe, **small)
    plain = load_backbone("test_resnet", small["weights"]).graph.tensors
    state = made.network.features.graph.tensors
    assert state.keys() == plain.keys()
    moved = {name for name, value in state.items() if not np.array_equal(value, plain[name])}
    assert moved
    assert all(name.startswith(("layer3.", "layer4.")) and plain[name].ndim > 1 for name in moved)
    for name in moved:
        change = np.subtract(state[name], plain[name]).reshape(len(plain[name]), -1)
        assert 1 <= np.linalg.matrix_rank(change, rtol=1e-3) <= 2, name
    assert same(made, load(tmp_path / "model"))
    assert made.report["phases"][0]["only"] == "adapters"


@pytest.mark.parametrize("head", ["mlp:hidden=16", pytest.param("conv:filters=4,hidden=8", marks=pytest.mark.slow)])
def test_a_head_of_choice_is_saved_and_loaded(head: str, photos: Path, tmp_path: Path, small: dict[str, Any]) -> None:
    made = fit(photos, tmp_path / "model", strategy="tail:cut=0.6,views=1", head=head, recipe=SHORT, **small)
    again = load(tmp_path / "model")
    assert again.card.head["kind"] == head.partition(":")[0]
    assert again.card.pool == (not head.startswith("conv"))
    before, after = tensors(made.network), tensors(again.network)  # stages after a map that is read are not saved
    assert after.keys() <= before.keys()
    assert all(np.array_equal(before[name], each) for name, each in after.items())
    assert made.predict(photos / "disc" / "00.png") == again.predict(photos / "disc" / "00.png")


# --- mistakes ---------------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"recipe": "epochs=3"}, "A recipe is for training, and 'probe' trains nothing. Choose tail, for instance."),
    ({"head": "mlp"}, "--head is for strategies that train. 'probe' takes its own"),
    ({"strategy": "tail", "head": "cnn"}, "There is no head 'cnn'"),
    ({"resume": True}, "--resume is for strategies that train"),
    ({"log": "tensorboard"}, "--log is for strategies that train"),
    ({"strategy": "tail", "log": "wandb"}, "'wandb'"),
    ({"strategy": "tail", "recipe": "loss=kl"}, "'loss=kl' and 'teacher' belong together"),
    ({"strategy": "tail", "recipe": "rate=0"}, "'rate' must be above 0, or 'auto'. Got 0.0."),
    ({"strategy": "tail", "recipe": "metric=speed"}, "'metric' must be one of loss, accuracy"),
    ({"strategy": "tail", "recipe": "loss=hinge"}, "'loss' must be one of auto, cross-entropy"),
    ({"strategy": "tail", "recipe": "augment=crop=2"}, "The strength of augmentation 'crop'"),
    ({"strategy": "scratch", "weights": "some.pth"}, "'scratch' begins with random weights"),
]


@pytest.mark.parametrize(("options", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_what_does_not_go_together_is_told_before_any_image_is_embedded(
    options: dict[str, Any], says: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.jobs.fit.embed", lambda *_, **__: pytest.fail("images were embedded first"))
    with pytest.raises(UsageError) as caught:
        fit(photos, tmp_path / "model", **options)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "something was left behind"


@pytest.mark.parametrize("option", [{"resume": True}, {"log": "tensorboard"}])
def test_what_needs_an_output_says_so(option: dict[str, Any], photos: Path) -> None:
    with pytest.raises(UsageError, match="with an --output"):
        fit(photos, strategy="tail", **option)
