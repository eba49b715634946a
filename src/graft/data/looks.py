"""What a picture looks like without any network: its size, format and colours, and its perceptual hash."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from graft.data.hashes import LUMA, SIDE, perceptual
from graft.data.images import Raw
from graft_runtime.image import MAX_EXIF, header
from graft_runtime.kinds import ALIASES, FORMATS

WIDTH = 20  # numbers kept of each picture; float32 holds them all exactly
VERSION = 3  # of what they mean
FLAT = 6  # of 255: a thumbnail that varies less may be blank
TRAITS = ("brightness", "contrast", "colour", "detail", "white")
BLANK = 3.0  # of 255: standard deviation below which a picture is
FINE = 128  # pixels along the sides at which detail is measured
WHITE = 240  # of 255: from here on a pixel is paper
GREY = 6  # of 255: largest difference between the colours of a grey pixel, after JPEG


@dataclass(frozen=True)
class Looks:
    """Columns of numbers [n, WIDTH], a row for each picture, as `look` makes them."""

    table: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.table)

    @property
    def sizes(self) -> NDArray[np.float32]:
        """Width and height as the picture stands upright, [n, 2]."""
        return self.table[:, :2]

    @property
    def formats(self) -> NDArray[np.intp]:
        """Index into FORMATS; -1 for pixels that never were a file."""
        return self.table[:, 2].astype(np.intp)

    @property
    def turned(self) -> NDArray[np.bool_]:
        """Whether EXIF says that the stored picture has to be turned or mirrored."""
        return self.table[:, 3] > 1

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Whether all pixels have nearly the same colour."""
        return self.table[:, 4] > 0

    @property
    def grey(self) -> NDArray[np.bool_]:
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
    def traits(self) -> dict[str, NDArray[np.float32]]:
        """What can be told of the pixels in a word, [n] each: brightness, contrast and colour, 0 to 255; fine detail,
        relative to the contrast; the share of white."""
        bright = self.colours @ LUMA
        return dict(zip(TRAITS, (bright, *self.table[:, 16:].T), strict=True))


@dataclass(frozen=True)
class Glimpse:
    """All that is worked out from a picture by itself; the rest takes as long for hundreds as for one.

    `header` is width, height, index into FORMATS and EXIF orientation; `small` the thumbnail, uint8 [SIDE, SIDE, 3];
    `detail` how much neighbouring pixels differ, 0 to 255, where the picture has FINE x FINE of them.
    """

    header: tuple[int, int, int, int]
    small: NDArray[np.uint8]
    blank: bool
    detail: float


def glimpse(raw: Raw, pixels: NDArray[np.uint8]) -> Glimpse:
    """A first look at a picture as stored, and its upright pixels, which may be scaled down."""
    header = _header(raw) if isinstance(raw, bytes) else (raw.shape[1], raw.shape[0], -1, 1)
    picture = Image.fromarray(pixels)
    thumbnail = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    fine = np.asarray(picture.convert("L").resize((FINE, FINE), Image.Resampling.BOX), np.int16)
    detail = float(np.abs(np.diff(fine, axis=0)).mean() + np.abs(np.diff(fine, axis=1)).mean()) / 2
    flat = all(high - low <= FLAT for low, high in cast(tuple[tuple[int, int], ...], thumbnail.getextrema()))
    return Glimpse(header, np.asarray(thumbnail), flat and bool(pixels.std(axis=(0, 1)).max() < BLANK), detail)


def look(glimpses: Sequence[Glimpse]) -> NDArray[np.float32]:
    """One row of Looks for each picture."""
    small = np.stack([each.small for each in glimpses])
    blank = np.array([each.blank for each in glimpses])
    red, green, blue = np.moveaxis(small, 3, 0)
    brightest, darkest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    border = np.concatenate([small[:, 0], small[:, -1], small[:, 1:-1, 0], small[:, 1:-1, -1]], axis=1)
    contrast = (small @ LUMA).std(axis=(1, 2))
    hashes = perceptual(small)
    hashes[blank] = [_scrambled(each) for each in small[blank]]
    columns = (
        np.array([each.header for each in glimpses]),
        blank[:, None],
        ((brightest - darkest).max(axis=(1, 2)) <= GREY)[:, None],
        small.mean(axis=(1, 2)),
        border.mean(axis=1),
        hashes[:, None].view(np.uint16),
        contrast[:, None],
        (brightest - darkest).mean(axis=(1, 2))[:, None],
        (np.array([each.detail for each in glimpses]) / np.maximum(contrast, 1))[:, None],
        (darkest >= WHITE).mean(axis=(1, 2))[:, None],
    )
    return np.concatenate(columns, axis=1, dtype=np.float32, casting="unsafe")


def _scrambled(blank: NDArray[np.uint8]) -> np.uint64:
    """The hash of a blank picture, which has no frequencies: near that of the very same colour only."""
    mean = blank.mean(axis=(0, 1)).round().astype(np.uint8)
    return np.frombuffer(blake2b(mean.tobytes(), digest_size=8).digest(), np.uint64)[0]


def _header(data: bytes) -> tuple[int, int, int, int]:
    """Upright width and height, format and EXIF orientation of a file that was decoded before."""
    with header(data) as picture:
        orientation = 1
        with suppress(Exception):  # a broken EXIF block says nothing; the decoder ignores it too
            if 0 < len(picture.info.get("exif", b"")) <= MAX_EXIF:
                orientation = int(picture.getexif().get(ExifTags.Base.Orientation, 1))
        width, height = picture.size if orientation < 5 else picture.size[::-1]
        kind = picture.format or ""
    return width, height, FORMATS.index(ALIASES.get(kind, kind)), orientation
