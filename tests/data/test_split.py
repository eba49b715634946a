"""Who is trained on and who is judged by: groups stay whole, shares are kept, and names and order do not matter."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from graft.data.dataset import TEST, TRAIN
from graft.data.split import assign_folds, leave_one_group_out, split_by_content, split_stratified


@dataclass(frozen=True)
class Table:
    labels: NDArray[np.integer]
    groups: NDArray[np.int64]
    digests: NDArray[np.uint8]

    def __getitem__(self, rows: Any) -> Table:
        return Table(self.labels[rows], self.groups[rows], self.digests[rows])

    @property
    def columns(self) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.uint8]]:
        return self.labels, self.groups, self.digests


def table(labels: list[int], groups: list[int]) -> Table:
    names = [hashlib.blake2b(b"%d" % row, digest_size=16).digest() for row in range(len(labels))]
    digests = np.frombuffer(b"".join(names), np.uint8).reshape(-1, 16)
    return Table(np.array(labels), np.array(groups), digests)


@st.composite
def tables(draw: st.DrawFn, torn: bool = True) -> Table:
    """Up to 40 images of up to 4 classes in groups; where not torn, each group is of one class."""
    size = draw(st.integers(1, 40))
    column = st.lists(st.integers(0, 3), min_size=size, max_size=size)
    labels, groups = draw(column), draw(st.lists(st.integers(0, size), min_size=size, max_size=size))
    return table(labels, groups if torn else [group * 4 + label for group, label in zip(groups, labels, strict=True)])


def whole(parts: NDArray[np.int8], groups: NDArray[np.int64]) -> bool:
    """Whether each group is in one part."""
    return all(len(set(parts[groups == group])) == 1 for group in set(groups))


def wanted(size: int, share: float) -> int:
    """How many images of a class of this size are to be TEST."""
    return min(max(round(size * share), int(size > 1)), size - 1)


SEEDS, SHARES = st.integers(0, 2**64 - 1), st.floats(0, 1)
SINGLES = table([row % 3 for row in range(60)], list(range(60)))


@pytest.mark.slow
@settings(deadline=None)
@given(data=tables(), share=SHARES, seed=SEEDS)
def test_each_image_is_in_one_part_and_each_group_is_whole(data: Table, share: float, seed: int) -> None:
    part = split_stratified(*data.columns, share, seed)
    assert part.shape == data.labels.shape
    assert set(part) <= {TRAIN, TEST}
    assert whole(part, data.groups)
    for label in set(data.labels):
        tested = int((part[data.labels == label] == TEST).sum())
        assert tested <= wanted(int((data.labels == label).sum()), share)


@settings(deadline=None)
@given(data=tables(torn=False), share=SHARES, seed=SEEDS)
def test_a_class_has_its_share_up_to_the_smallest_group_that_was_left(data: Table, share: float, seed: int) -> None:
    part = split_stratified(*data.columns, share, seed)
    for label in set(data.labels):
        own = data.labels == label
        left = np.unique(data.groups[own & (part == TRAIN)], return_counts=True)[1]
        missing = wanted(int(own.sum()), share) - int((part[own] == TEST).sum())
        assert 0 <= missing < left.min()


@pytest.mark.parametrize(("share", "tested"), [(0.0, 1), (0.2, 4), (0.5, 10), (1.0, 19)])
def test_single_images_are_shared_exactly(share: float, tested: int) -> None:
    part = split_stratified(*SINGLES.columns, share, 0)
    assert [int((part[SINGLES.labels == label] == TEST).sum()) for label in range(3)] == [tested] * 3


@pytest.mark.fault(21)
def test_a_class_of_one_image_or_one_group_stays_in_training() -> None:
    data = table([0, 1, 1, 1, 2, 2], [0, 1, 1, 1, 2, 3])
    part = split_stratified(*data.columns, 0.5, 0)
    assert part[:4].tolist() == [TRAIN] * 4
    assert sorted(part[4:]) == [TRAIN, TEST]


def test_a_class_without_images_takes_nothing_from_the_others() -> None:
    data = table([0, 0, 2, 2], [0, 1, 2, 3])
    part = split_stratified(*data.columns, 0.5, 0)
    assert [sorted(part[:2]), sorted(part[2:])] == [[TRAIN, TEST]] * 2


def test_another_seed_is_another_split() -> None:
    parts = {split_stratified(*SINGLES.columns, 0.3, seed).tobytes() for seed in range(8)}
    assert len(parts) == 8
    assert len({assign_folds(*SINGLES.columns, 5, seed).tobytes() for seed in range(8)}) == 8


def test_every_image_is_tested_under_some_seed() -> None:
    tested = [split_stratified(*SINGLES.columns, 0.3, seed) == TEST for seed in range(100)]
    np.testing.assert_allclose(np.mean(tested, axis=0), 0.3, atol=0.2)  # four standard deviations


@pytest.mark.slow
@settings(deadline=None)
@given(data=tables(), share=SHARES, seed=SEEDS, dice=st.randoms(use_true_random=False))
def test_order_and_names_of_groups_do_not_matter(data: Table, share: float, seed: int, dice: Any) -> None:
    order, names = (
        np.array(dice.sample(range(len(data.labels)), len(data.labels))),
        np.array(dice.sample(range(99), 99)),
    )
    other = Table(data.labels, names[data.groups], data.digests)[order]
    np.testing.assert_array_equal(
        split_stratified(*other.columns, share, seed), split_stratified(*data.columns, share, seed)[order]
    )
    np.testing.assert_array_equal(assign_folds(*other.columns, 3, seed), assign_folds(*data.columns, 3, seed)[order])


def test_a_new_image_moves_few_others() -> None:
    """A place follows from the content: what was there before is split nearly as before."""
    before, after = (split_stratified(*SINGLES[:rows].columns, 0.3, 0) for rows in (57, 60))
    assert (before != after[:57]).sum() <= 6


# --- a test part that lasts -------------------------------------------------------------------------------------------


@given(later=st.integers(301, 900), seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_an_image_stays_where_it_is_whatever_is_added(later: int, seed: int) -> None:
    many = table([row % 3 for row in range(later)], list(range(later)))
    before, after = split_by_content(*many[:300].columns, 0.2, seed), split_by_content(*many.columns, 0.2, seed)
    np.testing.assert_array_equal(after[:300], before)
    assert 0.1 < (after == TEST).mean() < 0.3


@settings(deadline=None)
@given(data=tables(), share=SHARES, seed=SEEDS, dice=st.randoms(use_true_random=False))
def test_a_lasting_split_keeps_groups_whole_and_half_of_a_class(
    data: Table, share: float, seed: int, dice: Any
) -> None:
    part = split_by_content(*data.columns, share, seed)
    assert whole(part, data.groups)
    for label in set(data.labels.tolist()):
        own = data.labels == label
        assert 2 * (part[own] == TEST).sum() <= own.sum()
    order = np.array(dice.sample(range(len(part)), len(part)))
    np.testing.assert_array_equal(split_by_content(*data[order].columns, share, seed), part[order])


@pytest.mark.fault(21)
@pytest.mark.parametrize("seed", range(20))
def test_no_class_of_two_or_more_goes_untested(seed: int) -> None:
    few = table([0, 0, 1, 1, 1, 2], list(range(6)))
    part = split_by_content(*few.columns, 0.01, seed)
    assert [int((part[few.labels == label] == TEST).sum()) for label in range(3)] == [1, 1, 0]


def test_big_groups_are_tested_as_often_as_single_images() -> None:
    bursts = table([0] * 4000, [row // 40 for row in range(4000)])
    tested = [float((split_by_content(*bursts.columns, 0.2, seed) == TEST).mean()) for seed in range(8)]
    assert 0.15 < np.mean(tested) < 0.25


def test_leaving_one_group_out() -> None:
    assert leave_one_group_out(np.array([7, 3, 7, 9])).tolist() == [1, 0, 1, 2]


# --- folds ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(data=tables(), count=st.integers(2, 6), seed=SEEDS)
def test_each_image_is_in_one_fold_and_each_group_is_whole(data: Table, count: int, seed: int) -> None:
    fold = assign_folds(*data.columns, count, seed)
    assert fold.shape == data.labels.shape
    assert set(fold) <= set(range(count))
    assert whole(fold, data.groups)


@settings(deadline=None)
@given(data=tables(torn=False), count=st.integers(2, 6), seed=SEEDS)
def test_classes_are_spread_evenly_up_to_their_largest_group(data: Table, count: int, seed: int) -> None:
    fold = assign_folds(*data.columns, count, seed)
    for label in set(data.labels):
        own = data.labels == label
        filled = np.bincount(fold[own], minlength=count)
        assert np.ptp(filled) <= np.unique(data.groups[own], return_counts=True)[1].max()


def test_folds_of_single_images_are_equal() -> None:
    fold = assign_folds(*SINGLES.columns, 5, 0)
    counts = [np.bincount(fold[SINGLES.labels == label], minlength=5).tolist() for label in range(3)]
    assert counts == [[4] * 5] * 3


@pytest.mark.parametrize("seed", range(5))
def test_small_groups_fill_up_what_a_big_one_left_uneven(seed: int) -> None:
    data = table([0] * 8, [0, 0, 0, 0, 1, 2, 3, 4])
    assert np.bincount(assign_folds(*data.columns, 2, seed)).tolist() == [4, 4]


def test_the_remainders_of_classes_go_to_different_folds() -> None:
    data = table([0, 1, 2, 3], [0, 1, 2, 3])
    assert sorted(assign_folds(*data.columns, 4, 0)) == [0, 1, 2, 3]


# --- several labels ---------------------------------------------------------------------------------------------------


def tagged(size: int, shares: list[float], groups: list[int] | None = None) -> Table:
    """Images that have each label with a probability of its own."""
    labels = (np.random.default_rng(0).random((size, len(shares))) < shares).astype(np.uint8)
    single = table([0] * size, groups or list(range(size)))
    return Table(labels, single.groups, single.digests)


@st.composite
def tagged_tables(draw: st.DrawFn) -> Table:
    """Up to 30 images in groups, each with any of 4 labels."""
    size = draw(st.integers(1, 30))
    rows = st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=size, max_size=size)
    single = table([0] * size, draw(st.lists(st.integers(0, size), min_size=size, max_size=size)))
    return Table(np.array(draw(rows), np.uint8), single.groups, single.digests)


SHARED = [0.5, 0.3, 0.1, 0.04, 0.02]
MANY = tagged(400, SHARED)


@settings(deadline=None)
@given(data=tagged_tables(), share=SHARES, count=st.integers(2, 5), seed=SEEDS)
def test_with_several_labels_groups_are_whole_and_no_class_loses_its_last_image(
    data: Table, share: float, count: int, seed: int
) -> None:
    part, fold = split_stratified(*data.columns, share, seed), assign_folds(*data.columns, count, seed)
    assert part.shape == fold.shape == (len(data.labels),)
    assert set(part) <= {TRAIN, TEST}
    assert set(fold) <= set(range(count))
    assert whole(part, data.groups)
    assert whole(fold, data.groups)
    assert (data.labels[part == TRAIN].any(axis=0) == data.labels.any(axis=0)).all()


@pytest.mark.slow
@settings(deadline=None)
@given(data=tagged_tables(), seed=SEEDS, dice=st.randoms(use_true_random=False))
def test_with_several_labels_order_and_names_of_groups_do_not_matter(data: Table, seed: int, dice: Any) -> None:
    order = np.array(dice.sample(range(len(data.labels)), len(data.labels)))
    names = np.array(dice.sample(range(99), 99))
    other = Table(data.labels, names[data.groups], data.digests)[order]
    np.testing.assert_array_equal(
        split_stratified(*other.columns, 0.3, seed), split_stratified(*data.columns, 0.3, seed)[order]
    )
    np.testing.assert_array_equal(assign_folds(*other.columns, 3, seed), assign_folds(*data.columns, 3, seed)[order])


@pytest.mark.parametrize("seed", range(3))
def test_every_label_has_its_share_in_the_test_part_and_in_every_fold(seed: int) -> None:
    sizes = MANY.labels.sum(axis=0)
    tested = MANY.labels[split_stratified(*MANY.columns, 0.25, seed) == TEST].sum(axis=0)
    np.testing.assert_allclose(tested, sizes * 0.25, atol=2)
    fold = assign_folds(*MANY.columns, 4, seed)
    filled = np.stack([MANY.labels[fold == each].sum(axis=0) for each in range(4)])
    np.testing.assert_allclose(filled, np.tile(sizes / 4, (4, 1)), atol=2)
    assert np.ptp(np.bincount(fold)) <= 3


def test_rare_labels_are_dealt_better_than_by_chance() -> None:
    """Iterative stratification is worth its name where chance would leave a label out of a fold."""
    rare = MANY.labels[:, 4] > 0
    assert rare.sum() == 5
    for seed in range(5):
        assert np.ptp(np.bincount(assign_folds(*MANY.columns, 3, seed)[rare], minlength=3)) <= 1


def test_images_without_any_label_are_spread_too() -> None:
    data = tagged(40, [0.0, 0.2])
    assert np.bincount(assign_folds(*data.columns, 4, 0)).tolist() == [10] * 4
    assert (split_stratified(*data.columns, 0.25, 0) == TEST).sum() == 10


def test_with_several_labels_another_seed_is_another_split() -> None:
    assert len({split_stratified(*MANY.columns, 0.3, seed).tobytes() for seed in range(5)}) == 5
    assert len({assign_folds(*MANY.columns, 4, seed).tobytes() for seed in range(5)}) == 5
