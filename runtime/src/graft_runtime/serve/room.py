"""Room for what requests bring while they arrive: who brings it too slowly gives way where there is none left."""

from __future__ import annotations

import asyncio
import ipaddress
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from graft_runtime.serve.refusal import Refusal

SLOW = 50_000  # bytes a second: below it a body of 20 MB takes more than ten times as long as it may
SECOND = 1.0  # what the speed is measured over, so that a pause of the network is no slowness


class Meter:
    """How fast bytes arrive, over the last second or more."""

    def __init__(self, now: float) -> None:
        self.since, self.fresh, self.speed = now, 0, math.inf

    def count(self, size: int, now: float) -> None:
        """So many bytes arrived."""
        self.fresh += size
        if now - self.since >= SECOND:
            self.speed, self.since, self.fresh = self.fresh / (now - self.since), now, 0

    def slow(self, now: float) -> bool:
        """Whether they come too slowly to keep others waiting; nobody is slow in his first second."""
        spent = now - self.since
        return (self.fresh / spent if spent >= SECOND else self.speed) < SLOW


class Share:
    """What one request holds until it is answered."""

    def __init__(self, room: Room, address: str) -> None:
        self.room, self.address = room, address
        self.held = 0
        self.meter = Meter(asyncio.get_running_loop().time())
        self.clock: asyncio.Timeout | None = None  # while the body arrives

    def take(self, size: int) -> None:
        """So many bytes more. Raises Refusal where no room is left."""
        now = asyncio.get_running_loop().time()
        self.room.make(size, self, now)
        self.room.held += size
        self.held += size
        self.meter.count(size, now)

    @asynccontextmanager
    async def arriving(self, seconds: float) -> AsyncIterator[None]:
        """While the body is read. Raises Refusal where it takes longer, or too long while others need the room."""
        try:
            async with asyncio.timeout(seconds) as self.clock:
                yield
        except TimeoutError as error:
            text = f"The request did not arrive within {seconds:g} seconds, or too slowly while others waited."
            raise Refusal(408, "too_slow", text) from error
        finally:
            self.clock = None

    def leave(self) -> None:
        """Give back what is held."""
        self.room.held -= self.held
        self.held = 0

    def end(self, now: float) -> None:
        """Give way to another."""
        self.leave()
        if self.clock:
            self.clock.reschedule(now)


class Room:
    """The bytes that all requests under way hold together."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self.shares = set[Share]()

    @contextmanager
    def share(self, client: Any) -> Iterator[Share]:
        """What a request of this client holds until it is answered."""
        mine = Share(self, address(client))
        self.shares.add(mine)
        try:
            yield mine
        finally:
            self.shares.discard(mine)
            mine.leave()

    def make(self, size: int, asker: Share, now: float) -> None:
        """Room for so many bytes more, by ending what arrives too slowly. Raises Refusal where there is none."""
        while self.held + size > self.most:
            slow = [each for each in self.shares if each.clock and each.held and each.meter.slow(now)]
            slow = [each for each in slow if each is not asker]
            if not slow:
                raise Refusal(503, "busy", "The server holds as many pictures as it can. Try again soon.", retry=1)
            of = Counter[str]()
            for each in self.shares:
                of[each.address] += each.held
            max(slow, key=lambda each: (of[each.address], each.held)).end(now)


def address(client: Any) -> str:
    """Who asks, from uvicorn's (host, port): in IPv6, of which one machine has many, its network."""
    host = client[0] if client else ""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:  # a socket of the machine itself
        return host
    if isinstance(found, ipaddress.IPv4Address):
        return host
    return str(found.ipv4_mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)))
