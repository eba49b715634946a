"""Preprocessing of images as the pretrained weights expect: in NumPy, and as an ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graft_runtime.card import MAX_ASPECT_RATIO

Interpolation = Literal["bicubic", "bilinear"]
Span = tuple[int, int]  # the first, and the one after the last

MIDDLE = 128  # subtracted from pixels, so that sums stay small enough for exact float32
BLOCK_SIZE = 16  # rows or columns of the result in one product; a wider block multiplies more zeros
STRIP_PIXELS = 1 << 16  # pixels that are converted to floats at a time, so that these stay in the processor's cache
# Multiplications up to which OpenBLAS runs a product in the calling thread: images are processed in parallel already.
SINGLE_THREAD_OPS = 1 << 18
FLOAT32_EXACT_MAX = 2**24  # up to which float32 holds all whole numbers
KERNEL_RADIUS = {"bilinear": 1, "bicubic": 2}
WEIGHT_BITS = 15  # of the largest weight
MAX_WEIGHT_BITS = 22
PASS_CACHE_SIZE = 256  # passes whose weights are cached; images of one camera are of few sizes

Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise images as in the training of the weights.

    `resize` is the short side in pixels before the centre crop of `size`; `mean` and `std` are on the scale 0 to 1.
    The resize is torch's antialiased interpolation on uint8, which rounds like Pillow's, computed without torch.

    >>> Preprocess(size=224, resize=256).prepare(np.zeros((300, 400, 3), np.uint8)).shape
    (3, 224, 224)
    """

    size: int = 224
    resize: int = 256
    interpolation: Interpolation = "bicubic"
    crop: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def decode_size(self) -> int:
        """The short side, in pixels, at which decoding loses nothing visible after the resize."""
        return 2 * self.resize

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return an upright image [height, width, 3] as the network input, uint8 [3, size, size]."""
        height, width = image.shape[:2]
        short = min(height, width)
        image = _crop_centre(image, min(height, MAX_ASPECT_RATIO * short), min(width, MAX_ASPECT_RATIO * short))
        target = self._resized_shape(*image.shape[:2])
        top, left = (round((side - self.size) / 2) for side in target)
        rows, columns = (top, top + self.size), (left, left + self.size)
        return resize_image(image, target, rows, columns, self.interpolation)

    def prepare_crop(self, image: NDArray[np.uint8], box: Box, flip: bool) -> NDArray[np.uint8]:
        """Return a crop of the image, resized to uint8 [3, size, size] and mirrored if `flip`."""
        left, top, width, height = box
        part, whole = image[top : top + height, left : left + width], (0, self.size)
        crop = resize_image(part, (self.size, self.size), whole, whole, self.interpolation)
        return crop[:, :, ::-1].copy() if flip else crop  # a copy, as torch does not support negative strides

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        if self.crop == "squash":
            return self.resize, self.resize
        short = min(height, width)
        return max(self.resize, self.resize * height // short), max(self.resize, self.resize * width // short)


def _crop_centre(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


# --- Resize -----------------------------------------------------------------------------------------------------------


def resize_image(
    image: NDArray[np.uint8], size: tuple[int, int], rows: Span, columns: Span, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """Resize an image [height, width, 3] to `size` (height, width); return these rows and columns, uint8 [3, ...].

    >>> resize_image(np.full((5, 7, 3), 9, np.uint8), (4, 4), (1, 3), (0, 4), "bicubic").shape
    (3, 2, 4)
    """
    down = _plan_pass(image.shape[0], size[0], *rows, interpolation)
    across = _plan_pass(image.shape[1], size[1], *columns, interpolation)
    narrow = _resize_width(image[down.first : down.last, across.first : across.last], across, down.dtype)
    return _resize_height(narrow, down)


@dataclass(frozen=True, eq=False)
class _Block:
    """Neighbouring output positions, and the weights of their input pixels."""

    output_slice: slice
    input_slice: slice
    weights: NDArray[np.floating[Any]]  # [positions, pixels], over the power of two that makes them whole


@dataclass(frozen=True, eq=False)
class _Pass:
    """The resize along one axis: output positions in blocks, and the bias that makes truncation round."""

    first: int  # range of input pixels needed; blocks count from `first`
    last: int
    blocks: Sequence[_Block]
    bias: NDArray[np.floating[Any]]  # for a result of 0..255

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.bias.dtype


def _resize_width(image: NDArray[np.uint8], across: _Pass, kind: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """Resize each row; return [3, height, positions], still less MIDDLE."""
    height, width = image.shape[:2]
    made = np.empty((3, height, len(across.bias)), kind)
    step = max(
        1, min(height, STRIP_PIXELS // width, SINGLE_THREAD_OPS // (BLOCK_SIZE * max(map(_input_count, across.blocks))))
    )
    for top in range(0, height, step):
        part = image[top : top + step] ^ MIDDLE
        strip = np.empty((3, *part.shape[:2]), across.dtype)
        strip[...] = part.view(np.int8).transpose(2, 0, 1)
        sums = np.empty((*strip.shape[:2], len(across.bias)), across.dtype)
        for block in across.blocks:
            np.matmul(strip[:, :, block.input_slice], block.weights.T, out=sums[:, :, block.output_slice])
        sums += across.bias
        np.clip(sums, 0, 255, out=sums)
        np.floor(sums, out=sums)
        np.subtract(sums, MIDDLE, out=made[:, top : top + step])
    return made


def _resize_height(narrow: NDArray[np.floating[Any]], down: _Pass) -> NDArray[np.uint8]:
    """Resize each column; return uint8 [3, positions, width]."""
    sums = np.empty((3, len(down.bias), narrow.shape[2]), down.dtype)
    step = max(1, SINGLE_THREAD_OPS // (BLOCK_SIZE * max(map(_input_count, down.blocks))))
    for block in down.blocks:
        for left in range(0, narrow.shape[2], step):
            columns = slice(left, left + step)
            np.matmul(block.weights, narrow[:, block.input_slice, columns], out=sums[:, block.output_slice, columns])
    sums += down.bias[:, None]
    np.clip(sums, 0, 255, out=sums)
    return sums.astype(np.uint8)  # truncates


def _input_count(block: _Block) -> int:
    return block.weights.shape[1]


@lru_cache(PASS_CACHE_SIZE)
def _plan_pass(length: int, size: int, start: int, end: int, interpolation: Interpolation) -> _Pass:
    """Plan the resize of `length` pixels to `size`, for the positions from `start` to `end`."""
    firsts, whole, unit = _weights(length, size, start, end, interpolation)
    lasts = np.minimum(firsts + whole.shape[1], length)
    first, last = int(firsts[0]), int(lasts.max())
    added = MIDDLE * whole.sum(1) + unit / 2  # adds back what was subtracted from the pixels, and half a unit to round
    largest = MIDDLE * np.abs(whole).sum(1) + np.abs(added - MIDDLE * unit)
    kind = np.dtype(np.float32 if largest.max() <= FLOAT32_EXACT_MAX else np.float64)
    lows, highs = firsts[::BLOCK_SIZE], np.maximum.reduceat(lasts, np.arange(0, len(lasts), BLOCK_SIZE))
    weights = np.zeros((len(firsts), int((highs - lows).max()) + whole.shape[1]), kind)  # taps beyond the image are 0
    places = (firsts - lows.repeat(BLOCK_SIZE)[: len(firsts)])[:, None] + np.arange(whole.shape[1])
    np.put_along_axis(weights, places, (whole / unit).astype(kind), 1)
    blocks = []
    for top, low, high in zip(range(0, len(firsts), BLOCK_SIZE), lows.tolist(), highs.tolist(), strict=True):
        made = slice(top, min(top + BLOCK_SIZE, len(firsts)))
        blocks.append(_Block(made, slice(low - first, high - first), weights[made, : high - low]))
    return _Pass(first, last, tuple(blocks), (added / unit).astype(kind))


def _weights(
    length: int, size: int, start: int, end: int, interpolation: Interpolation
) -> tuple[NDArray[np.intp], NDArray[np.float64], float]:
    """Return the first pixel of each position, the integer weights from there on, and the unit that scales them.

    Computed as torch does, in the same order. The unit depends on the largest weight of all positions of `size`.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    support = KERNEL_RADIUS[interpolation] * stretch
    centres = scale * (np.arange(size) + 0.5)
    firsts = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    ends = np.minimum((centres + support + 0.5).astype(np.intp), length)
    taps = np.arange(int((ends - firsts).max()))
    distances = np.abs((taps + (firsts - centres)[:, None] + 0.5) * (1 / stretch))
    values = np.where(taps < (ends - firsts)[:, None], _KERNELS[interpolation](distances), 0.0)
    values /= np.cumsum(values, axis=1)[:, -1:]
    largest = values.max()
    units = 2.0 ** np.arange(MAX_WEIGHT_BITS + 1)
    unit = float(units[units * largest + 0.5 < 2**WEIGHT_BITS].max(initial=1.0))
    scaled = values[start:end] * unit
    return firsts[start:end], np.trunc(scaled + np.copysign(0.5, scaled)), unit


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_KERNELS = {"bilinear": _bilinear, "bicubic": _bicubic}
