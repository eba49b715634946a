"""Image statistics without any network: size, format, colours and perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from graft.data.images import Raw
from graft_runtime.formats import ALIASES, FORMATS
from graft_runtime.image import MAX_EXIF, open_header

SIDE = 32  # pixels of the thumbnail that is hashed
BITS = 64
_FREQUENCIES = 8  # frequencies each way, without the constant
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# The orthonormal DCT-II as a matrix; scipy.fft, which has it too, takes half a second to import.
_ANGLES = np.pi / SIDE * np.outer(np.arange(1, _FREQUENCIES + 1), np.arange(SIDE) + 0.5)
_WAVES = np.float32(np.sqrt(2 / SIDE) * np.cos(_ANGLES))
_ODD = np.packbits(np.tile(np.arange(1, _FREQUENCIES + 1) % 2, _FREQUENCIES).astype(bool)).view(np.uint64)[0]


def perceptual_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Compute the hashes [n] of images that were shrunk to uint8 [n, SIDE, SIDE, 3]."""
    red, green, blue = (thumbnails[..., at] * weight for at, weight in enumerate(LUMA))
    waves = _WAVES @ (red + green + blue) @ _WAVES.T
    return np.packbits((waves > 0).reshape(-1, BITS), axis=1).view(np.uint64).ravel()


def mirror_hashes(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the hashes of the mirrored images."""
    return hashes ^ _ODD


def hamming_distances(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the Hamming distances of hashes, 0 to 64; the second as it is or mirrored, whichever is nearer."""
    return np.minimum(np.bitwise_count(one ^ other), np.bitwise_count(one ^ mirror_hashes(other)))


COLUMN_COUNT = 20  # numbers kept of each image; float32 holds them all exactly
STATS_VERSION = 3  # of what they mean
FLAT_RANGE = 6  # of 255: a thumbnail that varies less may be blank
TRAITS = ("brightness", "contrast", "colour", "detail", "white")
BLANK_STD = 3.0  # of 255: standard deviation below which an image is
DETAIL_SIDE = 128  # pixels along the sides at which detail is measured
WHITE_LEVEL = 240  # of 255: from here on a pixel is paper
GREY_RANGE = 6  # of 255: largest difference between the colours of a grey pixel, after JPEG


@dataclass(frozen=True)
class ImageStats:
    """Statistics [n, COLUMN_COUNT], a row for each image, as `build_image_stats` computes them."""

    table: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def sizes(self) -> NDArray[np.float32]:
        """Width and height as the image stands upright, [n, 2]."""
        return self.table[:, :2]

    @property
    def formats(self) -> NDArray[np.intp]:
        """Index into FORMATS; -1 for pixels that never were a file."""
        return self.table[:, 2].astype(np.intp)

    @property
    def is_rotated(self) -> NDArray[np.bool_]:
        """Whether EXIF says that the stored image has to be turned or mirrored."""
        return self.table[:, 3] > 1

    @property
    def is_blank(self) -> NDArray[np.bool_]:
        """Whether all pixels have nearly the same colour."""
        return self.table[:, 4] > 0

    @property
    def is_grey(self) -> NDArray[np.bool_]:
        """Whether no pixel has a colour."""
        return self.table[:, 5] > 0

    @property
    def colours(self) -> NDArray[np.float32]:
        """Mean red, green and blue, 0 to 255, [n, 3]."""
        return self.table[:, 6:9]

    @property
    def borders(self) -> NDArray[np.float32]:
        """The same of the outermost pixels of the thumbnail."""
        return self.table[:, 9:12]

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Perceptual hashes [n]."""
        return np.ascontiguousarray(self.table[:, 12:16].astype(np.uint16)).view(np.uint64).ravel()

    @property
    def trait_values(self) -> dict[str, NDArray[np.float32]]:
        """Pixel statistics by name, [n] each: brightness, contrast and colour, 0 to 255; fine detail,
        relative to the contrast; the share of white."""
        bright = self.colours @ LUMA
        return dict(zip(TRAITS, (bright, *self.table[:, 16:].T), strict=True))


@dataclass(frozen=True)
class RawImageStats:
    """What is measured of one image by itself; the rest is computed for many at once.

    `header` is width, height, index into FORMATS and EXIF orientation; `thumbnail` is uint8
    [SIDE, SIDE, 3]; `detail` how much neighbouring pixels differ, 0 to 255, where the image has FINE x FINE of them.
    """

    header: tuple[int, int, int, int]
    thumbnail: NDArray[np.uint8]
    blank: bool
    detail: float


def measure_image(raw: Raw, pixels: NDArray[np.uint8]) -> RawImageStats:
    """Measure an image as stored, and its upright pixels, which may be scaled down."""
    header = _read_header(raw) if isinstance(raw, bytes) else (raw.shape[1], raw.shape[0], -1, 1)
    image = Image.fromarray(pixels)
    thumbnail = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    fine = np.asarray(image.convert("L").resize((DETAIL_SIDE, DETAIL_SIDE), Image.Resampling.BOX), np.int16)
    detail = float(np.abs(np.diff(fine, axis=0)).mean() + np.abs(np.diff(fine, axis=1)).mean()) / 2
    is_flat = all(high - low <= FLAT_RANGE for low, high in cast(tuple[tuple[int, int], ...], thumbnail.getextrema()))
    return RawImageStats(
        header, np.asarray(thumbnail), is_flat and bool(pixels.std(axis=(0, 1)).max() < BLANK_STD), detail
    )


def build_image_stats(measured: Sequence[RawImageStats]) -> NDArray[np.float32]:
    """Return one row of ImageStats for each image."""
    small = np.stack([each.thumbnail for each in measured])
    blank = np.array([each.blank for each in measured])
    red, green, blue = np.moveaxis(small, 3, 0)
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    border = np.concatenate([small[:, 0], small[:, -1], small[:, 1:-1, 0], small[:, 1:-1, -1]], axis=1)
    contrast = (small @ LUMA).std(axis=(1, 2))
    hashes = perceptual_hashes(small)
    hashes[blank] = [_hash_blank(each) for each in small[blank]]
    columns = (
        np.array([each.header for each in measured]),
        blank[:, None],
        ((brightest - darkest).max(axis=(1, 2)) <= GREY_RANGE)[:, None],
        small.mean(axis=(1, 2)),
        border.mean(axis=1),
        hashes[:, None].view(np.uint16),
        contrast[:, None],
        (brightest - darkest).mean(axis=(1, 2))[:, None],
        (np.array([each.detail for each in measured]) / np.maximum(contrast, 1))[:, None],
        (darkest >= WHITE_LEVEL).mean(axis=(1, 2))[:, None],
    )
    return np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")


def _hash_blank(blank: NDArray[np.uint8]) -> np.uint64:
    """Return the hash of a blank image, which has no frequencies: near that of the very same colour only."""
    mean = blank.mean(axis=(0, 1)).round().astype(np.uint8)
    return np.frombuffer(blake2b(mean.tobytes(), digest_size=8).digest(), np.uint64)[0]


def _read_header(data: bytes) -> tuple[int, int, int, int]:
    """Read upright width and height, format and EXIF orientation of a file that was decoded before."""
    with open_header(data) as image:
        orientation = 1
        with suppress(Exception):  # a broken EXIF block says nothing; the decoder ignores it too
            if 0 < len(image.info.get("exif", b"")) <= MAX_EXIF:
                orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
        width, height = image.size if orientation < 5 else image.size[::-1]
        kind = image.format or ""
    return width, height, FORMATS.index(ALIASES.get(kind, kind)), orientation
