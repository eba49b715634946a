"""Read, decode and resize images in threads on all cores while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from graft.backbones.graph import core_count
from graft.backbones.preprocess import Preprocess
from graft.data.dataset import Dataset, decode_pixels
from graft.progress import ProgressWrapper
from graft_runtime.image import ImageError

PREFETCH = 64  # images prepared before the network asks for them: 64 x 150 kB

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedImage(Generic[T]):
    """The loaded value of the image in this row, or the reason why it could not be loaded."""

    row: int
    value: T | None
    fault: str = ""


def load_each(
    data: Dataset, make: Callable[[bytes | NDArray[np.uint8]], T], watch: ProgressWrapper
) -> Iterator[LoadedImage[T]]:
    """Yield every image in order; `make` gets its stored bytes (or pixels) and is called in threads.

    An image that cannot be read or decoded is yielded with its fault; the iteration goes on.
    """

    def work(row: int) -> LoadedImage[T]:
        try:
            return LoadedImage(row, make(data.read(row)))
        except ImageError as error:
            return LoadedImage(row, None, str(error))
        except OSError as error:
            return LoadedImage(row, None, f"cannot be read: {error.strerror or error}")

    yield from watch(_map_in_threads(work, len(data)), "images", len(data))


def prepare_image(preprocess: Preprocess, raw: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a stored image as the network input, uint8 [3, size, size]. Raises ImageError."""
    return preprocess.prepare(decode_pixels(raw, preprocess.decode_size))


def _map_in_threads(work: Callable[[int], LoadedImage[T]], count: int) -> Iterator[LoadedImage[T]]:
    """Yield results in order, at most PREFETCH of them ahead of the consumer."""
    with ThreadPoolExecutor(core_count()) as threads:
        remaining = iter(range(count))
        ahead: deque[Future[LoadedImage[T]]] = deque(threads.submit(work, row) for row in islice(remaining, PREFETCH))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(threads.submit(work, row) for row in islice(remaining, 1))
        finally:  # on Ctrl-C: do not decode what nobody will use
            for future in ahead:
                future.cancel()
