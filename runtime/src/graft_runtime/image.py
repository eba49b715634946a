"""Bytes to an upright RGB picture: the one decoder of training, prediction and serving.

Facts behind the rules: Pillow's `verify()` accepts a JPEG cut in half, only a full decode tells; `.convert("RGB")`
turns 16-bit grey into white; a PNG of 500 kB can hold 169 megapixels, so the header is asked before a pixel is decoded;
what else makes a decoder slow or greedy is asked by `limits`.
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

from graft_runtime import kinds, limits

MAX_PIXELS: Final = 64_000_000  # 190 MB as RGB; a JPEG counts after scaling down, so phone photos of 108 MP pass
MAX_OF: Final = {"WEBP": 40_000_000}  # its decoder keeps the picture four times, with transparency
TOO_LARGE: Final = "too large"
TOO_COSTLY: Final = "too costly to decode"
BAND: Final = 4_000_000  # pixels converted at once: a picture of 64 megapixels takes 1 GB where all are
MAX_EXIF: Final = 2 * 2**20  # bytes; Pillow walks over its entries in Python

_END: Final = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82"}
_FILLERS: Final = {"JPEG": (b"\x55" * 512, b"\xaa" * 512), "PNG": (b"", b"")}  # PNG has checksums, JPEG has not
_RESTARTS: Final = b"\xff\xdd\0\4"  # the JPEG segment that announces restart markers
_CHANNELS: Final = (1, 3, 4)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags


class ImageError(ValueError):
    """A picture that cannot be decoded; `reason` is short and the same for the same kind of fault."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file. Raises OSError, and ImageError for what is no file, too large, or of a kind that is
    known not to be decoded."""
    if advice := kinds.of_name(os.fspath(path)):
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


def decode(data: bytes, *, enough: int | None = None, most: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """One picture as upright RGB, uint8 [height, width, 3].

    With `enough`, a JPEG may come back smaller, as long as its short side keeps at least that many pixels: the decoder
    then skips the fine detail that a later resize would throw away. `most` pixels are decoded, at most.
    The first frame of an animation counts; transparency is laid on white; grey of any depth is scaled, not clipped.

    Raises ImageError: empty, not an image, too large, too costly to decode, or damaged. So no file takes more than a
    few seconds of a processor or 1 GB; the limits are in graft_runtime.limits.

    >>> decode(b"GIF89a")
    Traceback (most recent call last):
    graft_runtime.image.ImageError: not an image
    """
    if not data:
        raise ImageError("empty file")
    if found := limits.excess(data, most):
        raise ImageError(TOO_COSTLY, found)
    try:
        image = _loaded(data, enough, most)
        return _pixels(_upright(image), _grey(image))
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(TOO_COSTLY, "not enough memory") from error
    except Exception as error:  # hostile bytes raise nearly everything: OSError, SyntaxError, struct.error, TypeError
        raise ImageError("damaged", f"{type(error).__name__}: {error}") from error


def upright(picture: Image.Image) -> NDArray[np.uint8]:
    """A picture that Pillow has opened already, as `decode` gives it; the original stays as it is."""
    if not picture.width * picture.height:
        raise ImageError("damaged", f"{picture.width} x {picture.height} pixels")
    try:
        return _pixels(_upright(picture.copy()), _grey(picture))
    except OSError as error:  # Pillow decodes at the first copy
        raise ImageError("damaged", f"{type(error).__name__}: {error}") from error


def colour(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """An array in memory as uint8 [height, width, 3]; raises ValueError for one that is no picture.

    Other types are refused: whether 1.0 or 255 is white, nobody can see in an array.
    """
    grey = pixels[..., None] if pixels.ndim == 2 else pixels
    if grey.dtype != np.uint8 or grey.ndim != 3 or grey.shape[2] not in (1, 3) or not grey.size:
        raise ValueError(
            f"An image in memory must be uint8 [height, width] or [height, width, 3]. "
            f"Got {pixels.dtype} {list(pixels.shape)}: {_mended(pixels)}."
        )
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))


def _mended(pixels: NDArray[Any]) -> str:
    """What to do with an array that is no image."""
    shape = pixels.shape[1:] if pixels.ndim == 4 else pixels.shape
    steps = [f"give the {pixels.shape[0]} images of it one by one"] if pixels.ndim == 4 else []
    if len(shape) == 3 and shape[0] in _CHANNELS and shape[2] not in _CHANNELS:
        steps.append("put the channels last, as numpy.moveaxis(image, 0, -1) does")
    elif len(shape) == 3 and shape[2] in (2, 4):
        steps.append("lay the transparency on a background")
    steps += ["scale it to 0..255 and make it uint8"] * (pixels.dtype != np.uint8)
    return ", ".join(steps) or "that is no image"


def _loaded(data: bytes, enough: int | None, most: int) -> Image.Image:
    image = _opened(data, enough, most)
    try:
        image.load()
    except OSError:
        if image.format not in _END:
            raise
        return _unfinished(data, image.format, enough, most)
    return image


def header(data: bytes) -> Image.Image:
    """The file as Pillow opens it, no pixel decoded. Raises ImageError."""
    try:
        return Image.open(io.BytesIO(data), formats=kinds.opened_as(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(TOO_LARGE, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(kinds.of_content(data) or "not an image") from error


def _opened(data: bytes, enough: int | None, most: int) -> Image.Image:
    image = header(data)
    if enough:
        image.draft(None, (enough, enough))
    width, height = image.size
    most = min(most, MAX_OF.get(image.format or "", most))
    if width * height > most:
        raise ImageError(TOO_LARGE, f"{width} x {height} pixels; the limit is {most // 10**6} megapixels")
    return image


def _unfinished(data: bytes, kind: str, enough: int | None, most: int) -> Image.Image:
    """A file without its end marker is whole if whatever follows cannot change it; otherwise pixels are missing.

    A JPEG in scans or with restart markers can end on a border between them, where the decoder skips what follows.
    """
    body = _whole_chunks(data) if kind == "PNG" else data.removesuffix(b"\xff")
    one, other = (_opened(body + filler + _END[kind], enough, most) for filler in _FILLERS[kind])
    borders = "progressive" in one.info or (kind == "JPEG" and _RESTARTS in body)
    try:
        whole = not borders and one.tobytes() == other.tobytes()
    except (OSError, SyntaxError):
        whole = False
    if not whole:
        raise ImageError("truncated")
    return one


def _whole_chunks(png: bytes) -> bytes:
    at = 8  # after the signature: length, type, data, checksum, again and again
    while at + 12 <= len(png) and (after := at + 12 + int.from_bytes(png[at : at + 4])) <= len(png):
        at = after
    return png[:at]


def _upright(image: Image.Image) -> Image.Image:
    stored = sum(len(image.info.get(name, b"")) for name in ("exif", "Raw profile type exif"))
    with contextlib.suppress(Exception):  # a broken EXIF block says nothing about the pixels: they stay as stored
        if stored <= MAX_EXIF:
            ImageOps.exif_transpose(image, in_place=True)  # in place, because a copy forgets the TIFF tags
    return image


def _pixels(image: Image.Image, grey: _Grey | None) -> NDArray[np.uint8]:
    """RGB, band by band, so that nothing but the result is as large as the picture."""
    if image.width * image.height <= BAND:
        return np.asarray(_rgb(image, grey))
    out = np.empty((image.height, image.width, 3), np.uint8)
    for top, band in _bands(image):
        out[top : top + band.height] = np.asarray(_rgb(band, grey))
    return out


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """(first row, the rows from there on) of the picture, piece by piece."""
    rows = max(1, BAND // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _rgb(image: Image.Image, grey: _Grey | None) -> Image.Image:
    if grey:
        return Image.fromarray(grey.scaled(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


class _Grey(NamedTuple):
    """Grey values that are not 0 to 255: those that become black and white, and what Pillow's numbers stand for."""

    low: float
    high: float
    stored: str = ""  # numpy's name of what the file has in place of Pillow's type
    inverted: bool = False  # low values are white

    def values(self, image: Image.Image) -> NDArray[Any]:
        return np.asarray(image).view(self.stored) if self.stored else np.asarray(image)

    def scaled(self, image: Image.Image) -> NDArray[np.uint8]:
        """From 0 to 255; what is no number is black, what is infinite black or white."""
        values = np.nan_to_num(self.values(image).astype(np.float32), nan=self.low, posinf=self.high, neginf=self.low)
        scaled = ((values - self.low) * (255.0 / max(self.high - self.low, 1e-12))).clip(0, 255).round()
        return (255 - scaled if self.inverted else scaled).astype(np.uint8)


def _grey(image: Image.Image) -> _Grey | None:
    """How to read grey of another kind than 8 bits; None for all else. Asks a TIFF's tags, which a copy forgets."""
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(_BITS_PER_SAMPLE, (16,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if image.mode not in ("I", "F") and not image.mode.startswith("I;") and not (image.mode == "L" and signed):
        return None
    inverted = image.mode != "L" and tags.get(_PHOTOMETRIC) == 0
    if image.mode.startswith("I;"):
        if 8 < bits < 16:  # scanners put 12 bits into 16
            return _Grey(0, 2**bits - 1, "", inverted)
        return _Grey(0, 2**8 - 1 if _ends(image, _Grey(0, 0))[1] < 2**8 else 2**16 - 1, "", inverted)
    if image.format == "PPM" and image.mode == "I":
        return _Grey(0, 2**16 - 1)  # whatever its levels were, Pillow has scaled them
    stored = "int8" if image.mode == "L" else "uint32" if image.mode == "I" and bits == 32 and not signed else ""
    low, high = _ends(image, _Grey(0, 0, stored))
    usual = (255, 2**15 - 1, 2**16 - 1) if signed and bits == 16 else (255, 2**16 - 1)
    top = next((each for each in usual if high <= each), None) if image.mode != "F" and low >= 0 else None
    return _Grey(low, high, stored, inverted) if top is None else _Grey(0, top, stored, inverted)


def _ends(image: Image.Image, grey: _Grey) -> tuple[float, float]:
    """The lowest and the highest finite value."""
    ends = list[tuple[float, float]]()
    for _, band in _bands(image):
        values = grey.values(band)
        finite = values if values.dtype.kind != "f" else values[np.isfinite(values)]
        if finite.size:
            ends.append((float(finite.min()), float(finite.max())))
    if not ends:
        raise ImageError("damaged", "not one value is a finite number")
    return min(low for low, _ in ends), max(high for _, high in ends)
