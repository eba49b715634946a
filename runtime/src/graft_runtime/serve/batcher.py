"""Dynamic batching: decoded images of one size go through the network together.

No image waits for a batch to fill: those that arrive while the network is busy form the next one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.predictor import BATCH_SIZE, MAX_BATCH_PIXELS, Predictor

Outputs = dict[str, NDArray[Any]]  # of one image, by name


@dataclass(eq=False)
class QueuedImage:
    """An image in the queue, and the future of its outputs."""

    predictor: Predictor
    pixels: NDArray[np.uint8]
    outputs: tuple[str, ...]
    result: asyncio.Future[Outputs] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def can_batch_with(self, other: QueuedImage) -> bool:
        """Whether both can go through the network in one batch."""
        mine, others = (self.predictor, self.outputs), (other.predictor, other.outputs)
        return mine == others and self.pixels.shape == other.pixels.shape


class Batcher:
    """A first-in first-out queue; `on_batch` gets the number of images and the seconds of each batch."""

    def __init__(self, on_batch: Callable[[int, float], None] = lambda images, seconds: None) -> None:
        self._waiting = deque[QueuedImage]()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")  # ONNX Runtime itself takes all cores
        self._on_batch = on_batch
        self.seconds_per_image = 0.0  # moving average

    def __len__(self) -> int:
        return len(self._waiting)

    async def submit(self, predictor: Predictor, pixels: NDArray[np.uint8], outputs: tuple[str, ...]) -> Outputs:
        """Return the outputs for one image; it is skipped if the caller is cancelled."""
        image = QueuedImage(predictor, pixels, outputs)
        self._waiting.append(image)
        self._arrived.set()
        return await image.result

    async def run_forever(self) -> None:
        """Run batches until cancelled."""
        while True:
            await self._arrived.wait()
            if batch := self._next_batch():
                await self._run_batch(batch)
            elif not self._waiting:
                self._arrived.clear()

    def close(self) -> None:
        """Wait for the batch that is under way."""
        self._thread.shutdown()

    def _next_batch(self) -> list[QueuedImage]:
        """Return the first image of the queue and those behind it that can share its batch."""
        batch, others = list[QueuedImage](), deque[QueuedImage]()
        while self._waiting and len(batch) < BATCH_SIZE:
            one = self._waiting.popleft()
            if one.result.done():
                continue
            height, width = one.pixels.shape[:2]
            fits = not batch or (one.can_batch_with(batch[0]) and (len(batch) + 1) * height * width <= MAX_BATCH_PIXELS)
            (batch if fits else others).append(one)
        self._waiting.extendleft(reversed(others))
        return batch

    async def _run_batch(self, batch: list[QueuedImage]) -> None:
        first, loop = batch[0], asyncio.get_running_loop()
        began = loop.time()
        try:
            found = await loop.run_in_executor(self._thread, _run_predictor, batch)
        except Exception as error:  # whatever ONNX Runtime could not do is for those who asked, not the end of the line
            for each in batch:
                if not each.result.done():
                    each.result.set_exception(error)
            return
        spent = loop.time() - began
        self.seconds_per_image = 0.8 * self.seconds_per_image + 0.2 * spent / len(batch)
        self._on_batch(len(batch), spent)
        for row, each in enumerate(batch):
            if not each.result.done():
                each.result.set_result({name: part[row] for name, part in zip(first.outputs, found, strict=True)})


def _run_predictor(batch: list[QueuedImage]) -> list[NDArray[Any]]:
    return batch[0].predictor.run(np.stack([each.pixels for each in batch]), batch[0].outputs)
