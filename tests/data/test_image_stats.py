"""What an image looks like: read from its header and pixels, the same from a file and from memory."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from graft.data.image_stats import COLUMN_COUNT, ImageStats, build_image_stats, measure_image
from graft_runtime.formats import FORMATS
from graft_runtime.image import decode


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def looked(raw: bytes, enough: int = 64) -> ImageStats:
    return ImageStats(build_image_stats([measure_image(raw, decode(raw, enough=enough))]))


def noisy(width: int = 90, height: int = 60, colours: int = 3) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (6, 9, colours), np.uint8)
    return Image.fromarray(np.broadcast_to(noise, (6, 9, 3)).copy()).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in ("ICO", "HEIF")])  # saved square; not saved
def test_size_and_format_are_those_of_the_file(kind: str) -> None:
    looks = looked(encoded(noisy(), kind))
    assert looks.sizes.tolist() == [[90, 60]]
    assert FORMATS[int(looks.formats[0])] == kind
    assert [bool(each[0]) for each in (looks.is_rotated, looks.is_blank, looks.is_grey)] == [False, False, False]


def test_a_photo_scaled_down_while_it_is_decoded_keeps_its_size() -> None:
    raw = encoded(noisy(1600, 1200), "JPEG")
    assert decode(raw, enough=64).shape[0] < 1200
    assert looked(raw).sizes.tolist() == [[1600, 1200]]


def test_a_turned_image_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    looks = looked(encoded(noisy(), "JPEG", exif=exif))
    assert looks.is_rotated.tolist() == [True]
    assert looks.sizes.tolist() == [[60, 90]]
    upright = looked(encoded(noisy().rotate(-90, expand=True), "PNG"))
    assert np.bitwise_count(looks.hashes ^ upright.hashes).max() <= 4


@pytest.mark.parametrize(("colour", "blank"), [((200, 10, 30), True), ((0, 0, 0), True)])
def test_a_single_colour_is_blank(colour: tuple[int, int, int], blank: bool) -> None:
    looks = looked(encoded(Image.new("RGB", (64, 48), colour), "JPEG"))
    assert bool(looks.is_blank[0]) is blank
    assert np.abs(looks.colours[0] - colour).max() <= 2


def test_blank_images_have_one_hash_for_each_colour() -> None:
    red, other, blue = (
        looked(encoded(Image.new("RGB", (50, side), colour))).hashes[0]
        for side, colour in ((50, "red"), (70, "red"), (50, "blue"))
    )
    assert red == other
    assert np.bitwise_count(red ^ blue) > 8


def test_a_thin_line_on_white_is_not_blank() -> None:
    page = Image.new("L", (1000, 1000), 255)
    page.paste(0, (0, 500, 1000, 501))
    assert not looked(encoded(page)).is_blank[0]


def test_grey_is_grey_after_jpeg_too() -> None:
    assert looked(encoded(noisy(colours=1), "JPEG")).is_grey[0]
    assert not looked(encoded(noisy(), "JPEG")).is_grey[0]


def test_traits_tell_what_was_done_to_an_image() -> None:
    def traits(image: Image.Image) -> dict[str, float]:
        return {name: float(column[0]) for name, column in looked(encoded(image)).trait_values.items()}

    plain = traits(noisy(600, 400))
    assert traits(noisy(600, 400).convert("L").convert("RGB"))["colour"] == 0 < plain["colour"]
    assert traits(noisy(600, 400).point(lambda value: value // 2))["brightness"] < 0.6 * plain["brightness"]
    assert traits(noisy(600, 400).point(lambda value: 100 + value // 4))["contrast"] < 0.3 * plain["contrast"]
    sharp = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).resize((600, 400))
    assert traits(sharp.filter(ImageFilter.GaussianBlur(20)))["detail"] < 0.8 * traits(sharp)["detail"]
    page = Image.new("RGB", (200, 100), "white")
    page.paste("black", (0, 0, 50, 100))
    assert traits(page)["white"] == 0.75


def test_the_border_has_a_colour_of_its_own() -> None:
    framed = Image.new("RGB", (96, 96), (250, 0, 0))
    framed.paste((0, 0, 250), (3, 3, 93, 93))
    looks = looked(encoded(framed))
    assert looks.borders[0].round().tolist() == [250, 0, 0]
    assert looks.colours[0, 2] > 200


def test_pixels_in_memory_have_no_format_and_otherwise_the_same_look() -> None:
    pixels = np.asarray(noisy())
    memory, file = build_image_stats([measure_image(pixels, pixels), measure_image(encoded(noisy()), pixels)])
    assert memory.shape == (COLUMN_COUNT,)
    assert memory[2] == -1
    np.testing.assert_array_equal(np.delete(memory, 2), np.delete(file, 2))
