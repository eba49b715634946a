"""Class weights, priors and orders against counts, and a classifier whose skew the prior takes away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor

from graft.torch.losses import build_loss, build_weight_function, draw_order, log_prior
from graft.training.recipe import Recipe

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


def hot(labels: np.ndarray, classes: int = 3) -> Tensor:
    return torch.from_numpy(np.eye(classes, dtype=np.float32)[labels])


def test_weights_are_scikit_learns_balanced_ones() -> None:
    found = build_weight_function(hot(LABELS))(hot(LABELS))
    np.testing.assert_allclose(found, compute_sample_weight("balanced", LABELS), rtol=1e-6)
    assert found.mean().item() == pytest.approx(1)


def test_weights_of_balanced_classes_are_1_and_an_absent_class_changes_nothing() -> None:
    balanced = np.arange(30) % 3
    torch.testing.assert_close(build_weight_function(hot(balanced))(hot(balanced)), torch.ones(30))
    torch.testing.assert_close(build_weight_function(hot(balanced, 5))(hot(balanced, 5)), torch.ones(30))


def test_a_mixed_image_weighs_what_its_parts_do() -> None:
    weigh = build_weight_function(hot(LABELS))
    ends = weigh(torch.eye(3))
    torch.testing.assert_close(weigh(torch.tensor([[0.25, 0.0, 0.75]])), 0.25 * ends[[0]] + 0.75 * ends[[2]])


def test_weights_of_several_labels_by_hand() -> None:
    targets = torch.tensor([[1.0, 1.0], [1, 0], [1, 0], [0, 0]])
    weights = torch.tensor([(4 / 3 + 4) / 2, 4 / 3, 4 / 3, 4])  # frequencies 3/4 and 1/4; no label is a class as well
    torch.testing.assert_close(build_weight_function(targets)(targets), weights / weights.mean())


def test_priors_by_counts() -> None:
    prior = log_prior(hot(LABELS), Recipe(), "multiclass")
    torch.testing.assert_close(prior, torch.tensor([0.6, 0.3, 0.1]).log())
    odds = torch.tensor([0.6, 0.3, 0.1]).logit()
    torch.testing.assert_close(log_prior(hot(LABELS), Recipe(), "multilabel"), odds)
    torch.testing.assert_close(log_prior(hot(LABELS), Recipe(loss="bce"), "multiclass"), odds)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_the_prior_of_classes_that_none_or_all_have_is_finite(task: str) -> None:
    targets = torch.tensor([[1.0, 0.0]]).expand(5, 2)
    assert log_prior(targets, Recipe(), task).isfinite().all()  # pyright: ignore[reportArgumentType]
    assert log_prior(targets[:1], Recipe(), task).isfinite().all()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_with_the_prior_in_the_loss_logits_of_images_that_say_nothing_are_equal(task: str) -> None:
    bias = torch.zeros(3, requires_grad=True)
    loss = build_loss(Recipe(), task)  # pyright: ignore[reportArgumentType]
    prior = log_prior(hot(LABELS), Recipe(), task)  # pyright: ignore[reportArgumentType]
    (slope,) = torch.autograd.grad(loss(bias.expand(100, 3) + prior, hot(LABELS)).mean(), bias)
    torch.testing.assert_close(slope, torch.zeros(3), atol=1e-6, rtol=0)  # 0 is the minimum: nothing to learn
    (without,) = torch.autograd.grad(loss(bias.expand(100, 3), hot(LABELS)).mean(), bias)
    assert without.abs().max() > 0.1


@pytest.mark.parametrize("balance", ["none", "weights", "logits"])
def test_an_order_has_each_image_once_and_belongs_to_seed_and_epoch(balance: str) -> None:
    recipe = Recipe(balance=balance)
    orders = [draw_order(100, hot(LABELS), recipe, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for number, found in enumerate(orders):
        np.testing.assert_array_equal(np.sort(found), np.arange(100))
        assert all((found != other).any() for other in orders[number + 1 :])
    np.testing.assert_array_equal(orders[1], draw_order(100, hot(LABELS), recipe, 0, 1))


def test_the_sampler_draws_each_class_as_often() -> None:
    drawn = np.concatenate([draw_order(100, hot(LABELS), Recipe(balance="sampler"), 0, epoch) for epoch in range(100)])
    counts = np.bincount(LABELS[drawn])
    assert counts.sum() == 100 * 100
    np.testing.assert_allclose(counts, 1e4 / 3, atol=5 * np.sqrt(1e4 * 2 / 9))  # 5 standard deviations


def test_the_sampler_draws_an_image_of_several_labels_by_its_rarest() -> None:
    targets = torch.tensor([[1.0, 1.0], [1, 0], [1, 0], [0, 0]])
    drawn = np.concatenate([draw_order(4, targets, Recipe(balance="sampler"), 0, epoch) for epoch in range(2500)])
    chances = np.array([4, 4 / 3, 4 / 3, 4]) / (32 / 3)
    np.testing.assert_allclose(np.bincount(drawn) / 1e4, chances, atol=5 * np.sqrt(0.25 / 1e4))
