"""The line of decoded pictures before the network: those of one size go through it together.

Nothing waits for company: while the network is busy others arrive, and the next turn takes them along.
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

from graft_runtime.predictor import BATCH, ROOM, Predictor

Outputs = dict[str, NDArray[Any]]  # what the file says of one picture


@dataclass(eq=False)
class Waiting:
    """A picture in the line, and whoever waits for what the network says of it."""

    predictor: Predictor
    pixels: NDArray[np.uint8]
    outputs: tuple[str, ...]
    told: asyncio.Future[Outputs] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def goes_with(self, other: Waiting) -> bool:
        """Whether one run can judge both."""
        mine, others = (self.predictor, self.outputs), (other.predictor, other.outputs)
        return mine == others and self.pixels.shape == other.pixels.shape


class Line:
    """First come, first served; `seen` hears how many pictures each run judged and how long it took."""

    def __init__(self, seen: Callable[[int, float], None] = lambda pictures, seconds: None) -> None:
        self._waiting = deque[Waiting]()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "network")  # ONNX Runtime itself takes all cores
        self._seen = seen
        self.seconds = 0.0  # that a picture took lately

    def __len__(self) -> int:
        return len(self._waiting)

    async def judged(self, predictor: Predictor, pixels: NDArray[np.uint8], outputs: tuple[str, ...]) -> Outputs:
        """What the file says of one picture; a picture whose asker is gone is not judged."""
        mine = Waiting(predictor, pixels, outputs)
        self._waiting.append(mine)
        self._arrived.set()
        return await mine.told

    async def work(self) -> None:
        """Judge whatever comes, until cancelled."""
        while True:
            await self._arrived.wait()
            if batch := self._next():
                await self._run(batch)
            elif not self._waiting:
                self._arrived.clear()

    def close(self) -> None:
        """Waits for the run that is under way."""
        self._thread.shutdown()

    def _next(self) -> list[Waiting]:
        """The first in the line and, of those behind it, as many as can go with it."""
        batch, others = list[Waiting](), deque[Waiting]()
        while self._waiting and len(batch) < BATCH:
            one = self._waiting.popleft()
            if one.told.done():
                continue
            height, width = one.pixels.shape[:2]
            fits = not batch or (one.goes_with(batch[0]) and (len(batch) + 1) * height * width <= ROOM)
            (batch if fits else others).append(one)
        self._waiting.extendleft(reversed(others))
        return batch

    async def _run(self, batch: list[Waiting]) -> None:
        first, loop = batch[0], asyncio.get_running_loop()
        began = loop.time()
        try:
            found = await loop.run_in_executor(self._thread, _judged, batch)
        except Exception as error:  # whatever ONNX Runtime could not do is for those who asked, not the end of the line
            for each in batch:
                if not each.told.done():
                    each.told.set_exception(error)
            return
        spent = loop.time() - began
        self.seconds = 0.8 * self.seconds + 0.2 * spent / len(batch)
        self._seen(len(batch), spent)
        for row, each in enumerate(batch):
            if not each.told.done():
                each.told.set_result({name: part[row] for name, part in zip(first.outputs, found, strict=True)})


def _judged(batch: list[Waiting]) -> list[NDArray[Any]]:
    return batch[0].predictor.run(np.stack([each.pixels for each in batch]), batch[0].outputs)
