"""What a caller gives as images: one, or any number of them in whatever can be gone through."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KINDS = "a path, the bytes of a file, a PIL image, or a uint8 array [height, width] or [height, width, 3]"
NUMBERS = "biufc"  # numpy's kinds of numbers


def many(images: Any) -> Iterable[Any]:
    """A single image as a list of one; a list, tuple, set, stack, generator or iterator as it is.

    Raises ValueError for anything else, so for None.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return [images]
    if hasattr(images, "__array__") and getattr(images, "ndim", 1) > 1 and not hasattr(images, "columns"):
        return _of_array(_array(images))
    table = type(images).__name__ == "DataFrame"  # of pandas, which is gone through by its columns
    strange = isinstance(images, Mapping) or table or hasattr(images, "read") or not isinstance(images, Iterable)
    if strange or (isinstance(images, np.ndarray) and not images.ndim):
        raise ValueError(f"An image is {KINDS}; images are any number of these in a list. Got {_called(images)}.")
    return images


def one(image: Any, row: int) -> Any:
    """An image of one of KINDS: the bytes of a file as `bytes`, whatever else has pixels as an array.

    Raises ValueError for what is no image.
    """
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike | bytes | Image.Image):
        return image
    array = _array(image) if hasattr(image, "__array__") or isinstance(image, list | tuple) else None
    if array is None or not array.ndim or array.dtype.kind not in NUMBERS:
        raise ValueError(f"An image is {KINDS}. Got {_called(image)}, as number {row} from 0.")
    return array


def _array(pixels: Any) -> NDArray[Any]:
    """Numbers of any library as an array. Raises ValueError for what can be none, and for a mask that would be lost."""
    if np.ma.is_masked(pixels):
        raise ValueError("An array with a mask is no image, for its mask would be lost. Give image.filled(0), perhaps.")
    try:
        return np.asarray(pixels)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors with a gradient, sparse, of 16 bits
        raise ValueError(f"An image is {KINDS}. Got {_called(pixels)}, which is no array: {error}") from error


def _of_array(pixels: NDArray[Any]) -> Iterable[Any]:
    """A single image as a list of one, a stack of them as it is."""
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] <= 4):
        return [pixels]
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4):  # tensors of torch have their channels there
        raise ValueError(
            f"{pixels.dtype} {list(pixels.shape)} may be one image with its channels first, or {pixels.shape[0]} grey "
            f"ones. Give numpy.moveaxis(image, 0, -1) for the one, list(images) for the others."
        )
    return pixels


def _called(given: Any) -> str:
    if given is None:
        return "None"
    name = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    return f"{name}: give what its read() returns" if hasattr(given, "read") else name
