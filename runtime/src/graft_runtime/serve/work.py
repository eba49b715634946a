"""Pictures of one request to what the network says of them: decoded, put in line, judged, all in bounded time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.decide import NO_NUMBER, finite
from graft_runtime.image import ImageError
from graft_runtime.serve.asked import Asked
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.decoders import Decoders
from graft_runtime.serve.line import Line, Outputs
from graft_runtime.serve.metrics import Metrics
from graft_runtime.serve.model import Served
from graft_runtime.serve.refusal import Refusal


@dataclass(frozen=True, eq=False)
class Judged:
    """What the file says of a picture of this height and width, or the fault that kept it from being judged."""

    name: str
    found: Outputs | None = None
    height: int = 0
    width: int = 0
    fault: str = ""


class Work:
    """`waiting` are the pictures that were let in and have no answer yet."""

    def __init__(self, bounds: Bounds, decoders: Decoders, line: Line, metrics: Metrics) -> None:
        self.bounds, self.decoders, self.line, self.metrics = bounds, decoders, line, metrics
        self.waiting = 0
        self._decoded = asyncio.Semaphore(bounds.decoded)

    async def judge(self, served: Served, asked: Sequence[Asked], outputs: tuple[str, ...]) -> list[Judged]:
        """Each picture, in order. Raises Refusal where too many wait already, or it takes too long."""
        return await self._let_in([self._file(served, each, outputs) for each in asked])

    async def judge_pixels(self, served: Served, images: NDArray[np.uint8], outputs: tuple[str, ...]) -> list[Judged]:
        """The same for pictures [n, height, width, 3] that were decoded already."""
        named = ((f"picture {row}", image) for row, image in enumerate(images))
        return await self._let_in([self._pixels(served, name, image, outputs) for name, image in named])

    async def _let_in(self, pictures: list[Coroutine[Any, Any, Judged]]) -> list[Judged]:
        if self.waiting + len(pictures) > self.bounds.waiting:
            for each in pictures:
                each.close()
            raise Refusal(429, "busy", f"{self.waiting} pictures wait already. Try again later.", self.retry())
        self.waiting += len(pictures)
        try:
            async with asyncio.timeout(self.bounds.answer), asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in pictures]
        except TimeoutError as error:
            text = f"There was no answer within {self.bounds.answer:g} seconds. Try again later."
            raise Refusal(503, "busy", text, self.retry()) from error
        finally:
            self.waiting -= len(pictures)
        return [task.result() for task in tasks]

    def retry(self) -> int:
        """In how many seconds those that wait will have been judged."""
        return max(1, math.ceil(self.waiting * self.line.seconds))

    async def _file(self, served: Served, asked: Asked, outputs: tuple[str, ...]) -> Judged:
        if not asked.data:
            return Judged(asked.name, fault="empty file")
        async with self._decoded:
            with self.metrics.timed("decode"):
                try:
                    pixels = await self.decoders.decode(asked.data, served.predictor.card.enough, self.bounds.pixels)
                except ImageError as error:
                    return Judged(asked.name, fault=str(error))
            return await self._pixels(served, asked.name, pixels, outputs)

    async def _pixels(self, served: Served, name: str, pixels: NDArray[np.uint8], outputs: tuple[str, ...]) -> Judged:
        with self.metrics.timed("network"):
            found = await self.line.judged(served.predictor, pixels, outputs)
        if not finite(*(part[None] for part in found.values())).all():
            return Judged(name, fault=NO_NUMBER)
        return Judged(name, found, *pixels.shape[:2])
