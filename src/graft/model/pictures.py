"""Pictures off the disk, decoded and resized by all cores while the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from graft.backbones.preprocess import Preprocess
from graft.data.dataset import Dataset, pixels
from graft.networks import engine
from graft.progress import Watch
from graft_runtime.image import ImageError

AHEAD = 64  # pictures prepared before the network asks for them: 64 x 150 kB

Made = TypeVar("Made")


@dataclass(frozen=True)
class Picture(Generic[Made]):
    """What was made of the picture in this row, or why it could not be used."""

    row: int
    made: Made | None
    fault: str = ""


def each(data: Dataset, make: Callable[[bytes | NDArray[np.uint8]], Made], watch: Watch) -> Iterator[Picture[Made]]:
    """Every picture in order; `make` gets its stored bytes (or pixels) and is called in threads.

    A picture that cannot be read or decoded comes with its fault and stops nothing.
    """

    def work(row: int) -> Picture[Made]:
        try:
            return Picture(row, make(data.read(row)))
        except ImageError as error:
            return Picture(row, None, str(error))
        except OSError as error:
            return Picture(row, None, f"cannot be read: {error.strerror or error}")

    yield from watch(_in_threads(work, len(data)), "pictures", len(data))


def prepared(preprocess: Preprocess, raw: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A stored picture as the network gets it: uint8 [3, size, size]. Raises ImageError."""
    return preprocess.prepare(pixels(raw, preprocess.enough))


def _in_threads(work: Callable[[int], Picture[Made]], count: int) -> Iterator[Picture[Made]]:
    """Results in order, at most AHEAD of the reader."""
    with ThreadPoolExecutor(engine.cores()) as threads:
        remaining = iter(range(count))
        ahead: deque[Future[Picture[Made]]] = deque(threads.submit(work, row) for row in islice(remaining, AHEAD))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(threads.submit(work, row) for row in islice(remaining, 1))
        finally:  # on Ctrl-C: do not decode what nobody will use
            for future in ahead:
                future.cancel()
