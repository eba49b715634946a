"""The preprocessing that an exported file carries gives the very pixels that training saw."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from graft.backbones.preprocess import IMAGE, Preprocess, build_preprocess_graph

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
