"""Twins are found, strangers stay apart, and the fast search finds what a comparison of all pairs finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from graft.data import duplicates
from graft.data.duplicates import (
    DUPLICATE_COSINE,
    group_near_duplicates,
    iterate_blocks,
    join_user_groups,
    mean_and_std,
)


def random_features(rows: int, width: int = 64, seed: int = 0) -> NDArray[np.float32]:
    """Features as networks give them: each with a mean and a spread of its own."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, width)) * rng.uniform(0.1, 9, width) + rng.normal(0, 5, width)).astype(np.float32)


def different(rows: int) -> NDArray[np.uint8]:
    """Digests of images that have nothing in common."""
    return np.random.default_rng(1).integers(0, 256, (rows, 16), np.uint8)


def planted(rows: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Random features with exact copies, near copies of every nearness, and chains of them."""
    rng, features, digests = np.random.default_rng(seed), random_features(rows, seed=seed), different(rows)
    spread = features.std(axis=0)
    for row in range(rows // 2):
        noise = rng.choice([0.02, 0.1, 0.3, 0.5, 0.6])  # cosines of 1.0 down to 0.85
        features[rng.integers(rows)] = features[row] + rng.normal(0, noise, features.shape[1]) * spread
    digests[rng.integers(rows, size=5)] = digests[rng.integers(rows, size=5)]
    order = rng.permutation(rows)
    return features[order], digests[order]


def brute_force(features: NDArray[np.float32], digests: NDArray[np.uint8]) -> NDArray[Any]:
    """Groups from a comparison of all pairs."""
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    unit = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    same = (digests[:, None] == digests[None]).all(axis=2)
    return connected_components((unit @ unit.T > DUPLICATE_COSINE) | same, directed=False)[1]


def together(groups: NDArray[Any]) -> NDArray[np.bool_]:
    """Which pairs share a group, whatever the groups are called."""
    return groups[:, None] == groups[None]


def test_strangers_stay_apart() -> None:
    assert len(set(group_near_duplicates(random_features(200), different(200)))) == 200


def test_copies_share_a_group_whatever_their_features() -> None:
    digests = different(50)
    digests[[7, 30]] = digests[3]
    groups = group_near_duplicates(random_features(50), digests)
    assert groups[3] == groups[7] == groups[30]
    assert len(set(groups)) == 48


@pytest.mark.fault(28)
def test_images_saved_again_share_a_group() -> None:
    """Noise of a tenth of the spread is what JPEG at quality 75 does to features."""
    features = random_features(50)
    again = features + np.random.default_rng(2).normal(0, 0.1, features.shape) * features.std(axis=0)
    groups = group_near_duplicates(np.concatenate([features, again.astype(np.float32)]), different(100))
    np.testing.assert_array_equal(groups[:50], groups[50:])
    assert len(set(groups)) == 50


def test_groups_are_joined_through_a_common_member() -> None:
    features, digests = random_features(40), different(40)
    features[1] = features[0]  # alike in features
    digests[2] = digests[1]  # alike in content
    groups = group_near_duplicates(features, digests)
    assert groups[0] == groups[1] == groups[2]
    assert len(set(groups)) == 38


def test_one_large_feature_does_not_make_all_alike() -> None:
    features = random_features(60)
    features[:, 0] += 1e4
    assert len(set(group_near_duplicates(features, different(60)))) == 60


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [37, 2048])
def test_groups_are_those_of_a_comparison_of_all_pairs(monkeypatch: pytest.MonkeyPatch, seed: int, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    features, digests = planted(200, seed)
    groups, truth = group_near_duplicates(features, digests), brute_force(features, digests)
    assert 100 < len(set(truth)) < 180
    np.testing.assert_array_equal(together(groups), together(truth))


def test_look_alikes_of_several_blocks_become_one_group_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 8)
    random = np.random.default_rng(0)
    kinds = random.permutation(np.repeat(np.arange(3), 20))
    features = np.float32(random.standard_normal((3, 30))[kinds] + 0.01 * random.standard_normal((60, 30)))
    groups = group_near_duplicates(features, different(60))
    assert [len(set(kinds[groups == group])) for group in range(groups.max() + 1)] == [1, 1, 1]


def test_order_changes_nothing() -> None:
    features, digests = planted(150, 5)
    order = np.random.default_rng(0).permutation(150)
    one, other = group_near_duplicates(features, digests)[order], group_near_duplicates(features[order], digests[order])
    np.testing.assert_array_equal(together(one), together(other))


@pytest.mark.parametrize("rows", [1, 2])
def test_the_smallest_sets_have_no_duplicates(rows: int) -> None:
    assert group_near_duplicates(random_features(rows), different(rows)).tolist() == list(range(rows))


# --- a table larger than memory ---------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rows=st.integers(0, 50), size=st.integers(1, 60))
def test_blocks_walk_every_row_once(rows: int, size: int) -> None:
    features = random_features(rows, 3)
    walked = list(iterate_blocks(features, size))
    assert [int(row) for some, _ in walked for row in some] == list(range(rows))
    assert all(len(some) == len(block) <= size for some, block in walked)
    for some, block in walked:
        np.testing.assert_array_equal(block, features[some])


def test_moments_are_those_of_numpy() -> None:
    features = random_features(5000, 8) + np.float32(100)
    mean, spread = mean_and_std(features)
    np.testing.assert_allclose(mean, features.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(spread, features.std(axis=0, dtype=np.float64), rtol=1e-4)
    assert (mean.dtype, spread.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.3, 1e6, 1e-6])
def test_a_feature_that_never_changes_has_spread_one(value: float) -> None:
    mean, spread = mean_and_std(np.full((3000, 2), value, np.float32))
    assert spread.tolist() == [1, 1]
    np.testing.assert_allclose(mean, value, rtol=1e-6)


def test_groups_of_the_owner_are_joined_with_what_was_found() -> None:
    found, own = np.array([0, 0, 1, 2, 3]), np.array([5, -1, -1, 5, -1])
    assert join_user_groups(found, own).tolist() == [0, 0, 1, 0, 2]
    assert join_user_groups(found, None) is found
    assert join_user_groups(np.arange(3), np.full(3, -1)).tolist() == [0, 1, 2]


# --- how alike the images of a set are by nature ----------------------------------------------------------------------


def hashed(rows: int, seed: int = 0) -> NDArray[np.uint64]:
    """Hashes that have nothing in common."""
    return np.random.default_rng(seed).integers(0, 2**63, rows, np.uint64) * np.uint64(2)


def uniform(rows: int) -> NDArray[np.float32]:
    """Features of images alike by nature: a few directions hold nearly all of the difference between any two."""
    rng = np.random.default_rng(2)
    return (rng.normal(size=(rows, 4)) @ rng.normal(size=(4, 256)) + 0.65 * rng.normal(size=(rows, 256))).astype(
        np.float32
    )


def test_images_alike_by_nature_are_no_near_duplicates() -> None:
    features, hashes = uniform(400), hashed(400)
    cosines = brute_force(features, different(400))
    assert len(set(cosines.tolist())) < 300  # above ALIKE all the same
    assert len(set(group_near_duplicates(features, different(400), hashes))) > 380


def test_their_copies_are_found_by_their_hashes_and_by_a_nearness_beyond_nature() -> None:
    features, hashes = uniform(400), hashed(400)
    spread = features.std(axis=0)
    noise = np.random.default_rng(3).normal(0, 0.1, features[:20].shape) * spread
    features, hashes = np.concatenate([features, features[:20] + noise]).astype(np.float32), np.r_[hashes, hashes[:20]]
    groups = group_near_duplicates(features, different(420), hashes)
    assert (groups[400:] == groups[:20]).all()
    hashes[400:] = hashed(20, seed=9)  # cropped, so that the hash is another
    groups = group_near_duplicates(features, different(420), hashes)
    assert (groups[400:] == groups[:20]).all()


def test_hashes_that_agree_by_nature_are_no_evidence() -> None:
    features = random_features(300, width=12)  # cosines of 0.5 by chance
    layout = np.full(300, 0xF0F0F0F0F0F0F0F0, np.uint64)
    flips = np.random.default_rng(4).integers(0, 64, (300, 5)).astype(np.uint64)
    for column in flips.T:
        layout ^= np.uint64(1) << column
    nature = duplicates.measure_base_similarity(
        duplicates._normalise_rows(duplicates.project_features(features)), layout
    )
    assert nature.bits < 10
    assert (
        duplicates.BaseSimilarity(3.0, 0.0, has_lookalikes=True).cosine_thresholds(np.array([0, 40])).tolist()
        == [duplicates.STRICT_COSINE] * 2
    )
    assert (
        duplicates.BaseSimilarity(3.0, 0.0, has_lookalikes=False).cosine_thresholds(np.array([0, 40])).tolist()
        == [DUPLICATE_COSINE] * 2
    )
    photos = duplicates.BaseSimilarity(duplicates.TYPICAL_BITS, nature.cosine, nature.has_lookalikes)
    assert (nature.cosine_thresholds(np.array([3, 8])) > photos.cosine_thresholds(np.array([3, 8]))).all()


def test_photos_keep_the_rule_for_photos() -> None:
    nature = duplicates.measure_base_similarity(
        duplicates._normalise_rows(duplicates.project_features(random_features(300, 512))), hashed(300)
    )
    assert (nature.has_lookalikes, nature.bits >= 20, nature.cosine < 0.3) == (False, True, True)
    assert nature.cosine_thresholds(np.array([0, 6, 20, 40])).tolist() == pytest.approx(
        [0.1, 0.68, 0.85, 0.85], abs=0.02
    )


def test_where_hashes_all_but_agree_features_of_a_little_in_common_do() -> None:
    features, hashes = random_features(300, 512), hashed(300)
    features[299] = 0.3 * features[0] + 0.7 * features[299]  # half the size, of a small image
    hashes[299] = hashes[0] ^ np.uint64(0b1011)
    assert (
        group_near_duplicates(features, different(300), hashes)[299]
        == group_near_duplicates(features, different(300), hashes)[0]
    )
    hashes[299] = hashes[0] ^ np.uint64(0b1111111111)
    assert len(set(group_near_duplicates(features, different(300), hashes).tolist())) == 300


def test_of_a_few_images_nature_cannot_be_told() -> None:
    few = duplicates.measure_base_similarity(duplicates._normalise_rows(random_features(3)), np.zeros(3, np.uint64))
    assert few == duplicates.BaseSimilarity(duplicates.TYPICAL_BITS, 0.0, has_lookalikes=False)
