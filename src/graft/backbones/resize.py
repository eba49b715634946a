"""The resize, without PyTorch: the very values of its antialiased interpolation of uint8 images.

Torch resizes uint8 in two passes, across and then down, with whole weights of 15 bits, and rounds after each. Here each
pass is a few small products of matrices, each of some neighbouring rows or columns of the result with the pixels that
they are made of. All sums are whole numbers, which float32 holds up to 2^24; where weights are so fine that a sum could
pass that, it is float64. Only the part of the result that is asked for is worked out.

Pixels are moved from 0..255 to -128..127 first, which halves the sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Interpolation = Literal["bicubic", "bilinear"]
Span = tuple[int, int]  # the first, and the one after the last

MIDDLE = 128
BLOCK = 16  # rows or columns of the result in one product; a wider one multiplies more zeros
STRIP = 1 << 16  # pixels that are turned into numbers at a time, so that these stay in the processor's cache
ALONE = 1 << 18  # multiplications up to which OpenBLAS does a product in the calling thread: images are the threads
EXACT = 2**24
REACH = {"bilinear": 1, "bicubic": 2}
BITS = 15  # of the largest weight
FINEST = 22
KEPT = 256  # passes whose weights are remembered; images of one camera are of few sizes


def resized(
    image: NDArray[np.uint8], size: tuple[int, int], rows: Span, columns: Span, interpolation: Interpolation
) -> NDArray[np.uint8]:
    """These rows and columns of an image [height, width, 3] that is resized to `size` (height, width): uint8 [3, ...].

    >>> resized(np.full((5, 7, 3), 9, np.uint8), (4, 4), (1, 3), (0, 4), "bicubic").shape
    (3, 2, 4)
    """
    down = _pass(image.shape[0], size[0], *rows, interpolation)
    across = _pass(image.shape[1], size[1], *columns, interpolation)
    narrow = _across(image[down.first : down.last, across.first : across.last], across, down.kind)
    return _down(narrow, down)


@dataclass(frozen=True, eq=False)
class _Block:
    """Neighbouring places of the result, and the weights of the pixels that they are made of."""

    made: slice
    taken: slice
    weights: NDArray[np.floating[Any]]  # [places, pixels], over the power of two that makes them whole


@dataclass(frozen=True, eq=False)
class _Pass:
    """One axis: the places of the result in blocks, and what is added to each so that cutting off rounds it."""

    first: int  # pixels that are needed at all; blocks count from the first of them
    last: int
    blocks: Sequence[_Block]
    added: NDArray[np.floating[Any]]  # for a result of 0..255

    @property
    def kind(self) -> np.dtype[Any]:
        return self.added.dtype


def _across(image: NDArray[np.uint8], across: _Pass, kind: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """Each row made narrower or wider: [3, height, places], still moved."""
    height, width = image.shape[:2]
    made = np.empty((3, height, len(across.added)), kind)
    step = max(1, min(height, STRIP // width, ALONE // (BLOCK * max(map(_pixels, across.blocks)))))
    for top in range(0, height, step):
        part = image[top : top + step] ^ MIDDLE
        strip = np.empty((3, *part.shape[:2]), across.kind)
        strip[...] = part.view(np.int8).transpose(2, 0, 1)
        sums = np.empty((*strip.shape[:2], len(across.added)), across.kind)
        for block in across.blocks:
            np.matmul(strip[:, :, block.taken], block.weights.T, out=sums[:, :, block.made])
        sums += across.added
        np.clip(sums, 0, 255, out=sums)
        np.floor(sums, out=sums)
        np.subtract(sums, MIDDLE, out=made[:, top : top + step])
    return made


def _down(narrow: NDArray[np.floating[Any]], down: _Pass) -> NDArray[np.uint8]:
    """Each column made lower or higher: the result."""
    sums = np.empty((3, len(down.added), narrow.shape[2]), down.kind)
    step = max(1, ALONE // (BLOCK * max(map(_pixels, down.blocks))))
    for block in down.blocks:
        for left in range(0, narrow.shape[2], step):
            columns = slice(left, left + step)
            np.matmul(block.weights, narrow[:, block.taken, columns], out=sums[:, block.made, columns])
    sums += down.added[:, None]
    np.clip(sums, 0, 255, out=sums)
    return sums.astype(np.uint8)  # cuts off


def _pixels(block: _Block) -> int:
    return block.weights.shape[1]


@lru_cache(KEPT)
def _pass(length: int, size: int, start: int, end: int, interpolation: Interpolation) -> _Pass:
    """From `length` pixels to the places from `start` to `end` of `size`."""
    firsts, whole, unit = _weights(length, size, start, end, interpolation)
    lasts = np.minimum(firsts + whole.shape[1], length)
    first, last = int(firsts[0]), int(lasts.max())
    added = MIDDLE * whole.sum(1) + unit / 2  # of the moved pixels
    largest = MIDDLE * np.abs(whole).sum(1) + np.abs(added - MIDDLE * unit)
    kind = np.dtype(np.float32 if largest.max() <= EXACT else np.float64)
    lows, highs = firsts[::BLOCK], np.maximum.reduceat(lasts, np.arange(0, len(lasts), BLOCK))
    weights = np.zeros((len(firsts), int((highs - lows).max()) + whole.shape[1]), kind)  # taps beyond the image are 0
    places = (firsts - lows.repeat(BLOCK)[: len(firsts)])[:, None] + np.arange(whole.shape[1])
    np.put_along_axis(weights, places, (whole / unit).astype(kind), 1)
    blocks = []
    for top, low, high in zip(range(0, len(firsts), BLOCK), lows.tolist(), highs.tolist(), strict=True):
        made = slice(top, min(top + BLOCK, len(firsts)))
        blocks.append(_Block(made, slice(low - first, high - first), weights[made, : high - low]))
    return _Pass(first, last, tuple(blocks), (added / unit).astype(kind))


def _weights(
    length: int, size: int, start: int, end: int, interpolation: Interpolation
) -> tuple[NDArray[np.intp], NDArray[np.float64], float]:
    """The first pixel of each place, the whole weights of it and those after it, and what they are multiples of.

    All as torch does it, in the same order. The finest unit is that of the largest weight of all places of `size`.
    """
    scale = length / size
    stretch = max(scale, 1.0)
    support = REACH[interpolation] * stretch
    centres = scale * (np.arange(size) + 0.5)
    firsts = np.maximum((centres - support + 0.5).astype(np.intp), 0)
    ends = np.minimum((centres + support + 0.5).astype(np.intp), length)
    taps = np.arange(int((ends - firsts).max()))
    distances = np.abs((taps + (firsts - centres)[:, None] + 0.5) * (1 / stretch))
    values = np.where(taps < (ends - firsts)[:, None], _KERNELS[interpolation](distances), 0.0)
    values /= np.cumsum(values, axis=1)[:, -1:]
    largest = values.max()
    units = 2.0 ** np.arange(FINEST + 1)
    unit = float(units[units * largest + 0.5 < 2**BITS].max(initial=1.0))
    scaled = values[start:end] * unit
    return firsts[start:end], np.trunc(scaled + np.copysign(0.5, scaled)), unit


def _bilinear(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(1 - x, 0)


def _bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


_KERNELS = {"bilinear": _bilinear, "bicubic": _bicubic}
