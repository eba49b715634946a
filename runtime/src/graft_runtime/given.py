"""What a caller gives as images: one, or any number of them in whatever can be gone through."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

KINDS = "a path, the bytes of a file, a PIL image, or a uint8 array [height, width] or [height, width, 3]"
NUMBERS = "biufc"  # numpy's kinds of numbers


def many(images: Any) -> Iterable[Any]:
    """A single image as a list of one; a list, tuple, set, stack, generator or iterator as it is.

    Raises ValueError for anything else, so for None.
    """
    if isinstance(images, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or _is_one_array(images):
        return [images]
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
    array = np.asarray(image) if hasattr(image, "__array__") or isinstance(image, list | tuple) else None
    if array is None or not array.ndim or array.dtype.kind not in NUMBERS:
        raise ValueError(f"An image is {KINDS}. Got {_called(image)}, as number {row} from 0.")
    return array


def _is_one_array(images: Any) -> bool:
    """A single image, as against a stack of them."""
    return isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] <= 4))


def _called(given: Any) -> str:
    if given is None:
        return "None"
    name = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    return f"{name}: give what its read() returns" if hasattr(given, "read") else name
