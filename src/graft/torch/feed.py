"""Input batches of a training phase: cached outputs of the frozen half, or images augmented anew in each epoch.

Both give the same batch for the same rows and epoch, in every process and after every interruption.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.graph import core_count
from graft.backbones.preprocess import Preprocess
from graft.data.dataset import Dataset, decode_pixels
from graft.errors import DataError
from graft.features.embed import Embeddings, view_id
from graft.torch import engine
from graft.torch.augment import Augment
from graft_runtime.image import ImageError

RowIndices = NDArray[np.integer]
MAX_CACHED_BYTES = 2 << 30  # bytes of decoded images kept in memory
PREFETCH_BATCHES = 2  # batches prepared while the network trains


@runtime_checkable
class Feed(Protocol):
    """Inputs of the tuned half for rows of a table of images."""

    def batches(self, groups: Sequence[RowIndices], epoch: int) -> Iterator[Tensor]:
        """One batch for each group of rows, as this epoch shows them."""
        ...

    def read_evaluation_batch(self, rows: RowIndices) -> Tensor:
        """The rows as they will be evaluated."""
        ...


class CachedFeed:
    """What crosses the border, from the store; each epoch shows the next one of an image's views."""

    def __init__(self, embeddings: Embeddings, shape: Sequence[int], views: int) -> None:
        self.embedded, self.shape, self.views = embeddings, tuple(shape), views

    def batches(self, groups: Sequence[RowIndices], epoch: int) -> Iterator[Tensor]:
        for rows in groups:
            yield self._read(rows, [self.choose_view(int(row), epoch) for row in rows])

    def read_evaluation_batch(self, rows: RowIndices) -> Tensor:
        return self._read(rows, [0] * len(rows))

    def choose_view(self, row: int, epoch: int) -> int:
        """Which view of this image is shown: they take turns, starting with one that its content decides."""
        return (int(self.embedded.digests[row][0]) + epoch) % self.views

    def _read(self, rows: RowIndices, views: Sequence[int]) -> Tensor:
        names = (self.embedded.digests[row].tobytes() for row in rows)
        keys = [(name, view_id(self.embedded.seed, view)) for name, view in zip(names, views, strict=True)]
        return torch.from_numpy(self.embedded.store.read(keys)).unflatten(1, self.shape)


class ImageFeed:
    """Images from their files, cropped and augmented; then through the frozen half, where there is one."""

    def __init__(
        self,
        data: Dataset,
        digests: NDArray[np.uint8],
        preprocess: Preprocess,
        augment: Augment,
        seed: int,
        frozen: nn.Module,
    ) -> None:
        self.data, self.digests, self.preprocess = data, digests, preprocess
        self.augment, self.seed, self.frozen = augment, seed, frozen
        self._cache: dict[int, NDArray[np.uint8]] = {}
        self._bytes_left = MAX_CACHED_BYTES

    def batches(self, groups: Sequence[RowIndices], epoch: int) -> Iterator[Tensor]:
        """Decode and crop in threads, PREFETCH_BATCHES ahead of the network; augment the rest in this thread."""
        with ThreadPoolExecutor(core_count()) as threads:
            waiting: deque[list[Future[Tensor]]] = deque()
            for place in range(len(groups) + PREFETCH_BATCHES):
                if place < len(groups):
                    waiting.append([threads.submit(self._load_cropped, int(row), epoch) for row in groups[place]])
                if place >= PREFETCH_BATCHES:
                    made = zip(groups[place - PREFETCH_BATCHES], waiting.popleft(), strict=True)
                    yield self._run_frozen(
                        torch.stack([self._augment_crop(crop, int(row), epoch) for row, crop in made])
                    )

    def read_evaluation_batch(self, rows: RowIndices) -> Tensor:
        with ThreadPoolExecutor(core_count()) as threads:
            made = list(threads.map(lambda row: self._load_prepared(int(row)), rows))
        return self._run_frozen(torch.stack(made))

    def _run_frozen(self, batch: Tensor) -> Tensor:
        return self.frozen(batch.to(engine.device()))

    def _load_prepared(self, row: int) -> Tensor:
        return torch.from_numpy(self.preprocess.prepare(self._decode(row)))

    def _load_cropped(self, row: int, epoch: int) -> Tensor:
        image = self._decode(row)
        height, width = image.shape[:2]
        crop = self.augment.draw_box(self.seed, epoch, self.digests[row].tobytes(), 0, width, height)
        if crop is None:
            return torch.from_numpy(self.preprocess.prepare(image))
        box = (crop.left, crop.top, crop.width, crop.height)
        return torch.from_numpy(self.preprocess.prepare_crop(image, box, crop.flip))

    def _augment_crop(self, crop: Future[Tensor], row: int, epoch: int) -> Tensor:
        return self.augment.change_pixels(crop.result(), self.seed, epoch, self.digests[row].tobytes(), 0)

    def _decode(self, row: int) -> NDArray[np.uint8]:
        """The image's pixels; decoded once, while there is room to keep them."""
        if row in self._cache:
            return self._cache[row]
        try:
            image = decode_pixels(self.data.read(row), self.preprocess.decode_size)
        except (ImageError, OSError) as error:
            raise DataError(f"{self.data.name(row)} could be read before, and now cannot: {error}.") from error
        if image.nbytes <= self._bytes_left:
            self._bytes_left -= image.nbytes
            self._cache[row] = image
        return image
