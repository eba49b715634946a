"""Memory of requests that arrive: when it is full, those that send too slowly are ended."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from graft_runtime.serve.errors import RequestError

MIN_SPEED = 50_000  # bytes a second: below it a body of 20 MB takes more than ten times as long as it may
SPEED_WINDOW = 1.0  # seconds over which speed is measured, so that a pause of the network is no slowness


class SpeedMeter:
    """The speed at which bytes arrive, over the last second or more."""

    def __init__(self, now: float) -> None:
        self.since, self.new_bytes, self.speed = now, 0, math.inf

    def count(self, size: int, now: float) -> None:
        """Count bytes that arrived."""
        self.new_bytes += size
        if now - self.since >= SPEED_WINDOW:
            self.speed, self.since, self.new_bytes = self.new_bytes / (now - self.since), now, 0

    def is_slow(self, now: float) -> bool:
        """Whether bytes arrive more slowly than MIN_SPEED; never in the first second."""
        spent = now - self.since
        return (self.new_bytes / spent if spent >= SPEED_WINDOW else self.speed) < MIN_SPEED


class Upload:
    """The memory that one request holds until it is answered."""

    def __init__(self, room: UploadBuffer, address: str) -> None:
        self.buffer, self.address = room, address
        self.held = 0
        self.speed = SpeedMeter(asyncio.get_running_loop().time())
        self.timeout: asyncio.Timeout | None = None  # while the body arrives

    def add_bytes(self, size: int) -> None:
        """Reserve further bytes. Raises RequestError if the buffer is full."""
        now = asyncio.get_running_loop().time()
        self.buffer.make_space(size, self, now)
        self.buffer.held += size
        self.held += size
        self.speed.count(size, now)

    @asynccontextmanager
    async def limit_time(self, seconds: float) -> AsyncIterator[None]:
        """Limit the time of reading the body. Raises RequestError if it takes longer, or is ended for others."""
        try:
            async with asyncio.timeout(seconds) as self.timeout:
                yield
        except TimeoutError as error:
            text = f"The request did not arrive within {seconds:g} seconds, or too slowly while others waited."
            raise RequestError(408, "too_slow", text) from error
        finally:
            self.timeout = None

    def release(self) -> None:
        """Release the memory."""
        self.buffer.held -= self.held
        self.held = 0

    def abort(self, now: float) -> None:
        """End this upload in favour of another."""
        self.release()
        if self.timeout:
            self.timeout.reschedule(now)


class UploadBuffer:
    """The memory that all requests under way share."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.held = max_bytes, 0
        self.uploads = set[Upload]()

    @contextmanager
    def open_upload(self, client: Any) -> Iterator[Upload]:
        """Open the upload of a request of this client, and release it at the end."""
        upload = Upload(self, client_network(client))
        self.uploads.add(upload)
        try:
            yield upload
        finally:
            self.uploads.discard(upload)
            upload.release()

    def make_space(self, size: int, asker: Upload, now: float) -> None:
        """Make space for further bytes by ending slow uploads. Raises RequestError if there are none."""
        while self.held + size > self.max_bytes:
            slow = [each for each in self.uploads if each.timeout and each.held and each.speed.is_slow(now)]
            slow = [each for each in slow if each is not asker]
            if not slow:
                raise RequestError(503, "busy", "The server holds as many images as it can. Try again soon.", retry=1)
            of = Counter[str]()
            for each in self.uploads:
                of[each.address] += each.held
            max(slow, key=lambda each: (of[each.address], each.held)).abort(now)


def client_network(client: Any) -> str:
    """Return the address of uvicorn's (host, port); for IPv6 its /64 network, as one machine has many addresses."""
    host = client[0] if client else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:  # a socket of the machine itself
        return host
    if isinstance(found, ipaddress.IPv4Address):
        return host
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))
