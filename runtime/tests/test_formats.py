"""HEIC and AVIF as photos come; and every other kind of image named, with a way forward."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from graft_runtime import formats
from graft_runtime.image import ImageError, decode, read

HEICS = {
    "cup/0": "cup/image_0002",
    "cup/1": "cup/image_0005",
    "pizza/0": "pizza/image_0005",
    "pizza/1": "pizza/image_0009",
}


def photo() -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:90, :160]
    return np.stack([rows, columns, 255 - rows], axis=2).astype(np.uint8)


def near(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(float) - other).mean())


@pytest.mark.parametrize("name", HEICS)
def test_a_photo_of_a_phone_is_the_image_that_it_was_made_from(shared: Path, name: str) -> None:
    pytest.importorskip("pi_heif")
    original = decode((shared / f"data/caltech5_tiny/train/{HEICS[name]}.jpg").read_bytes())
    turned = np.rot90(original, -1) if name.endswith("1") else original  # stored lying down, with its orientation
    assert near(decode(read(shared / f"cases/files/heic/{name}.heic")), turned) < 2


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_avif_is_read_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored = np.rot90(photo(), {1: 0, 3: 2, 6: 1, 8: -1}[orientation])
    Image.fromarray(np.ascontiguousarray(stored)).save(file, "AVIF", quality=95, exif=exif.tobytes())
    assert near(decode(file.getvalue()), photo()) < 3


def test_transparent_avif_is_laid_on_white() -> None:
    file = io.BytesIO()
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(file, "AVIF")
    assert decode(file.getvalue()).min() > 250


def test_avif_of_too_many_pixels_is_refused_by_its_header() -> None:
    file = io.BytesIO()
    Image.new("RGB", (2000, 1000)).save(file, "AVIF", speed=10)
    with pytest.raises(ImageError, match="too large: 2000 x 1000 pixels; the limit is 1 megapixels"):
        decode(file.getvalue(), max_pixels=1_000_000)


def test_a_bitmap_without_its_file_header_is_read() -> None:
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "DIB")
    assert near(decode(file.getvalue()), photo()) == 0


def test_heic_without_its_decoder_says_what_brings_it(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_has_heif", lambda: False)
    with pytest.raises(ImageError, match=r"HEIC is not read here: pip install 'graft-vision\[heic\]'"):
        decode((shared / "cases/files/heic/cup/0.heic").read_bytes())


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000 is not read: convert it to PNG"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not read: convert it to PNG"),
        (b"\xff\x0a\xfa\x7f", "JPEG XL"),
        (b"8BPS\0\1", "a Photoshop file is not read: export it as PNG"),
        (b'<svg xmlns="">', "a drawing is not read: render it as PNG"),
        (b'<?xml version="1.0"?>\n<svg>', "a drawing"),
        (b"\x93NUMPY\1\0", "a NumPy array is not read: save each image as PNG, or give arrays in Python"),
        (bytes(128) + b"DICM", "DICOM is not read: choose a window of its values"),
        (b"qoif", "this kind of image is not read: convert it to PNG"),
        (b"<html>", "not an image"),
    ],
)
def test_a_kind_is_known_by_its_content(start: bytes, told: str) -> None:
    with pytest.raises(ImageError, match=f"^{told}"):
        decode(start + bytes(40))


@pytest.mark.fault(18)
def test_a_kind_is_known_by_its_name_and_not_even_opened(tmp_path: Path) -> None:
    for other in formats.UNSUPPORTED[1:]:
        for suffix in other.suffixes:
            with pytest.raises(ImageError, match=f"^{other.name} is not read: "):
                read(tmp_path / f"not there{suffix.upper()}")


def test_a_file_is_what_its_content_says(tmp_path: Path) -> None:
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    (tmp_path / "photo.png").rename(tmp_path / "photo.heic")  # as messengers do
    assert near(decode(read(tmp_path / "photo.heic")), photo()) == 0


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a file"):
        read(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    ("brands", "heif"),
    [
        (b"heic\0\0\0\0mif1", True),
        (b"mif1\0\0\0\0heic", True),
        (b"avif\0\0\0\0mif1", False),
        (b"mif1\0\0\0\0avif", False),
    ],
)
def test_avif_lies_in_the_same_boxes_and_is_not_taken_for_heic(brands: bytes, heif: bool) -> None:
    assert formats.is_heif((8 + len(brands)).to_bytes(4) + b"ftyp" + brands + b"\0\0\0\x08mdat") == heif
