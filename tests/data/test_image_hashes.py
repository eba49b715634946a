"""Perceptual hashes stay where a person sees the same, and move where not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from conftest import CLASSES, draw
from numpy.typing import NDArray
from PIL import Image

from graft.data.image_stats import BITS, SIDE, hamming_distances, mirror_hashes, perceptual_hashes


def images(count: int = 12) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [draw("disc", CLASSES["disc"], rng) for _ in range(count)]


def hashed(shown: list[Image.Image]) -> NDArray[np.uint64]:
    small = [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)) for image in shown]
    return perceptual_hashes(np.stack(list(small)))


def saved_again(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=50)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize("change", [saved_again, lambda image: image.resize((70, 50))], ids=["jpeg", "resized"])
def test_what_looks_the_same_differs_in_few_bits(change: object) -> None:
    assert callable(change)
    one, other = hashed(images()), hashed([change(image) for image in images()])
    assert hamming_distances(one, other).max() <= 8
    strangers = hamming_distances(one[:, None], one[None])[np.triu_indices(len(one), 1)]
    assert strangers.min() > 8


def test_the_mirror_image_has_the_hash_that_is_worked_out_for_it() -> None:
    turned = hashed([image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images()])
    assert np.bitwise_count(mirror_hashes(hashed(images())) ^ turned).max() <= 2  # rounding where a frequency is near 0
    assert hamming_distances(hashed(images()), turned).max() <= 2
    np.testing.assert_array_equal(mirror_hashes(mirror_hashes(turned)), turned)


def test_bits_are_counted() -> None:
    one, other = np.array([0, 0, 7], np.uint64), np.array([0, 1, 7 + 8 + 16], np.uint64)
    assert hamming_distances(one, other).tolist() == [0, 1, 2]
    assert (
        hamming_distances(one, one ^ np.uint64(2**BITS - 1)).max() <= BITS // 2
    )  # the nearer of image and mirror image
