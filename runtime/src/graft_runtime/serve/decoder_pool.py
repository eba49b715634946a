"""A pool of subprocesses that decode images, each with a time limit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import numpy as np
from numpy.typing import NDArray

from graft_runtime.image import ImageError
from graft_runtime.serve.decoder import REQUEST, RESPONSE

CHUNK = 4 * 2**20  # bytes that a pipe may hold on our side
DIED = "too costly to decode: the decoder gave up"
LATE = "too costly to decode: it takes too long"


class DecoderPool:
    """`count` processes; one that died or took too long is replaced. An image that ends two has a fault."""

    def __init__(self, count: int, seconds: float, memory: int) -> None:
        self.seconds, self.memory = seconds, memory
        self._idle: asyncio.LifoQueue[asyncio.subprocess.Process | None] = asyncio.LifoQueue()
        self._tasks = set[asyncio.Task[NDArray[np.uint8]]]()
        for _ in range(count):
            self._idle.put_nowait(None)

    async def start(self) -> None:
        """Start all processes, so that the first image does not wait."""
        processes = [self._idle.get_nowait() or await self._start_process() for _ in range(self._idle.qsize())]
        for process in processes:
            self._idle.put_nowait(process)

    async def decode(self, data: bytes, enough: int, most: int) -> NDArray[np.uint8]:
        """Decode as graft_runtime.image.decode. Raises ImageError.

        Cancelling does not stop the process: its response must be read before the next request.
        """
        process = await self._idle.get()  # out here, so that whoever is gone by his turn takes none
        task = asyncio.create_task(self._decode_with(process, data, enough, most))
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End all processes."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._idle.empty():
            if process := self._idle.get_nowait():
                await _kill(process)

    async def _decode_with(
        self, process: asyncio.subprocess.Process | None, data: bytes, enough: int, most: int
    ) -> NDArray[np.uint8]:
        try:
            async with asyncio.timeout(self.seconds):
                with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # others end processes, too
                    process = process or await self._start_process()
                    return await _request_decode(process, data, enough, most)
                await _kill(process)
                process = await self._start_process()
                return await _request_decode(process, data, enough, most)
        except TimeoutError as error:
            process = await _kill(process)
            raise ImageError(LATE) from error
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            process = await _kill(process)
            raise ImageError(DIED) from error
        except BaseException:  # whatever it was, the process may be in the middle of an answer
            process = await _kill(process)
            raise
        finally:
            self._idle.put_nowait(process)

    async def _start_process(self) -> asyncio.subprocess.Process:
        """Start a process without the token in its environment and without threads, which would reserve memory."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GRAFT")}
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "graft_runtime.serve.decoder", str(self.memory)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=CHUNK,
            env=environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the server, which ends it when all is answered
        )

    def _forget(self, task: asyncio.Task[NDArray[np.uint8]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more


async def _request_decode(
    process: asyncio.subprocess.Process, data: bytes, enough: int, most: int
) -> NDArray[np.uint8]:
    assert process.stdin
    assert process.stdout
    process.stdin.write(REQUEST.pack(enough, most, len(data)))
    process.stdin.write(data)
    await process.stdin.drain()
    good, height, width = RESPONSE.unpack(await process.stdout.readexactly(RESPONSE.size))
    if not good:
        raise ImageError((await process.stdout.readexactly(width)).decode())
    return np.frombuffer(await process.stdout.readexactly(height * width * 3), np.uint8).reshape(height, width, 3)


async def _kill(process: asyncio.subprocess.Process | None) -> None:
    if process and process.returncode is None:
        with contextlib.suppress(OSError):  # by its own kill() asyncio misses the end of one that is dead, and warns
            os.kill(process.pid, 9)
    if process:
        await process.wait()
