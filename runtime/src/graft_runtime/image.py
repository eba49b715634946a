"""Decode image files to upright RGB: the one decoder of training, prediction and serving.

Facts behind the rules: Pillow's `verify()` accepts a JPEG cut in half, only a full decode tells; `.convert("RGB")`
turns 16-bit grey into white; a PNG of 500 kB can hold 169 megapixels, so the header is checked before a pixel is
decoded; other costs of a decoder are checked by `limits`.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from graft_runtime import formats, limits

MAX_PIXELS: Final = 64_000_000  # 190 MB as RGB; a JPEG counts after scaling down, so phone photos of 108 MP pass
MAX_PIXELS_OF_FORMAT: Final = {"WEBP": 40_000_000}  # its decoder keeps the image four times, with transparency
TOO_LARGE: Final = "too large"
TOO_COSTLY: Final = "too costly to decode"
BAND_PIXELS: Final = 4_000_000  # pixels converted at once: an image of 64 megapixels takes 1 GB where all are
MAX_EXIF: Final = 2 * 2**20  # bytes; Pillow walks over its entries in Python

_END_MARKERS: Final = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82"}
_FILLERS: Final = {"JPEG": (b"\x55" * 512, b"\xaa" * 512), "PNG": (b"", b"")}  # PNG has checksums, JPEG has not
_RESTART_SEGMENT: Final = b"\xff\xdd\0\4"  # the JPEG segment that announces restart markers
_CHANNELS: Final = (1, 3, 4)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags


class ImageError(ValueError):
    """An image that cannot be decoded; `reason` is short and the same for the same kind of fault."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def read(path: str | os.PathLike[str]) -> bytes:
    """Read the bytes of an image file.

    Raises OSError, and ImageError for what is no regular file, too large, or of a format that is not supported.
    """
    if advice := formats.advise_by_name(os.fspath(path)):
        raise ImageError(advice)
    try:
        status = os.stat(path)
    except ValueError as error:  # a name with a null character
        raise ImageError("not a file", str(error)) from error
    if stat.S_ISDIR(status.st_mode):
        os.scandir(path).close()  # where it cannot be opened, that is what to tell
        raise ImageError("a folder, which stands for no image: give the files in it")
    if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
        raise ImageError("not a file")
    if status.st_size > limits.MAX_BYTES:
        raise ImageError(TOO_COSTLY, f"{status.st_size // 10**6} MB; the limit is {limits.MAX_BYTES // 10**6} MB")
    with open(path, "rb") as file:
        return file.read()


def decode(data: bytes, *, enough: int | None = None, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode one image to upright RGB, uint8 [height, width, 3].

    With `enough`, a JPEG may come back smaller, as long as its short side keeps at least that many pixels: the decoder
    then skips the fine detail that a later resize would throw away. An image may have `max_pixels`.
    The first frame of an animation counts; transparency is laid on white; grey of any depth is scaled, not clipped.

    Raises ImageError: empty, not an image, too large, too costly to decode, or damaged. So no file takes more than a
    few seconds of a processor or 1 GB; the limits are in graft_runtime.limits.

    >>> decode(b"GIF89a")
    Traceback (most recent call last):
    graft_runtime.image.ImageError: not an image
    """
    if not data:
        raise ImageError("empty file")
    if found := limits.find_excess(data, max_pixels):
        raise ImageError(TOO_COSTLY, found)
    try:
        image = _load(data, enough, max_pixels)
        return _to_rgb_array(_rotate_upright(image), _find_grey_range(image))
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(TOO_COSTLY, "not enough memory") from error
    except Exception as error:  # hostile bytes raise nearly everything: OSError, SyntaxError, struct.error, TypeError
        raise ImageError("damaged", f"{type(error).__name__}: {error}") from error


def from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """Convert an opened PIL image as `decode` does; the original is not changed. Raises ImageError."""
    if not image.width * image.height:
        raise ImageError("damaged", f"{image.width} x {image.height} pixels")
    try:
        return _to_rgb_array(_rotate_upright(image.copy()), _find_grey_range(image))
    except OSError as error:  # Pillow decodes at the first copy
        raise ImageError("damaged", f"{type(error).__name__}: {error}") from error


def from_array(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Convert a uint8 array to uint8 [height, width, 3]. Raises ValueError for any other array.

    Other types are refused: an array does not tell whether 1.0 or 255 is white.
    """
    grey = pixels[..., None] if pixels.ndim == 2 else pixels
    if grey.dtype != np.uint8 or grey.ndim != 3 or grey.shape[2] not in (1, 3) or not grey.size:
        raise ValueError(
            f"An image in memory must be uint8 [height, width] or [height, width, 3]. "
            f"Got {pixels.dtype} {list(pixels.shape)}: {_suggest_fix(pixels)}."
        )
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def _suggest_fix(pixels: NDArray[Any]) -> str:
    """Return advice for an array that is no image."""
    shape = pixels.shape[1:] if pixels.ndim == 4 else pixels.shape
    steps = [f"give the {pixels.shape[0]} images of it one by one"] if pixels.ndim == 4 else []
    if len(shape) == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        steps.append("put the channels last, as numpy.moveaxis(image, 0, -1) does")
    elif len(shape) == 3 and shape[2] in (2, 4):
        steps.append("lay the transparency on a background")
    steps += ["scale it to 0..255 and make it uint8"] * (pixels.dtype != np.uint8)
    return ", ".join(steps) or "that is no image"


def _load(data: bytes, enough: int | None, max_pixels: int) -> Image.Image:
    image = _open(data, enough, max_pixels)
    try:
        image.load()
    except OSError:
        if image.format not in _END_MARKERS:
            raise
        return _load_unfinished(data, image.format, enough, max_pixels)
    return image


def open_header(data: bytes) -> Image.Image:
    """Open an image file with Pillow without decoding a pixel. Raises ImageError."""
    try:
        return Image.open(io.BytesIO(data), formats=formats.list_pillow_formats(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(formats.advise_by_content(data) or "not an image") from error


def _open(data: bytes, enough: int | None, max_pixels: int) -> Image.Image:
    image = open_header(data)
    if enough:
        image.draft(None, (enough, enough))
    width, height = image.size
    max_pixels = min(max_pixels, MAX_PIXELS_OF_FORMAT.get(image.format or "", max_pixels))
    if width * height > max_pixels:
        raise ImageError(TOO_LARGE, f"{width} x {height} pixels; the limit is {max_pixels // 10**6} megapixels")
    return image


def _load_unfinished(data: bytes, kind: str, enough: int | None, max_pixels: int) -> Image.Image:
    """Load a file without its end marker; it is complete if what follows cannot change its pixels.

    A JPEG in scans or with restart markers can end on a border between them, where the decoder skips what follows.
    """
    body = _complete_chunks(data) if kind == "PNG" else data.removesuffix(b"\xff")
    one, other = (_open(body + filler + _END_MARKERS[kind], enough, max_pixels) for filler in _FILLERS[kind])
    borders = "progressive" in one.info or (kind == "JPEG" and _RESTART_SEGMENT in body)
    try:
        whole = not borders and one.tobytes() == other.tobytes()
    except (OSError, SyntaxError):
        whole = False
    if not whole:
        raise ImageError("truncated")
    return one


def _complete_chunks(png: bytes) -> bytes:
    at = 8  # after the signature: length, type, data, checksum, again and again
    while at + 12 <= len(png) and (after := at + 12 + int.from_bytes(png[at : at + 4])) <= len(png):
        at = after
    return png[:at]


def _rotate_upright(image: Image.Image) -> Image.Image:
    stored = sum(len(image.info.get(name, b"")) for name in ("exif", "Raw profile type exif"))
    with contextlib.suppress(Exception):  # a broken EXIF block says nothing about the pixels: they stay as stored
        if stored <= MAX_EXIF:
            ImageOps.exif_transpose(image, in_place=True)  # in place, because a copy forgets the TIFF tags
    return image


def _to_rgb_array(image: Image.Image, grey: _GreyRange | None) -> NDArray[np.uint8]:
    """Convert to RGB in bands, so that only the result is as large as the image."""
    if image.width * image.height <= BAND_PIXELS:
        return np.asarray(_to_rgb(image, grey))
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top, band in _iter_bands(image):
        out[top : top + band.height] = np.asarray(_to_rgb(band, grey))
    return out


def _iter_bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield (first row, band of rows from there on) of the image."""
    rows = max(1, BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _to_rgb(image: Image.Image, grey: _GreyRange | None) -> Image.Image:
    if grey:
        return Image.fromarray(grey.scale(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


class _GreyRange(NamedTuple):
    """Grey values other than 0 to 255: which become black and white, and how the file stores them."""

    low: float
    high: float
    stored: str = ""  # numpy's name of what the file has in place of Pillow's type
    inverted: bool = False  # low values are white

    def values(self, image: Image.Image) -> NDArray[Any]:
        return np.asarray(image).view(self.stored) if self.stored else np.asarray(image)

    def scale(self, image: Image.Image) -> NDArray[np.uint8]:
        """Scale to 0..255; nan becomes black, infinity black or white."""
        values = np.nan_to_num(self.values(image).astype(np.float32), nan=self.low, posinf=self.high, neginf=self.low)
        scaled = ((values - self.low) * (255.0 / max(self.high - self.low, 1e-12))).clip(0, 255).round()
        return (255 - scaled if self.inverted else scaled).astype(np.uint8)


def _find_grey_range(image: Image.Image) -> _GreyRange | None:
    """Return how to read grey of other than 8 bits; None for all else. Reads TIFF tags, which a copy loses."""
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if image.mode not in ("I", "F") and not image.mode.startswith("I;") and not (image.mode == "L" and signed):
        return None
    inverted = image.mode != "L" and tags.get(_PHOTOMETRIC) == 0
    if image.mode.startswith("I;"):
        if 8 < bits < 16:  # scanners put 12 bits into 16
            return _GreyRange(0, 2**bits - 1, "", inverted)
        return _GreyRange(0, 2**8 - 1 if _min_max(image, _GreyRange(0, 0))[1] < 2**8 else 2**16 - 1, "", inverted)
    if image.format == "PPM" and image.mode == "I":
        return _GreyRange(0, 2**16 - 1)  # whatever its levels were, Pillow has scaled them
    stored = "int8" if image.mode == "L" else "uint32" if image.mode == "I" and bits == 32 and not signed else ""
    low, high = _min_max(image, _GreyRange(0, 0, stored))
    usual = (255, 2**15 - 1, 2**16 - 1) if signed and bits == 16 else (255, 2**16 - 1)
    top = next((each for each in usual if high <= each), None) if image.mode != "F" and low >= 0 else None
    return _GreyRange(low, high, stored, inverted) if top is None else _GreyRange(0, top, stored, inverted)


def _min_max(image: Image.Image, grey: _GreyRange) -> tuple[float, float]:
    """Return the lowest and the highest finite value."""
    ends = list[tuple[float, float]]()
    for _, band in _iter_bands(image):
        values = grey.values(band)
        finite = values if values.dtype.kind != "f" else values[np.isfinite(values)]
        if finite.size:
            ends.append((float(finite.min()), float(finite.max())))
    if not ends:
        raise ImageError("damaged", "not one value is a finite number")
    return min(low for low, _ in ends), max(high for _, high in ends)
