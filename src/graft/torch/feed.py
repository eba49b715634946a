"""What a phase trains on: batches of cached outputs of the frozen half, or of pictures augmented anew in each epoch.

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

from graft.backbones.graph import cores
from graft.backbones.preprocess import Preprocess
from graft.data.dataset import Dataset, pixels
from graft.errors import DataError
from graft.torch import engine
from graft.torch.augment import Augment
from graft.training.embed import Embedded, view_id
from graft_runtime.image import ImageError

Rows = NDArray[np.integer]
KEPT = 2 << 30  # bytes of decoded pictures kept in memory
AHEAD = 2  # batches prepared while the network trains


@runtime_checkable
class Feed(Protocol):
    """Inputs of the tuned half for rows of a table of pictures."""

    def batches(self, groups: Sequence[Rows], epoch: int) -> Iterator[Tensor]:
        """One batch for each group of rows, as this epoch shows them."""
        ...

    def still(self, rows: Rows) -> Tensor:
        """The rows as they will be judged."""
        ...


class Stored:
    """What crosses the border, from the store; each epoch shows the next one of a picture's views."""

    def __init__(self, embedded: Embedded, shape: Sequence[int], views: int) -> None:
        self.embedded, self.shape, self.views = embedded, tuple(shape), views

    def batches(self, groups: Sequence[Rows], epoch: int) -> Iterator[Tensor]:
        for rows in groups:
            yield self._read(rows, [self.view(int(row), epoch) for row in rows])

    def still(self, rows: Rows) -> Tensor:
        return self._read(rows, [0] * len(rows))

    def view(self, row: int, epoch: int) -> int:
        """Which view of this picture is shown: they take turns, starting with one that its content decides."""
        return (int(self.embedded.digests[row][0]) + epoch) % self.views

    def _read(self, rows: Rows, views: Sequence[int]) -> Tensor:
        names = (self.embedded.digests[row].tobytes() for row in rows)
        keys = [(name, view_id(self.embedded.seed, view)) for name, view in zip(names, views, strict=True)]
        return torch.from_numpy(self.embedded.store.read(keys)).unflatten(1, self.shape)


class Pictures:
    """Pictures from their files, cropped and augmented; then through the frozen half, where there is one."""

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
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._room = KEPT

    def batches(self, groups: Sequence[Rows], epoch: int) -> Iterator[Tensor]:
        """Decoded and cropped by threads, AHEAD of the network; the rest of the augmentation in this thread."""
        with ThreadPoolExecutor(cores()) as threads:
            waiting: deque[list[Future[Tensor]]] = deque()
            for place in range(len(groups) + AHEAD):
                if place < len(groups):
                    waiting.append([threads.submit(self._cropped, int(row), epoch) for row in groups[place]])
                if place >= AHEAD:
                    made = zip(groups[place - AHEAD], waiting.popleft(), strict=True)
                    yield self._through(torch.stack([self._augmented(crop, int(row), epoch) for row, crop in made]))

    def still(self, rows: Rows) -> Tensor:
        with ThreadPoolExecutor(cores()) as threads:
            made = list(threads.map(lambda row: self._prepared(int(row)), rows))
        return self._through(torch.stack(made))

    def _through(self, batch: Tensor) -> Tensor:
        return self.frozen(batch.to(engine.device()))

    def _prepared(self, row: int) -> Tensor:
        return torch.from_numpy(self.preprocess.prepare(self._decoded(row)))

    def _cropped(self, row: int, epoch: int) -> Tensor:
        picture = self._decoded(row)
        height, width = picture.shape[:2]
        crop = self.augment.box(self.seed, epoch, self.digests[row].tobytes(), 0, width, height)
        if crop is None:
            return torch.from_numpy(self.preprocess.prepare(picture))
        box = (crop.left, crop.top, crop.width, crop.height)
        return torch.from_numpy(self.preprocess.prepare_crop(picture, box, crop.flip))

    def _augmented(self, crop: Future[Tensor], row: int, epoch: int) -> Tensor:
        return self.augment.pixels(crop.result(), self.seed, epoch, self.digests[row].tobytes(), 0)

    def _decoded(self, row: int) -> NDArray[np.uint8]:
        """The picture's pixels; decoded once, while there is room to keep them."""
        if row in self._kept:
            return self._kept[row]
        try:
            picture = pixels(self.data.read(row), self.preprocess.enough)
        except (ImageError, OSError) as error:
            raise DataError(f"{self.data.name(row)} could be read before, and now cannot: {error}.") from error
        if picture.nbytes <= self._room:
            self._room -= picture.nbytes
            self._kept[row] = picture
        return picture
