"""Mixup and cutmix against torchvision's, and that a step's draw belongs to its seed, epoch and step only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from graft.errors import UsageError
from graft.torch.augment import cutmix, draw_box, mix_batch, mixup
from graft.training.recipe import Recipe


def batch(*shape: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    targets = rng.random((shape[0], 3)).astype(np.float32)
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32)), torch.from_numpy(targets)


def test_mixup_is_torchvisions() -> None:
    inputs, targets = batch(5, 3, 8, 6)
    theirs, params = v2.MixUp(alpha=1.0), {"labels": targets, "batch_size": 5, "lam": 0.3}
    torch.testing.assert_close(mixup(inputs, 0.3), theirs.transform(inputs, params))
    torch.testing.assert_close(mixup(targets, 0.3), theirs.transform(targets, params))


def test_cutmix_is_torchvisions() -> None:
    inputs, targets = batch(5, 3, 8, 6)
    params = {"labels": targets, "batch_size": 5, "box": (1, 2, 4, 7), "lam_adjusted": 0.7}
    assert torch.equal(cutmix(inputs, (1, 2, 4, 7)), v2.CutMix(alpha=1.0).transform(inputs, params))


def test_uint8_images_mix_like_their_float_values_and_are_cut_as_they_are() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), dtype=np.uint8))
    mixed = mixup(images, 0.4)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, mixup(images.float(), 0.4))
    assert cutmix(images, (0, 0, 4, 4)).dtype == torch.uint8


@pytest.mark.parametrize("shape", [(6, 10), (6, 5, 10), (6, 10, 4, 4)])
def test_mixup_takes_any_activations_and_mixes_inputs_and_targets_alike(shape: tuple[int, ...]) -> None:
    inputs, _ = batch(*shape)
    flat = inputs.flatten(1)  # as targets too: whatever happens to one must happen to the other
    mixed, targets = mix_batch(inputs, flat, Recipe(mixup=0.5), 0, 1, 2)
    assert not torch.equal(mixed, inputs)
    torch.testing.assert_close(mixed.flatten(1), targets)


def test_cutmix_gives_targets_the_share_of_the_pixels() -> None:
    codes = torch.arange(6.0)[:, None, None, None].expand(6, 1, 20, 30)  # each image is its own number
    shares = []
    for step in range(20):
        mixed, targets = mix_batch(codes, torch.eye(6), Recipe(cutmix=1.0), 0, 0, step)
        found = torch.stack([(mixed == number).float().mean(dim=(1, 2, 3)) for number in range(6)], 1)
        torch.testing.assert_close(targets, found)
        shares.append(targets[0, 0].item())
    assert min(shares) < 0.5 < max(shares)


def test_shares_are_drawn_from_beta() -> None:
    ends = torch.tensor([[0.0], [1.0]])
    drawn = np.array([mix_batch(ends, ends, Recipe(mixup=0.3), 0, 0, step)[1][1, 0].item() for step in range(3000)])
    assert drawn.mean() == pytest.approx(0.5, abs=0.04)
    assert drawn.var() == pytest.approx(1 / (4 * (2 * 0.3 + 1)), rel=0.06)


def test_where_both_are_set_each_step_draws_one() -> None:
    inputs, targets = batch(4, 3, 16, 16)
    cut = 0
    for step in range(200):
        mixed, _ = mix_batch(inputs, targets, Recipe(mixup=1.0, cutmix=1.0), 0, 0, step)
        whole = (mixed == inputs) | (mixed == inputs.roll(1, 0))  # mixup changes nearly every value
        cut += bool(whole.all())
    assert 70 < cut < 130


@pytest.mark.parametrize("recipe", [Recipe(mixup=1.0), Recipe(cutmix=1.0), Recipe(mixup=1.0, cutmix=1.0)])
def test_a_draw_belongs_to_seed_epoch_and_step_and_leaves_torchs_generator_alone(recipe: Recipe) -> None:
    inputs, targets = batch(4, 3, 16, 16)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = mix_batch(inputs, targets, recipe, 3, 1, 2)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    torch.manual_seed(1)
    for one, other in zip(first, mix_batch(inputs, targets, recipe, 3, 1, 2), strict=True):
        assert torch.equal(one, other)
    for key in ((4, 1, 2), (3, 2, 2), (3, 1, 3)):
        assert not torch.equal(first[0], mix_batch(inputs, targets, recipe, *key)[0])


def test_nothing_is_mixed_unless_asked_for_and_inputs_stay_as_they_are() -> None:
    inputs, targets = batch(4, 3, 16, 16)
    kept = inputs.clone(), targets.clone()
    same = mix_batch(inputs, targets, Recipe(), 0, 0, 0)
    assert same[0] is inputs
    assert same[1] is targets
    mix_batch(inputs, targets, Recipe(mixup=1.0, cutmix=1.0), 0, 0, 0)
    assert torch.equal(inputs, kept[0])
    assert torch.equal(targets, kept[1])


@pytest.mark.parametrize("recipe", [Recipe(cutmix=1.0), Recipe(mixup=1.0, cutmix=1.0)])
def test_cutmix_of_tokens_is_refused_at_every_step(recipe: Recipe) -> None:
    for step in range(5):
        with pytest.raises(UsageError, match=r"'cutmix' needs images or maps .* Got \[4, 5, 6\]"):
            mix_batch(*batch(4, 5, 6), recipe, 0, 0, step)


def test_the_rectangle_has_its_area_and_stays_inside() -> None:
    areas = []
    for seed in range(300):
        left, top, right, bottom = draw_box(100, 60, 0.75, np.random.default_rng(seed))
        assert 0 <= left <= right <= 100
        assert 0 <= top <= bottom <= 60
        areas.append((right - left) * (bottom - top) / 6000)
    assert max(areas) == pytest.approx(0.25, abs=0.01)
    assert max(areas) <= 0.25
    assert np.mean(areas) == pytest.approx((0.5 * 7 / 8) ** 2, rel=0.05)  # a quarter of it is lost near each border
