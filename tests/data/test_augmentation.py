"""Seeded crops: inside the image, the same everywhere, and as varied as published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.augmentation import ASPECT, SCALE, CropBox, random_crop

SIDES, SEEDS, VIEWS = st.integers(1, 10_000), st.integers(0, 2**64 - 1), st.integers(2, 2**32 - 1)
MANY = [random_crop(0, b"a picture", view, 600, 600) for view in range(2, 1002)]


@settings(deadline=None)
@given(seed=SEEDS, name=st.binary(), view=VIEWS, width=SIDES, height=SIDES)
def test_a_crop_lies_inside_the_image(seed: int, name: bytes, view: int, width: int, height: int) -> None:
    box = random_crop(seed, name, view, width, height)
    assert 0 <= box.left < box.left + box.width <= width
    assert 0 <= box.top < box.top + box.height <= height


@settings(deadline=None)
@given(seed=SEEDS, name=st.binary(), view=VIEWS, side=st.integers(300, 5000))
def test_a_crop_of_a_square_keeps_the_area_and_the_aspect_it_may(seed: int, name: bytes, view: int, side: int) -> None:
    box = random_crop(seed, name, view, side, side)
    assert SCALE[0] - 0.01 <= box.width * box.height / side**2 <= SCALE[1]
    assert ASPECT[0] * 0.98 <= box.width / box.height <= ASPECT[1] * 1.02


def test_a_crop_never_changes_for_features_are_stored_under_its_number() -> None:
    stored = CropBox(left=60, top=6, width=332, height=411, flip=True)
    assert random_crop(0, b"a picture", 2, 640, 480) == random_crop(0, b"a picture", 2, 640, 480, epoch=0) == stored


@settings(deadline=None)
@given(seed=st.integers(0, 2**64 - 2), name=st.binary(), view=st.integers(2, 2**32 - 2))
def test_seed_image_number_and_epoch_each_change_the_crop(seed: int, name: bytes, view: int) -> None:
    side = 10_000  # two crops that agree by chance are one in 10**15
    crops = {
        random_crop(seed, name, view, side, side),
        random_crop(seed + 1, name, view, side, side),
        random_crop(seed, name + b"\0", view, side, side),
        random_crop(seed, name, view + 1, side, side),
    }
    crops |= {random_crop(seed, name, view, side, side, epoch=epoch) for epoch in (1, 2, 2**32)}
    assert len(crops) == 7
    assert random_crop(seed, name, view, side, side) in crops


def test_areas_and_aspects_fill_their_ranges() -> None:
    areas = np.array([box.width * box.height for box in MANY]) / 600**2
    small = np.mean(areas < 0.5)
    assert small == pytest.approx(0.15 / 0.65, abs=0.06)  # uniform: 4.5 standard deviations
    assert areas.min() < 0.36
    assert areas.max() > 0.97
    aspects = np.log([box.width / box.height for box in MANY])
    assert abs(aspects.mean()) < 0.03
    assert aspects.min() < np.log(0.77)
    assert aspects.max() > np.log(1.3)


def test_half_of_the_crops_are_mirrored() -> None:
    assert np.mean([box.flip for box in MANY]) == pytest.approx(0.5, abs=0.07)


def test_crops_reach_every_edge() -> None:
    assert min(box.left for box in MANY) == min(box.top for box in MANY) == 0
    assert max(box.left + box.width for box in MANY) == max(box.top + box.height for box in MANY) == 600
    free = [
        (box.left / (600 - box.width), box.top / (600 - box.height)) for box in MANY if max(box.width, box.height) < 600
    ]
    np.testing.assert_allclose(np.mean(free, axis=0), 0.5, atol=0.05)


def test_a_crop_may_lie_in_the_last_row_and_column() -> None:
    boxes = [random_crop(0, b"", view, 4, 4) for view in range(2, 302)]
    assert {box.left for box in boxes if box.width == 3} == {0, 1}
    assert {box.top for box in boxes if box.height == 3} == {0, 1}


@pytest.mark.fault(19)
def test_an_image_of_one_pixel_is_kept_whole() -> None:
    assert {random_crop(0, b"", view, 1, 1) for view in range(2, 40)} == {
        CropBox(0, 0, 1, 1, flip) for flip in (False, True)
    }
