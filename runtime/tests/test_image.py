"""Bytes in, upright RGB out: every odd kind of image, and never another exception than ImageError."""

from __future__ import annotations

import csv
import io
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from graft_runtime.image import ImageError, decode, from_array, from_pil

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)
Method = Image.Transpose
STORED_FROM_UPRIGHT = {  # EXIF orientation -> what the camera did; the decoder has to undo it
    1: None,
    2: Method.FLIP_LEFT_RIGHT,
    3: Method.ROTATE_180,
    4: Method.FLIP_TOP_BOTTOM,
    5: Method.TRANSPOSE,
    6: Method.ROTATE_90,
    7: Method.TRANSVERSE,
    8: Method.ROTATE_270,
}
ORIENTATION = 0x0112
SIGNATURES = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"P6 ", b"\0\0\1\0"]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photo(width: int = 96, height: int = 64) -> Image.Image:
    """Soft blobs with fine noise: no two regions look the same, and no symmetry hides a wrong turn."""
    rng = np.random.default_rng(0)
    blobs = Image.fromarray(rng.integers(30, 226, (4, 6, 3), np.uint8))
    soft = np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(np.clip(soft + rng.normal(0, 6, soft.shape), 0, 255).astype(np.uint8))


def refusal(data: bytes, **options: Any) -> str:
    """The reason for which these bytes are refused."""
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.reason


def distance(one: NDArray[np.uint8], other: Any) -> int:
    """The largest difference between two images, or an image and a colour."""
    return int(np.abs(one.astype(int) - np.asarray(other, int)).max())


def decoded_or_refused(data: bytes) -> NDArray[np.uint8] | str:
    """The image or the reason; anything else that is raised fails the test."""
    try:
        pixels = decode(data)
    except ImageError as error:
        if "Beartype" in str(error):  # decode takes every exception for a fault of the image
            raise
        return error.reason
    assert (pixels.dtype, pixels.ndim, pixels.shape[-1]) == (np.uint8, 3, 3)
    return pixels


PHOTO = photo()
JPEG, PNG = encoded(PHOTO, "JPEG", quality=90), encoded(PHOTO, "PNG")
DRAWING = "a drawing is not read: render it as PNG, as with: rsvg-convert -w 512 image.svg -o image.png"
PROGRESSIVE = encoded(PHOTO, "JPEG", quality=90, progressive=True)


# --- the images of others -------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow's remarks on odd files, as a user would have them
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_every_messy_image_is_decoded_or_refused_as_its_manifest_says(shared: Path) -> None:
    folder = shared / "data/messy"
    with (folder / "MANIFEST.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wrong = []
    for row in rows:
        start = time.thread_time()
        result = decoded_or_refused((folder / row["file"]).read_bytes())
        seconds = time.thread_time() - start
        got, wanted = "no" if isinstance(result, str) else "yes", row["tolerant_loader_should_decode"]
        if got != wanted != "either" or seconds > 3:
            wrong.append(f"{row['file']}: wanted {wanted}, got {got} in {seconds:.1f} s ({row['odd']})")
    assert (len(rows) > 200, wrong) == (True, [])


def test_the_photos_of_every_orientation_stand_upright(shared: Path) -> None:
    first, *others = [decode((shared / f"data/messy/exif/Landscape_{turn}.jpg").read_bytes()) for turn in (1, 3, 6, 8)]
    assert {other.shape for other in others} == {first.shape}
    assert all(np.abs(other.astype(int) - first).mean() < 6 for other in others)  # each was compressed anew


@pytest.mark.fault(10)
def test_a_scan_of_twelve_bits_is_scaled_by_its_twelve_bits(shared: Path) -> None:
    pixels = decode((shared / "data/messy/modes/12bit.cropped.tif").read_bytes())
    assert int(pixels.max()) == 2  # the brightest of its values is 30 of 4095


# --- modes and colours ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_lossless_image_comes_back_as_it_was(kind: str) -> None:
    np.testing.assert_array_equal(decode(encoded(PHOTO, kind)), np.asarray(PHOTO))


@pytest.mark.fault(10)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_a_ramp_of_sixteen_bits_is_scaled_and_not_clipped(kind: str) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decode(encoded(Image.fromarray(ramp), kind))
    wanted = np.rint(ramp / 65535 * 255)
    assert distance(pixels, np.repeat(wanted[..., None], 3, axis=2)) == 0
    assert len(np.unique(pixels)) == 256


@pytest.mark.fault(11)
def test_an_image_of_floats_spans_black_to_white() -> None:
    values = np.linspace(-1000, 3000, 256, dtype=np.float32).reshape(16, 16)
    pixels = decode(encoded(Image.fromarray(values), "TIFF"))
    np.testing.assert_array_equal(pixels[..., 0].ravel(), np.arange(256))


def tiff(values: NDArray[Any], photometric: int = 1) -> bytes:
    """Grey of any type as a TIFF, which Pillow itself writes of few."""
    height, width = values.shape
    sample = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    raw = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: photometric, 273: 134, 277: 1, 278: height}
    tags |= {279: len(raw), 339: sample}
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    entries = b"".join(struct.pack("<HHII", tag, 4 if value > 65535 else 3, 1, value) for tag, value in tags.items())
    return (head + entries + bytes(4)).ljust(134, b"\0") + raw


LEVELS = np.arange(256).reshape(16, 16)
DEEP: dict[str, tuple[Any, Any]] = {  # values of every type, and the grey levels that they are
    "uint8": (LEVELS.astype(np.uint8), LEVELS),
    "int8": ((LEVELS - 128).astype(np.int8), LEVELS),
    "int8 of an unsigned range": ((LEVELS // 2).astype(np.int8), LEVELS // 2),
    "uint16": ((LEVELS * 257).astype(np.uint16), LEVELS),
    "uint16 of 8 bits": (LEVELS.astype(np.uint16), LEVELS),
    "int16": (((LEVELS - 128) * 256).astype(np.int16), LEVELS),
    "int16 without negatives": ((LEVELS * 128.498).astype(np.int16), LEVELS),
    "int16 of 8 bits": (LEVELS.astype(np.int16), LEVELS),
    "uint32": ((LEVELS * 16843009).astype(np.uint32), LEVELS),
    "uint32 of 8 bits": (LEVELS.astype(np.uint32), LEVELS),
    "uint32 of 16 bits": ((LEVELS * 257).astype(np.uint32), LEVELS),
    "int32": (((LEVELS - 128) * 10**7).astype(np.int32), LEVELS),
    "int32 of 8 bits": (LEVELS.astype(np.int32), LEVELS),
    "int32 of 8 bits, dark": ((LEVELS // 16).astype(np.int32), LEVELS // 16),
    "float32": ((LEVELS / 255).astype(np.float32), LEVELS),
    "float32 with infinities": (
        np.where(LEVELS == 7, np.inf, np.where(LEVELS == 9, -np.inf, LEVELS - 9.5)).astype(np.float32),
        np.where(LEVELS == 7, 255, np.where(LEVELS == 9, 0, LEVELS)),
    ),
    "float32 with gaps": (
        np.where(LEVELS == 7, np.nan, LEVELS + 100).astype(np.float32),
        np.where(LEVELS == 7, 0, LEVELS),
    ),
}


@pytest.mark.fault(10, 11)
@pytest.mark.parametrize("kind", DEEP)
def test_grey_of_every_type_keeps_its_range(kind: str) -> None:
    values, expected = DEEP[kind]
    found = decode(tiff(values))
    assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=-1))
    assert np.array_equal(from_pil(Image.open(io.BytesIO(tiff(values)))), found)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
def test_where_low_values_are_white_they_stay_white(kind: str) -> None:
    assert np.array_equal(decode(tiff(DEEP[kind][0], photometric=0))[..., 0], 255 - LEVELS)


@pytest.mark.parametrize("kind", ["float16", "float64", "int64", "uint64"])
def test_types_that_are_not_read_are_refused(kind: str) -> None:
    with pytest.raises(ImageError, match="not an image"):
        decode(tiff(LEVELS.astype(kind)))


@pytest.mark.fault(11)
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_grey_without_a_finite_value_is_a_fault(odd: float) -> None:
    with pytest.raises(ImageError, match="not one value is a finite number"):
        decode(tiff(np.full((4, 4), odd, np.float32)))


@pytest.mark.fault(10)
def test_dark_grey_of_sixteen_bits_stays_dark() -> None:
    raw = b"P5 16 16 65535\n" + LEVELS.astype(">u2").tobytes()
    assert np.array_equal(np.unique(decode(raw)), [0, 1])
    assert np.array_equal(from_pil(Image.open(io.BytesIO(raw))), decode(raw))


def test_a_pillow_image_of_each_grey_mode_keeps_its_range() -> None:
    for made in (
        Image.fromarray(LEVELS.astype(np.int32)),
        Image.fromarray((LEVELS * 257).astype(np.int32)),
        Image.fromarray(((LEVELS - 100) * 9).astype(np.int32)),
        Image.fromarray((LEVELS * 257).astype(np.uint16)),
        Image.fromarray(LEVELS.astype(np.uint16)),
        Image.fromarray((LEVELS / 255).astype(np.float32)),
    ):
        assert np.array_equal(from_pil(made)[..., 0], LEVELS), made.mode


def test_an_array_is_uint8_or_refused() -> None:
    assert np.array_equal(from_array(LEVELS.astype(np.uint8))[..., 2], LEVELS)
    for odd in (bool, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float16, np.float32, object):
        with pytest.raises(ValueError, match=f"Got {np.dtype(odd)}"):
            from_array(LEVELS.astype(odd))


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((3, 8, 9), r"\[3, 8, 9\]: put the channels last"),
        ((8, 9, 4), r"\[8, 9, 4\]: lay the transparency on a background\.$"),
        ((2, 8, 9, 3), r"\[2, 8, 9, 3\]: give the 2 images of it one by one\.$"),
    ],
)
def test_an_array_of_another_shape_is_refused_with_what_to_do(shape: tuple[int, ...], advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        from_array(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"scale it to 0\.\.255"):
        from_array(np.zeros(shape, np.float32))


def test_an_image_without_pixels_is_a_fault() -> None:
    with pytest.raises(ImageError, match="damaged: 0 x 5 pixels"):
        from_pil(Image.new("RGB", (0, 5)))


@pytest.mark.fault(9)
def test_one_bit_and_grey_become_three_equal_channels() -> None:
    steps = Image.fromarray(np.array([[0, 100, 255]], np.uint8))
    assert decode(encoded(steps, "PNG"))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]
    assert decode(encoded(steps.point(lambda v: v > 200 and 255).convert("1"), "PNG"))[0].tolist() == [
        [0] * 3,
        [0] * 3,
        [255] * 3,
    ]


@pytest.mark.fault(13)
@pytest.mark.parametrize(("alpha", "colour"), [(0, WHITE), (255, RED), (51, (255, 204, 204))])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(kind: str, alpha: int, colour: tuple[int, int, int]) -> None:
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    assert distance(decode(encoded(Image.new("RGBA", (8, 8), (*RED, alpha)), kind, **options)), colour) <= 1


@pytest.mark.fault(9)
def test_transparent_grey_is_laid_on_white() -> None:
    both = Image.fromarray(np.array([[[0, 0], [0, 255]]], np.uint8), "LA")
    assert decode(encoded(both, "PNG"))[0].tolist() == [[255] * 3, [0] * 3]


@pytest.mark.fault(14)
@pytest.mark.parametrize(("kind", "transparency"), [("PNG", 0), ("PNG", b"\x00\xff"), ("GIF", 0)])
def test_the_transparent_entry_of_a_palette_becomes_white(kind: str, transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([*RED, *GREEN])
    pixels = decode(encoded(image, kind, transparency=transparency))
    assert pixels[0].tolist() == [list(WHITE), list(GREEN)]


@pytest.mark.fault(12)
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_red_ink_is_red(kind: str) -> None:
    assert distance(decode(encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), kind)), RED) <= 3


def test_lab_has_the_colours_it_was_made_from() -> None:
    colours = [RED, GREEN, (70, 90, 200), WHITE, (90, 90, 90)]
    strip = Image.fromarray(np.array([colours], np.uint8))
    lab = ImageCms.profileToProfile(strip, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), 0, "LAB")
    assert lab is not None
    assert lab.mode == "LAB"
    assert distance(decode(encoded(lab, "TIFF")), [colours]) <= 8  # 256 steps in a and b are coarse


@pytest.mark.fault(15)
def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    for kind in ("GIF", "TIFF", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert distance(decode(data), RED) == 0, kind


# --- upright ----------------------------------------------------------------------------------------------------------


@pytest.mark.fault(16)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "most"), [("PNG", 0), ("TIFF", 0), ("JPEG", 12)])
def test_an_image_stands_upright_however_the_camera_was_held(kind: str, most: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turn = STORED_FROM_UPRIGHT[orientation]
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(PHOTO if turn is None else PHOTO.transpose(turn), kind, exif=exif, **options)
    pixels = decode(data)
    assert pixels.shape == (64, 96, 3)
    assert distance(pixels, np.asarray(PHOTO)) <= most


@pytest.mark.fault(16)
def test_a_broken_exif_block_leaves_the_image_as_it_is_stored() -> None:
    broken = encoded(PHOTO, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(broken), np.asarray(PHOTO))


# --- cut short --------------------------------------------------------------------------------------------------------


@pytest.mark.fault(3)
@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, PNG], ids=["JPEG", "progressive", "PNG"])
def test_half_an_image_is_truncated(data: bytes) -> None:
    assert refusal(data[: len(data) // 2]) == "truncated"


@pytest.mark.fault(3)
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_end_marker_is_whole(missing: int) -> None:
    np.testing.assert_array_equal(decode(JPEG[:-missing]), decode(JPEG))


@pytest.mark.parametrize("missing", range(1, 13))
def test_a_png_without_its_end_chunk_is_whole(missing: int) -> None:
    np.testing.assert_array_equal(decode(PNG[:-missing]), np.asarray(PHOTO))


@pytest.mark.fault(3)
@pytest.mark.parametrize("kind", ["JPEG", "progressive", "restarts", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_an_image_cut_anywhere_is_refused_or_has_all_its_pixels(kind: str) -> None:
    """Every length of a JPEG: between its scans and at its restart markers, a coarse image can look whole."""
    jpegs = {"JPEG": {}, "progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1}}
    data = encoded(photo(48, 32), "JPEG", **jpegs[kind]) if kind in jpegs else encoded(photo(48, 32), kind)
    whole = decode(data)
    for length in range(0, len(data), 1 if kind in jpegs else 17):
        result = decoded_or_refused(data[:length])
        assert isinstance(result, str) or np.array_equal(result, whole), length


# --- too large, and large enough --------------------------------------------------------------------------------------


@pytest.mark.fault(17)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # then it is our own limit that refuses
def test_a_bomb_is_refused_at_once() -> None:
    start = time.monotonic()
    assert refusal(encoded(Image.new("1", (13000, 13000)), "PNG")) == "too large"
    assert refusal(encoded(Image.new("1", (8001, 8000)), "BMP")) == "too large"  # Pillow has nothing against this one
    assert time.monotonic() - start < 10  # nearly all of it is for making the files


@pytest.mark.slow
@pytest.mark.fault(17)
def test_a_bomb_is_refused_in_little_memory() -> None:
    """A child that may have 100 MB more than it has: the pixels would take 169 MB, and their refusal takes none."""
    pytest.importorskip("resource", reason="only Unix limits the memory of a process")
    child = (
        "import sys, psutil, resource, warnings; from graft_runtime.image import decode, ImageError;"
        "warnings.simplefilter('ignore'); data = sys.stdin.buffer.read();"
        "most = psutil.Process().memory_info().vms + 100 * 2**20;"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "try: decode(data)\n"
        "except ImageError as error: print(error.reason)"
    )
    bomb = encoded(Image.new("1", (13000, 13000)), "PNG")
    done = subprocess.run([sys.executable, "-c", child], input=bomb, capture_output=True, timeout=60, check=True)
    assert done.stdout.decode().strip() == "too large"


def test_a_photo_above_the_limit_passes_when_a_smaller_one_is_enough() -> None:
    most = 96 * 64 - 1
    assert refusal(JPEG, max_pixels=most) == "too large"
    assert decode(JPEG, enough=32, max_pixels=most).shape == (32, 48, 3)


@pytest.mark.parametrize(
    ("enough", "shape"), [(None, (480, 800)), (241, (480, 800)), (240, (240, 400)), (100, (120, 200)), (60, (60, 100))]
)
def test_a_jpeg_comes_back_no_larger_than_needed(enough: int | None, shape: tuple[int, int]) -> None:
    assert decode(encoded(photo(800, 480), "JPEG"), enough=enough).shape == (*shape, 3)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), enough=st.integers(1, 300))
def test_the_short_side_of_a_smaller_jpeg_is_still_enough(width: int, height: int, enough: int) -> None:
    pixels = decode(encoded(Image.new("RGB", (width, height), RED), "JPEG"), enough=enough)
    assert min(pixels.shape[:2]) >= min(width, height, enough)


def test_a_smaller_jpeg_shows_the_same() -> None:
    large = decode(encoded(photo(800, 480), "JPEG", quality=95))
    boxes = large.reshape(120, 4, 200, 4, 3).mean(axis=(1, 3))
    assert distance(decode(encoded(photo(800, 480), "JPEG", quality=95), enough=120), boxes) <= 12


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP"])
def test_only_a_jpeg_comes_back_smaller(kind: str) -> None:
    assert decode(encoded(photo(800, 480), kind), enough=8).shape == (480, 800, 3)


# --- no image at all ------------------------------------------------------------------------------------------------


@pytest.mark.fault(1, 2, 18)
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, world\n", "not an image"),
        (b"<html><body>404</body></html>", "not an image"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", DRAWING),  # Pillow would start Ghostscript
        (b"\0" * 1000, "not an image"),
        (JPEG[:2], "not an image"),
        (PNG[:8], "not an image"),
    ],
)
def test_what_is_no_image_is_called_so(data: bytes, reason: str) -> None:
    assert refusal(data) == reason


def test_an_image_error_says_its_reason_first() -> None:
    error = ImageError("too large", "9 x 9 pixels")
    assert (str(error), error.reason, str(ImageError("truncated"))) == (
        "too large: 9 x 9 pixels",
        "too large",
        "truncated",
    )


@settings(max_examples=150, deadline=None)
@given(signature=st.sampled_from(SIGNATURES), rest=st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_image_error(signature: bytes, rest: bytes) -> None:
    decoded_or_refused(signature + rest)


@pytest.mark.fault(4)
@pytest.mark.parametrize("data", [JPEG, PNG], ids=["JPEG", "PNG"])
@settings(max_examples=100, deadline=None)
@given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8))
@example(flips=[(0.02, 255)])
def test_flipped_bytes_raise_nothing_but_image_error(data: bytes, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(data)
    for share, mask in flips:
        damaged[int(share * len(data))] ^= mask
    decoded_or_refused(bytes(damaged))
