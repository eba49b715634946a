"""What lies far from all that is known: scores by hand and by scikit-learn, and a threshold that keeps its word."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.neighbors import NearestNeighbors

from graft.backbones.graph import normalise_rows
from graft.metrics.unknown import (
    KnownImages,
    energy_scores,
    heldout_scores,
    max_stored_images,
    nearest_neighbours,
    select_rows,
)

RANDOM = np.random.default_rng(0)


def known(features: np.ndarray, found: np.ndarray) -> KnownImages:
    names = tuple(f"{at}.jpg" for at in range(len(features)))
    return KnownImages(normalise_rows(features).astype(np.float16), np.zeros(len(features), np.int32), names, found)


def test_the_score_is_one_less_the_mean_cosine_to_the_five_nearest() -> None:
    stored, asked = RANDOM.standard_normal((60, 16)), RANDOM.standard_normal((9, 16))
    near = nearest_neighbours(normalise_rows(stored).astype(np.float16), asked)
    distance, which = NearestNeighbors(n_neighbors=5, metric="cosine").fit(stored).kneighbors(asked)
    np.testing.assert_allclose(near.scores, distance.mean(axis=1), atol=2e-3)  # 16 bits
    np.testing.assert_array_equal(near.indices, which)
    np.testing.assert_allclose(near.cosines, 1 - distance, atol=2e-3)


def test_fewer_images_than_five_are_all_nearest() -> None:
    near = nearest_neighbours(normalise_rows(np.eye(3)).astype(np.float16), np.array([[2.0, 0, 0]]))
    assert near.indices[0, 0] == 0
    assert near.scores[0] == pytest.approx(1 - 1 / 3, abs=1e-3)


def test_a_left_out_image_is_judged_without_its_own_group() -> None:
    stored = RANDOM.standard_normal((40, 8))
    groups = np.arange(40) // 2  # twins
    found = heldout_scores(normalise_rows(stored).astype(np.float16), groups, stored, groups)
    by_hand = []
    for row in range(40):
        cosines = np.sort(normalise_rows(stored[groups != groups[row]]) @ normalise_rows(stored[row : row + 1])[0])[-5:]
        by_hand.append(1 - cosines.mean())
    np.testing.assert_allclose(found, np.sort(by_hand), atol=2e-3)
    alone = heldout_scores(normalise_rows(stored).astype(np.float16), np.zeros(40, int), stored, np.zeros(40, int))
    assert len(alone) == 0  # one group: nothing to be judged by


def test_at_most_the_stated_share_of_fresh_images_lies_beyond_the_limit() -> None:
    shares = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        held_out, fresh = np.sort(random.standard_normal(200)), random.standard_normal(2000)
        shares.append((fresh > known(np.eye(2), held_out.astype(np.float32)).unknown_threshold(0.05)).mean())
    assert np.mean(shares) == pytest.approx(0.05, abs=0.005)
    assert np.mean(shares) <= 0.05 + 2 * np.std(shares) / math.sqrt(200)


@pytest.mark.parametrize(("count", "rate", "at"), [(19, 0.05, 18), (18, 0.05, None), (100, 0.0, None), (99, 0.5, 49)])
def test_the_limit_is_an_order_statistic_or_there_is_none(count: int, rate: float, at: int | None) -> None:
    found = np.arange(count, dtype=np.float32)
    assert known(np.eye(2), found).unknown_threshold(rate) == (math.inf if at is None else found[at])


def test_the_energy_is_that_of_the_logits_and_of_several_labels_the_sum() -> None:
    logits = RANDOM.standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_allclose(energy_scores(logits, False), -logsumexp(logits, axis=1), rtol=1e-6)
    np.testing.assert_allclose(energy_scores(logits, True), -np.log1p(np.exp(logits)).sum(axis=1), rtol=1e-5)
    without = KnownImages(np.empty((0, 3), np.float16), np.empty(0, np.int32), (), np.empty(0, np.float32))
    near = without.find_neighbours(np.zeros((5, 3)), logits, False)
    np.testing.assert_array_equal(near.scores, energy_scores(logits, False))
    assert near.indices.shape == (5, 0)


def test_large_classes_are_cut_to_one_size_and_small_ones_kept() -> None:
    labels = np.repeat([0, 1, 2], [1000, 50, 3])
    kept = select_rows(labels, 120)
    assert np.bincount(labels[kept]).tolist() == [67, 50, 3]
    assert len(select_rows(labels, 5000)) == 1053
    assert len(select_rows(np.ones((300, 2), np.uint8), 100)) == 100
    assert max_stored_images(1280) * 1280 * 2 <= 32 << 20
