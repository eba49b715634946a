"""Convert the images that a caller passes: one, or an iterable of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

EXPECTED = "a path, the bytes of a file, a PIL image, or a uint8 array [height, width] or [height, width, 3]"
NUMERIC_KINDS = "biufc"  # numpy's kinds of numbers


def as_images(images: Any) -> Iterable[Any]:
    """Return a single image as a list of one; a list, tuple, set, stack, generator or iterator as it is.

    Raises ValueError for anything else, None included.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image):
        return [images]
    if hasattr(images, "__array__") and getattr(images, "ndim", 1) > 1 and not hasattr(images, "columns"):
        return _as_stack(_as_array(images))
    table = type(images).__name__ == "DataFrame"  # of pandas, which is gone through by its columns
    strange = isinstance(images, Mapping) or table or hasattr(images, "read") or not isinstance(images, Iterable)
    if strange or (isinstance(images, np.ndarray) and not images.ndim):
        raise ValueError(
            f"An image is {EXPECTED}; images are any number of these in a list. Got {_describe_type(images)}."
        )
    return images


def as_image(image: Any, row: int) -> Any:
    """Return an image of one of the kinds in EXPECTED: file content as `bytes`, other pixels as an array.

    Raises ValueError for anything else.
    """
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike | bytes | Image.Image):
        return image
    array = _as_array(image) if hasattr(image, "__array__") or isinstance(image, list | tuple) else None
    if array is None or not array.ndim or array.dtype.kind not in NUMERIC_KINDS:
        raise ValueError(f"An image is {EXPECTED}. Got {_describe_type(image)}, as number {row} from 0.")
    return array


def _as_array(pixels: Any) -> NDArray[Any]:
    """Convert pixels of any library to an array. Raises ValueError if that fails, and for a masked array."""
    if np.ma.is_masked(pixels):
        raise ValueError("An array with a mask is no image, for its mask would be lost. Give image.filled(0), perhaps.")
    try:
        return np.asarray(pixels)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors with a gradient, sparse, of 16 bits
        raise ValueError(f"An image is {EXPECTED}. Got {_describe_type(pixels)}, which is no array: {error}") from error


def _as_stack(pixels: NDArray[Any]) -> Iterable[Any]:
    """Return an array of one image as a list of one, a stack as it is."""
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] <= 4):
        return [pixels]
    if pixels.ndim == 3 and pixels.shape[0] in (3, 4):  # tensors of torch have their channels there
        raise ValueError(
            f"{pixels.dtype} {list(pixels.shape)} may be one image with its channels first, or {pixels.shape[0]} grey "
            f"ones. Give numpy.moveaxis(image, 0, -1) for the one, list(images) for the others."
        )
    return pixels


def _describe_type(value: Any) -> str:
    if value is None:
        return "None"
    name = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"{name}: give what its read() returns" if hasattr(value, "read") else name
