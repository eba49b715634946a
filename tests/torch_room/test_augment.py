"""Augmentation: drawn from (seed, epoch, image, view) alone, and each change does what its name says."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from graft.data import augmentation
from graft.data.augmentation import CropBox
from graft.errors import UsageError
from graft.torch.augment import FILL, OPERATIONS, Augment, distort

NAME = b"sixteen bytes..."
PIXELS = [name for name, operation in OPERATIONS.items() if operation.make]
LONG = "vflip+rotate+perspective=0.2+distort+blur+colour+grey=0.5+erase=0.5+trivial+rand=5"


@pytest.fixture(scope="module")
def image() -> Tensor:
    """Soft blobs of colour: nothing in it is symmetric."""
    blobs = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
    return functional.interpolate(blobs, (64, 64), mode="bicubic")[0].clamp(0, 255).to(torch.uint8)


def many(text: str, image: Tensor, count: int = 20) -> list[Tensor]:
    parsed = Augment.parse(text)
    return [parsed.change_pixels(image, 0, epoch, NAME, 0) for epoch in range(count)]


def boxes(text: str, count: int = 1000) -> list[CropBox]:
    drawn = [Augment.parse(text).draw_box(0, epoch, NAME, 0, 600, 600) for epoch in range(count)]
    return [box for box in drawn if box]


# --- the text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["none", "light", "strong", "crop+flip+rotate=10+colour=0.2", "light+blur", "rand=9"])
def test_the_text_comes_back(text: str) -> None:
    parsed = Augment.parse(text)
    assert str(parsed) == text
    assert Augment.parse(str(parsed)) == parsed
    assert pickle.loads(pickle.dumps(parsed)) == parsed


def test_presets_are_lists() -> None:
    assert Augment.parse("none").steps == ()
    assert Augment.parse("light") == Augment.parse("crop=0.35+flip")
    assert Augment.parse("strong") == Augment.parse("crop+flip+trivial+erase=0.25")
    assert Augment.parse("strong") != Augment.parse("light")
    assert Augment.parse("light+rotate=10").steps == (("crop", 0.35), ("flip", None), ("rotate", 10.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "blurr",
            r"no augmentation 'blurr'\. Did you mean 'blur'\? Choose none, light, strong, or a list of crop, .*, rand",
        ),
        ("", "no augmentation ''"),
        ("crop+", "no augmentation ''"),
        ("Light", "no augmentation 'Light'"),
        ("rotate=200", r"strength of augmentation 'rotate' must be a number from 0 to 180\. Got '200'"),
        ("crop=0", r"'crop' must be a number from 0\.05 to 1\. Got '0'"),
        ("erase=1.1", "'erase' must be a number from 0 to 1"),
        ("distort=-0.1", r"from 0 to 0\.3\. Got '-0\.1'"),
        ("blur=nan", r"from 0\.1 to 5\. Got 'nan'"),
        ("grey=", "Got ''"),
        ("rotate=ten", "Got 'ten'"),
        ("rand=9.5", r"'rand' must be a whole number from 0 to 30\. Got '9\.5'"),
        ("flip=0.5", r"'flip' has no strength\. Got 'flip=0\.5'"),
        ("light=2", "'light' has no strength"),
        ("blur+flip+blur=2", r"Augmentation 'blur\+flip\+blur=2' has 'blur' twice"),
        ("light+flip", "has 'flip' twice"),
    ],
)
def test_a_text_that_cannot_be_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Augment.parse(text)


# --- draws ------------------------------------------------------------------------------------------------------------


def drawn(text: str, image: Tensor) -> str:
    """One hash for boxes and pixels of a few views and epochs."""
    parsed, whole = Augment.parse(text), hashlib.sha256()
    for epoch, view in [(0, 0), (0, 1), (3, 0), (2, 5)]:
        whole.update(repr(parsed.draw_box(7, epoch, NAME, view, 300, 200)).encode())
        whole.update(parsed.change_pixels(image, 7, epoch, NAME, view).numpy().tobytes())
    return whole.hexdigest()


@pytest.mark.slow
def test_another_process_draws_the_same(image: Tensor) -> None:
    code = f"""
import torch, hashlib
from torch.nn import functional
from graft.torch.augment import Augment
blobs = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 255
image = functional.interpolate(blobs, (64, 64), mode="bicubic")[0].clamp(0, 255).to(torch.uint8)
parsed, whole = Augment.parse("light+{LONG}"), hashlib.sha256()
for epoch, view in [(0, 0), (0, 1), (3, 0), (2, 5)]:
    whole.update(repr(parsed.draw_box(7, epoch, {NAME!r}, view, 300, 200)).encode())
    whole.update(parsed.change_pixels(image, 7, epoch, {NAME!r}, view).numpy().tobytes())
print(whole.hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == drawn(f"light+{LONG}", image)


@pytest.mark.parametrize("name", PIXELS)
def test_order_and_the_state_of_torch_have_no_influence(name: str, image: Tensor) -> None:
    torch.manual_seed(1)
    forwards = many(name, image, 8)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    parsed = Augment.parse(name)
    backwards = [parsed.change_pixels(image, 0, epoch, NAME, 0) for epoch in reversed(range(8))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_state_of_torch_is_the_same_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="channels"):
        Augment.parse("vflip+erase=1").change_pixels(torch.zeros(4, 8, 8, dtype=torch.uint8), 0, 0, NAME, 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_seed_epoch_image_and_view_each_change_the_draw(image: Tensor) -> None:
    parsed = Augment.parse("crop+colour")
    others = [(1, 0, NAME, 0), (0, 1, NAME, 0), (0, 0, NAME + b"!", 0), (0, 0, NAME, 1)]
    cases = [(0, 0, NAME, 0), *others]
    assert len({parsed.change_pixels(image, *case).numpy().tobytes() for case in cases}) == 5
    assert len({parsed.draw_box(*case, 5000, 5000) for case in cases}) == 5


def test_the_box_does_not_tell_what_the_pixels_draw() -> None:
    assert augmentation.derive_seed(0, NAME, 0) != augmentation.derive_seed(0, NAME, 0, 0, b"pixels")


# --- the box ----------------------------------------------------------------------------------------------------------


def test_without_a_crop_the_image_is_as_it_will_be_judged(image: Tensor) -> None:
    for text in ("none", "flip", "blur"):
        assert Augment.parse(text).draw_box(0, 3, NAME, 1, 300, 200) is None
    assert Augment.parse("none").change_pixels(image, 0, 3, NAME, 1) is image


def test_light_in_epoch_0_is_the_view_that_is_stored() -> None:
    for view in range(2, 30):
        assert Augment.parse("light").draw_box(5, 0, NAME, view, 640, 480) == augmentation.random_crop(
            5, NAME, view, 640, 480
        )


def test_a_crop_alone_is_never_mirrored_and_otherwise_the_same() -> None:
    alone, both = boxes("crop", 50), boxes("light", 50)
    assert not any(box.flip for box in alone)
    assert any(box.flip for box in both)
    assert [box.left for box in alone] == [box.left for box in both]


def test_the_strength_of_a_crop_is_the_smallest_area() -> None:
    for text, least in (("crop", 0.35), ("crop=0.08", 0.08), ("crop=0.9", 0.9)):
        areas = np.array([box.width * box.height for box in boxes(text)]) / 600**2
        if least < 0.9:  # above, a long crop is cut off by the edges of the image
            assert least - 0.01 <= areas.min() < least + 0.02
            assert np.mean(areas) == pytest.approx((least + 1) / 2, abs=0.05)
        assert areas.max() > 0.97


def test_mirrors_come_half_of_the_time(image: Tensor) -> None:
    assert np.mean([box.flip for box in boxes("light")]) == pytest.approx(0.5, abs=0.07)
    for text, axis in (("flip", 2), ("vflip", 1)):
        seen = many(text, image, 400)
        mirrored = [torch.equal(each, image.flip(axis)) for each in seen]
        assert np.mean(mirrored) == pytest.approx(0.5, abs=0.1)
        assert all(torch.equal(each, image) for each, other in zip(seen, mirrored, strict=True) if not other)


def test_the_box_mirrors_once(image: Tensor) -> None:
    """With a crop the mirror is a part of the box, and the pixels stay."""
    assert all(each is image for each in many("light", image))


# --- the pixels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PIXELS)
def test_each_change_changes_the_image_and_keeps_its_kind(name: str, image: Tensor) -> None:
    original = image.clone()
    changed = many(name, image)
    assert all(each.shape == image.shape and each.dtype == torch.uint8 for each in changed)
    assert sum(not torch.equal(each, image) for each in changed) >= 2
    assert len({each.numpy().tobytes() for each in changed}) > 1
    assert torch.equal(image, original)


@pytest.mark.parametrize(
    "name", [name for name, operation in OPERATIONS.items() if operation.make and operation.default]
)
def test_the_largest_and_the_smallest_strength_work(name: str, image: Tensor) -> None:
    operation = OPERATIONS[name]
    for strength in (operation.minimum, operation.maximum):
        for each in many(f"{name}={strength:g}", image[:, :32, :32], 5):
            assert each.shape == (3, 32, 32)
    smallest = many(f"{name}={operation.minimum:g}", image, 5)
    if name not in ("rand", "blur"):  # of these two, the smallest strength is not none
        assert all((each.int() - image.int()).abs().max() <= 1 for each in smallest)


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("grey=0.3", lambda each: torch.equal(each[0], each[1])),
        ("erase=0.3", lambda each: bool((each == torch.tensor(FILL).view(3, 1, 1)).all(0).sum() > 50)),
    ],
)
def test_a_probability_is_how_often(text: str, hit: Callable[[Tensor], bool], image: Tensor) -> None:
    assert np.mean([hit(each) for each in many(text, image, 400)]) == pytest.approx(0.3, abs=0.1)


def test_stronger_is_further_from_the_image(image: Tensor) -> None:
    for name, weak, strong in (("rotate", 5, 60), ("blur", 0.5, 5), ("colour", 0.1, 0.9), ("distort", 0.05, 0.3)):
        far = [
            np.mean([(each.int() - image.int()).abs().float().mean() for each in many(f"{name}={by}", image)])
            for by in (weak, strong)
        ]
        assert far[1] > 1.5 * far[0], name


def test_changes_come_in_the_order_of_the_list(image: Tensor) -> None:
    both = Augment.parse("grey=1+colour=1").change_pixels(image, 0, 0, NAME, 0)
    assert torch.equal(both[0], both[1])  # a grey image has no colour to change
    other = Augment.parse("colour=1+grey=1").change_pixels(image, 0, 0, NAME, 0)
    assert not torch.equal(both, other)


# --- distortion -------------------------------------------------------------------------------------------------------


def test_no_distortion_is_the_image(image: Tensor) -> None:
    assert torch.equal(distort(image, 0), image)


@pytest.mark.parametrize("k", [0.2, -0.2])
def test_distortion_moves_pixels_as_the_formula_says(k: float) -> None:
    """A ramp says where each pixel came from."""
    side = 101
    places = (torch.arange(side) + 0.5) * 2 / side - 1
    ramp = (torch.arange(side) * 2).to(torch.uint8).expand(3, side, side)
    for row, column in [(50, 50), (50, 70), (30, 70), (80, 20), (50, 35)]:
        y, x = places[row], places[column]
        source = x * (1 + k * (x**2 + y**2) / 2)
        assert distort(ramp, k)[0, row, column] == pytest.approx(float((source + 1) / 2 * side - 0.5) * 2, abs=0.51)


def test_barrel_pulls_the_image_in_and_pincushion_pushes_it_out() -> None:
    square = torch.zeros(3, 64, 64, dtype=torch.uint8)
    square[:, 8:-8, 8:-8] = 255
    areas = [(distort(square, k) > 127).sum() for k in (0.2, 0, -0.2)]
    assert areas[0] < areas[1] < areas[2]


def test_distortion_is_drawn_both_ways(image: Tensor) -> None:
    square = torch.zeros(3, 64, 64, dtype=torch.uint8)
    square[:, 8:-8, 8:-8] = 255
    areas = torch.stack([(each > 127).sum() for each in many("distort=0.3", square, 60)])
    assert 15 < int((areas > (square > 127).sum()).sum()) < 45
