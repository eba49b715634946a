"""Losses against torch, timm, torchvision and numpy formulas, at their limits, and what each task may use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from graft.errors import UsageError
from graft.torch import losses
from graft.torch.losses import build_loss, one_vs_rest, penalty
from graft.training.recipe import Recipe, Task

MULTICLASS = ("auto", "cross-entropy", "focal", "mse", "kl", "bce", "asymmetric")
MULTILABEL = ("auto", "focal", "mse", "bce", "asymmetric")
EVERY: list[tuple[str, Task]] = [
    *((name, "multiclass") for name in MULTICLASS),
    *((n, "multilabel") for n in MULTILABEL),
]


def recipe(loss: str, smoothing: float = 0.0) -> Recipe:
    return Recipe(loss=loss, smoothing=smoothing, teacher="a folder" if loss == "kl" else "")


def case(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, and targets that are soft, one-hot and multi-hot."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.standard_normal((12, 4)) * 2)
    soft = torch.from_numpy(rng.standard_normal((12, 4))).softmax(1)
    hot = torch.from_numpy(np.eye(4)[rng.integers(0, 4, 12)])
    return logits, soft, hot, torch.from_numpy((rng.random((12, 4)) < 0.4).astype(np.float64))


def chances(logits: Tensor, task: Task) -> np.ndarray:
    z = logits.numpy()
    return np.exp(z) / np.exp(z).sum(1, keepdims=True) if task == "multiclass" else 1 / (1 + np.exp(-z))


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_each_loss_is_one_number_an_image_and_leads_downhill(name: str, task: Task) -> None:
    logits, _, hot, multi = case()
    targets = hot if task == "multiclass" else multi
    loss = build_loss(recipe(name), task)
    moved = logits.clone().requires_grad_()
    each = loss(moved, targets)
    assert each.shape == (12,)
    alone = torch.cat([loss(logits[[row]], targets[[row]]) for row in range(12)])
    torch.testing.assert_close(each, alone)
    each.sum().backward()
    assert moved.grad is not None
    assert loss(logits - 1e-3 * moved.grad, targets).sum() < each.sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs_with_label_smoothing(smoothing: float) -> None:
    logits, soft, hot, _ = case()
    for targets in (soft, hot):
        expected = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(build_loss(recipe("auto", smoothing), "multiclass")(logits, targets), expected)
    labels = hot.argmax(1)
    expected = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(build_loss(recipe("cross-entropy", smoothing), "multiclass")(logits, hot), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_bce_by_its_formula(smoothing: float) -> None:
    logits, _, _, multi = case()
    p, t = chances(logits, "multilabel"), multi.numpy() * (1 - smoothing) + smoothing / 2
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(1)
    asked: list[tuple[str, Task]] = [("auto", "multilabel"), ("bce", "multilabel"), ("bce", "multiclass")]
    for name, task in asked:
        found = build_loss(recipe(name, smoothing), task)(logits, multi)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_focal_by_its_formulas() -> None:
    logits, soft, hot, multi = case()
    p = chances(logits, "multiclass")
    for targets in (soft, hot):
        expected = -(targets.numpy() * (1 - p) ** 2 * np.log(p)).sum(1)
        np.testing.assert_allclose(build_loss(recipe("focal"), "multiclass")(logits, targets), expected, rtol=1e-10)
    expected = sigmoid_focal_loss(logits, multi, alpha=0.5, gamma=2).mean(1) * 2  # alpha 1/2 is no preference, halved
    torch.testing.assert_close(build_loss(recipe("focal"), "multilabel")(logits, multi), expected)


def test_focal_without_focus_is_cross_entropy_and_bce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "GAMMA", 0.0)
    logits, soft, _, multi = case()
    pairs: list[tuple[Task, Tensor]] = [("multiclass", soft), ("multilabel", multi)]
    for task, targets in pairs:
        plain, focal = (build_loss(recipe(name), task)(logits, targets) for name in ("auto", "focal"))
        torch.testing.assert_close(focal, plain)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_mse_is_the_brier_score(task: Task) -> None:
    logits, _, hot, _ = case()
    expected = ((chances(logits, task) - hot.numpy()) ** 2).sum(1)
    np.testing.assert_allclose(build_loss(recipe("mse"), task)(logits, hot), expected, rtol=1e-10)


def test_kl_is_cross_entropy_less_the_entropy_of_the_targets_and_0_where_they_are_met() -> None:
    logits, soft, hot, _ = case()
    kl, plain = build_loss(recipe("kl"), "multiclass"), build_loss(recipe("auto"), "multiclass")
    torch.testing.assert_close(kl(logits, soft), plain(logits, soft) + (soft * soft.log()).sum(1))
    torch.testing.assert_close(kl(logits, hot), plain(logits, hot))
    torch.testing.assert_close(kl(logits, logits.softmax(1)), torch.zeros(12).double())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_asymmetric_is_timms(smoothing: float) -> None:
    logits, soft, _, multi = case()
    timms = AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=0, clip=0.05)
    for targets in (multi, soft):
        moved = targets * (1 - smoothing) + smoothing / 2
        expected = torch.stack([timms(logits[[row]], moved[[row]]) for row in range(12)])
        found = build_loss(recipe("asymmetric", smoothing), "multilabel")(logits.float(), targets.float())
        torch.testing.assert_close(found, expected.float())


@pytest.mark.parametrize(("name", "task"), EVERY)
def test_half_precision_logits_are_judged_in_float32(name: str, task: Task) -> None:
    logits, _, hot, _ = case()
    half = logits.bfloat16()
    found = build_loss(recipe(name), task)(half, hot.float())
    torch.testing.assert_close(found, build_loss(recipe(name), task)(half.float(), hot.float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["cross-entropy", "kl"])
def test_a_loss_over_all_classes_is_refused_for_several_labels(name: str) -> None:
    with pytest.raises(UsageError, match=f"auto, asymmetric, bce, focal, mse with several labels.*Got '{name}'"):
        build_loss(recipe(name), "multilabel")


def test_which_losses_ask_for_each_class_by_itself() -> None:
    assert {name for name in MULTICLASS if one_vs_rest(recipe(name), "multiclass")} == {"bce", "asymmetric"}
    assert all(one_vs_rest(recipe(name), "multilabel") for name in MULTILABEL)


def test_penalty_by_hand_and_its_slope() -> None:
    weights = [torch.tensor([[1.0, -2.0]], requires_grad=True), torch.tensor([3.0], requires_grad=True)]
    starts = [torch.tensor([[0.0, 1.0]]), torch.tensor([5.0])]
    assert penalty(weights, starts, Recipe()) is None
    total = penalty(weights, starts, Recipe(l1=0.1, l2_sp=0.5))
    assert total is not None
    assert total.item() == pytest.approx(0.1 * 6 + 0.25 * (1 + 9 + 4))
    total.backward()
    assert weights[0].grad is not None
    torch.testing.assert_close(weights[0].grad, torch.tensor([[0.1 + 0.5, -0.1 - 1.5]]))
    l1, l2_sp = penalty(weights, [], Recipe(l1=0.1)), penalty(weights, starts, Recipe(l2_sp=0.5))
    assert l1 is not None
    assert l2_sp is not None
    torch.testing.assert_close(l1 + l2_sp, total)
