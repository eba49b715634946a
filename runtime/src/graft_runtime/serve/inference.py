"""Run the images of a request: decode, batch and run the network, in bounded time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft_runtime.decide import NOT_FINITE, find_finite_rows
from graft_runtime.image import ImageError
from graft_runtime.serve.batcher import Batcher, Outputs
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.decoder_pool import DecoderPool
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.metrics import Metrics
from graft_runtime.serve.model import ServedModel
from graft_runtime.serve.request_body import ImageFile


@dataclass(frozen=True, eq=False)
class ImageResult:
    """The outputs of the network for an image of this height and width, or its fault."""

    name: str
    found: Outputs | None = None
    height: int = 0
    width: int = 0
    fault: str = ""


class InferenceQueue:
    """Admit, decode and run images; `waiting` is the number of admitted images without a result."""

    def __init__(self, bounds: Bounds, decoders: DecoderPool, batcher: Batcher, metrics: Metrics) -> None:
        self.bounds, self.decoders, self.batcher, self.metrics = bounds, decoders, batcher, metrics
        self.waiting = 0
        self._decode_slots = asyncio.Semaphore(bounds.decoded)

    async def run_files(
        self, served: ServedModel, files: Sequence[ImageFile], outputs: tuple[str, ...]
    ) -> list[ImageResult]:
        """Run image files, in order. Raises RequestError if too many images wait already, or it takes too long."""
        return await self._admit([self._run_file(served, each, outputs) for each in files])

    async def run_arrays(
        self, served: ServedModel, images: NDArray[np.uint8], outputs: tuple[str, ...]
    ) -> list[ImageResult]:
        """Run decoded images [n, height, width, 3]."""
        named = ((f"image {row}", image) for row, image in enumerate(images))
        return await self._admit([self._run_array(served, name, image, outputs) for name, image in named])

    async def _admit(self, images: list[Coroutine[Any, Any, ImageResult]]) -> list[ImageResult]:
        if self.waiting + len(images) > self.bounds.waiting:
            for each in images:
                each.close()
            raise RequestError(
                429, "busy", f"{self.waiting} images wait already. Try again later.", self.retry_seconds()
            )
        self.waiting += len(images)
        try:
            async with asyncio.timeout(self.bounds.answer), asyncio.TaskGroup() as group:
                tasks = [group.create_task(each) for each in images]
        except TimeoutError as error:
            text = f"There was no answer within {self.bounds.answer:g} seconds. Try again later."
            raise RequestError(503, "busy", text, self.retry_seconds()) from error
        finally:
            self.waiting -= len(images)
        return [task.result() for task in tasks]

    def retry_seconds(self) -> int:
        """Return the seconds until the waiting images will be done."""
        return max(1, math.ceil(self.waiting * self.batcher.seconds_per_image))

    async def _run_file(self, served: ServedModel, file: ImageFile, outputs: tuple[str, ...]) -> ImageResult:
        if not file.data:
            return ImageResult(file.name, fault="empty file")
        async with self._decode_slots:
            with self.metrics.time_stage("decode"):
                try:
                    pixels = await self.decoders.decode(file.data, served.predictor.card.enough, self.bounds.pixels)
                except ImageError as error:
                    return ImageResult(file.name, fault=str(error))
            return await self._run_array(served, file.name, pixels, outputs)

    async def _run_array(
        self, served: ServedModel, name: str, pixels: NDArray[np.uint8], outputs: tuple[str, ...]
    ) -> ImageResult:
        with self.metrics.time_stage("network"):
            found = await self.batcher.submit(served.predictor, pixels, outputs)
        if not find_finite_rows(*(part[None] for part in found.values())).all():
            return ImageResult(name, fault=NOT_FINITE)
        return ImageResult(name, found, *pixels.shape[:2])
