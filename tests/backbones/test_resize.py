"""The resize is torch's, value for value, whatever is resized to whatever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from numpy.typing import NDArray
from torch.nn import functional

from graft.backbones import preprocess
from graft.backbones.preprocess import Interpolation, Preprocess, resize_image

LENGTHS = some.one_of(some.integers(1, 12), some.integers(1, 300), some.sampled_from([512, 683, 1100]))
SIDES = some.one_of(some.integers(1, 12), some.integers(1, 300))
INTERPOLATIONS = some.sampled_from(["bicubic", "bilinear"])


def noise(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Black and white for an even seed, which makes the largest sums, else any value."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return values if seed % 2 else (values > 127).astype(np.uint8) * 255


def torchs(image: NDArray[np.uint8], size: tuple[int, int], interpolation: str) -> NDArray[np.uint8]:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    return functional.interpolate(pixels, size=size, mode=interpolation, antialias=True)[0].numpy()


@settings(max_examples=150, deadline=None)
@given(LENGTHS, LENGTHS, SIDES, SIDES, INTERPOLATIONS, some.integers(0, 99), some.data())
def test_any_part_of_any_resize_is_torchs(
    height: int, width: int, high: int, wide: int, interpolation: Interpolation, seed: int, draw: some.DataObject
) -> None:
    top, left = draw.draw(some.integers(0, high - 1)), draw.draw(some.integers(0, wide - 1))
    bottom, right = draw.draw(some.integers(top + 1, high)), draw.draw(some.integers(left + 1, wide))
    image = noise(height, width, seed)
    got = resize_image(image, (high, wide), (top, bottom), (left, right), interpolation)
    np.testing.assert_array_equal(got, torchs(image, (high, wide), interpolation)[:, top:bottom, left:right])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 4000), (4000, 1), (3, 2), (2, 3), (40, 4000), (1500, 2250), (683, 512), (4, 4)]
)
def test_panoramas_and_huge_images_are_torchs(shape: tuple[int, int], interpolation: Interpolation) -> None:
    image = noise(*shape, seed=2)
    whole = (0, 32), (0, 48)
    np.testing.assert_array_equal(
        resize_image(image, (32, 48), *whole, interpolation), torchs(image, (32, 48), interpolation)
    )


@settings(max_examples=60, deadline=None)
@given(
    some.integers(1, 200),
    some.integers(1, 200),
    some.sampled_from(["center", "squash"]),
    INTERPOLATIONS,
    some.integers(32, 40),
)
def test_both_crops_are_parts_of_torchs_resize(
    height: int, width: int, crop: str, interpolation: Interpolation, resize: int
) -> None:
    ours = Preprocess(size=32, resize=resize, crop=crop, interpolation=interpolation)  # pyright: ignore[reportArgumentType]
    short = min(height, width)
    kept = [min(side, 4 * short) for side in (height, width)]
    image = noise(height, width, 1)
    strip = image[(height - kept[0]) // 2 :][: kept[0], (width - kept[1]) // 2 :][:, : kept[1]]
    size = (resize, resize) if crop == "squash" else (resize * kept[0] // short, resize * kept[1] // short)
    top, left = (round((side - 32) / 2) for side in size)
    want = torchs(strip, size, interpolation)[:, top : top + 32, left : left + 32]
    np.testing.assert_array_equal(ours.prepare(image), want)


def test_sums_that_float32_does_not_hold_are_worked_out_in_float64() -> None:
    kinds = {scale: preprocess._plan_pass(64 * scale, 64, 0, 64, "bicubic").dtype for scale in (1, 2, 3, 16, 40)}
    assert kinds == {1: np.float32, 2: np.float32, 3: np.float32, 16: np.float64, 40: np.float64}


def test_no_product_is_so_large_that_openblas_would_share_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are resized in as many threads as there are cores, and OpenBLAS's own would only get in their way."""
    sizes: list[int] = []
    product = np.matmul

    def noted(left: NDArray[np.float32], right: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        sizes.append(left.shape[-2] * left.shape[-1] * right.shape[-1])
        product(left, right, out=out)

    monkeypatch.setattr(preprocess.np, "matmul", noted)
    for shape in [(512, 683), (3000, 200), (90, 4000)]:
        resize_image(noise(*shape, seed=1), (256, 300), (16, 240), (0, 300), "bicubic")
    assert 0 < max(sizes) <= preprocess.SINGLE_THREAD_OPS


def test_an_image_that_cannot_be_written_to_and_one_read_backwards_are_taken() -> None:
    image = noise(30, 40, 1)
    image.setflags(write=False)
    whole = (0, 20), (0, 20)
    np.testing.assert_array_equal(resize_image(image, (20, 20), *whole, "bicubic"), torchs(image, (20, 20), "bicubic"))
    turned = image[::-1, :, ::-1]
    np.testing.assert_array_equal(
        resize_image(turned, (20, 20), *whole, "bicubic"), torchs(np.ascontiguousarray(turned), (20, 20), "bicubic")
    )
