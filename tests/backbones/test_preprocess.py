"""Preprocess: what timm's own evaluation transform makes of an image, and an exported file's, pixel by pixel."""

from __future__ import annotations

import tracemalloc
from typing import Literal

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms_factory import create_transform

from graft.backbones.preprocess import IMAGE, Preprocess, build_preprocess_graph
from graft.torch.network import normalise

MEMORY = 2_000_000  # bytes; a row resized as a whole takes ten times that
SHAPES = [(300, 400), (400, 300), (97, 61), (64, 64), (20, 33), (240, 61)]


def draw_image(height: int, width: int) -> NDArray[np.uint8]:
    """Soft blobs with fine noise: both the resize and its rounding show."""
    rng = np.random.default_rng(height * width)
    blobs = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(blobs) + rng.normal(0, 9, (height, width, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_an_image_is_prepared_as_timm_does(
    shape: tuple[int, int], crop: Literal["center", "squash"], interpolation: Literal["bicubic", "bilinear"]
) -> None:
    ours = Preprocess(size=56, resize=64, interpolation=interpolation, crop=crop)
    timms = create_transform(
        (3, 56, 56), interpolation=interpolation, crop_mode=crop, crop_pct=56 / 64, mean=ours.mean, std=ours.std
    )
    image = draw_image(*shape)
    want = timms(Image.fromarray(image))  # type: ignore[operator]
    got = normalise(ours, torch.from_numpy(ours.prepare(image)[None]))[0]
    levels = (got - want).abs() * torch.tensor(ours.std).view(3, 1, 1) * 255
    assert levels.max() <= 2.01
    assert levels.mean() < 0.25


def test_squash_shows_the_ends_that_the_centre_crop_cuts_off() -> None:
    image = np.zeros((50, 150, 3), np.uint8)
    image[:, :50], image[:, 100:] = 250, 250
    assert Preprocess(size=30, resize=30).prepare(image)[:, :, 2:-2].max() == 0
    squashed = Preprocess(size=30, resize=30, crop="squash").prepare(image)
    assert (squashed[:, :, :8] == 250).all()
    assert (squashed[:, :, -8:] == 250).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3000, 2), (2, 3000)])
def test_extreme_shapes_give_their_centre_in_little_memory(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    height, width = shape
    image[height // 3 : height - height // 3, width // 3 : width - width // 3] = (10, 20, 30)
    tracemalloc.start()
    got = Preprocess(size=64, resize=72).prepare(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.broadcast_to(np.array([10, 20, 30]).reshape(3, 1, 1), (3, 64, 64)))
    assert peak <= MEMORY


def test_a_resize_smaller_than_the_image_never_falls_short_of_the_crop() -> None:
    for shape in [(65, 64), (64, 65), (999, 1000), (3, 2)]:
        assert Preprocess(size=64, resize=64).prepare(draw_image(*shape)).shape == (3, 64, 64)


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    preprocess = Preprocess(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 0.1))
    batch = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    want = torch.tensor([[-1.0, -1.0, 0.0], [1.0, 3.0, 10.0]])
    assert torch.allclose(normalise(preprocess, batch).view(2, 3), want, atol=1e-6)


def test_a_crop_shows_its_box_and_a_flip_mirrors_it() -> None:
    preprocess = Preprocess(size=32, resize=40)
    image = draw_image(80, 90)
    left, top, width, height = box = (11, 7, 60, 33)
    cut = Image.fromarray(image[top : top + height, left : left + width])
    want = np.asarray(cut.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    plain, mirrored = (preprocess.prepare_crop(image, box, flip) for flip in (False, True))
    assert np.abs(plain.astype(int) - want).max() <= 1
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])
    assert not np.array_equal(mirrored, plain)


def test_enough_pixels_give_nearly_the_same_as_all_of_them() -> None:
    preprocess = Preprocess(size=28, resize=32)
    image = np.asarray(Image.fromarray(draw_image(8, 8)).resize((512, 512), Image.Resampling.BICUBIC))
    short = preprocess.decode_size
    smaller = np.asarray(Image.fromarray(image).resize((short, short), Image.Resampling.BOX))
    gap = np.abs(preprocess.prepare(image).astype(int) - preprocess.prepare(smaller))
    assert short == 64
    assert gap.max() <= 6
    assert gap.mean() <= 1


WAYS = [
    Preprocess(),
    Preprocess(size=224, resize=235, interpolation="bilinear"),
    Preprocess(size=96, resize=96, crop="squash"),
    Preprocess(size=225, resize=256, interpolation="bilinear"),  # margins that end in a half
    Preprocess(size=32, resize=32, interpolation="bilinear", crop="squash"),
]
SIZES = [(1, 1), (1, 50), (700, 1), (3, 2), (64, 512), (224, 224), (257, 256), (301, 512), (683, 512), (400, 1600)]


def ran(preprocess: Preprocess, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    session = onnxruntime.InferenceSession(build_preprocess_graph(preprocess).SerializeToString())
    return np.asarray(session.run(None, {IMAGE: images})[0])


@pytest.mark.parametrize("preprocess", WAYS, ids=str)
def test_the_graph_gives_the_pixels_of_prepare(preprocess: Preprocess) -> None:
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(build_preprocess_graph(preprocess).SerializeToString())
    for height, width in SIZES:
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        got = np.asarray(session.run(None, {IMAGE: image[None]})[0])[0]
        np.testing.assert_array_equal(got, preprocess.prepare(image), err_msg=f"{height} x {width}")


def test_where_sums_pass_what_float32_holds_a_value_in_ten_thousand_is_off_by_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1500, 2250, 3), dtype=np.uint8)
    want = WAYS[0].prepare(image).astype(int)
    apart = np.abs(ran(WAYS[0], image[None])[0] - want)
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-4


def test_a_batch_is_its_images_one_by_one() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    together = ran(WAYS[0], images)
    for image, one in zip(images, together, strict=True):
        np.testing.assert_array_equal(ran(WAYS[0], image[None])[0], one)
