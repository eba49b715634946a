"""HTTP/1.1 as uvicorn speaks it, with limits that it has not: of connections, of time for headers and for reading."""

from __future__ import annotations

import asyncio
from collections import Counter
from heapq import nsmallest
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.refusal import Refusal
from graft_runtime.serve.room import SECOND, Meter, address

MOST_HEADERS = 32 * 2**10  # bytes
READ = 32 * 2**10  # bytes in one go: as chunks of one byte they take 0.1 s, for which all others wait


class Impatient(H11Protocol):
    """Ends connections whose headers take too long or whose answers nobody reads, and those that are one too many."""

    bounds: ClassVar[Bounds]
    clock: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that we hear of all that is not read
        transport.max_size = READ
        self.meter, self.address = Meter(self.loop.time()), address(self.client)
        if len(self.connections) > self.bounds.connections and not self._room():
            self._end(Refusal(503, "busy", "The server has as many connections as it can. Try again.", retry=1))
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.meter.count(len(data), self.loop.time())
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # the headers are not whole yet
            self._wait()
        elif self.conn.our_state is not h11.DONE:
            self._waited()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.clock:  # of a request that was refused: not for ever
            self.clock = self.loop.call_later(self.bounds.body, self.transport.close)

    def shutdown(self) -> None:
        """The last answer says that it is: else a client sends its next request to nobody."""
        if self.cycle and not self.cycle.response_started:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = self.loop.call_later(self.bounds.answer, self.transport.abort)  # to close it would wait for ever

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def connection_lost(self, exc: Exception | None) -> None:
        self._waited()
        self._read()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._end(Refusal(400, "wrong_http", msg))

    def _room(self) -> bool:
        """Close connections that only wait, for this one: of the address that has most of them, the oldest.

        One in a hundred at once, since to look for them takes as long as to answer a request.
        """
        now, others = self.loop.time(), [each for each in self.connections if isinstance(each, Impatient)]
        waiting = [each for each in others if each is not self and each.idles(now)]
        of = Counter(each.address for each in waiting)
        many = 1 + self.bounds.connections // 100
        for each in nsmallest(many, waiting, key=lambda each: (-of[each.address], each.busy, each.meter.since)):
            each.give_way()
        return bool(waiting)

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def idles(self, now: float) -> bool:
        """Whether nobody loses an answer with it: it has sent no whole headers, sends too slowly, or does not read."""
        if self.transport.is_closing():
            return False
        if self.unread:
            return now - (self.unread.when() - self.bounds.answer) >= SECOND
        if not self.busy:
            return True
        return bool(self.cycle and self.cycle.more_body) and self.meter.slow(now)

    def give_way(self) -> None:
        """Close it for another."""
        if self.unread:
            self.transport.abort()
        elif self.cycle and self.cycle.response_complete:
            self.transport.close()  # between two requests: a client that is told nothing sends its next one anew
        else:
            text = "Nothing came for too long, or too slowly, while others waited. Send the request again."
            self._end(Refusal(408, "too_slow", text))
            if self.cycle:
                self.cycle.disconnected = True
                self.cycle.message_event.set()

    def _wait(self) -> None:
        if self.clock is None:
            late = Refusal(408, "too_slow", f"The headers did not arrive within {self.bounds.headers:g} seconds.")
            self.clock = self.loop.call_later(self.bounds.headers, self._end, late)

    def _waited(self) -> None:
        if self.clock:
            self.clock.cancel()
            self.clock = None

    def _read(self) -> None:
        if self.unread:
            self.unread.cancel()
            self.unread = None

    def _end(self, refusal: Refusal) -> None:
        """Say why, if the connection still allows a word, and close it."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = refusal.body(self.scope["path"] if self.cycle else "")
            headers = {"content-type": "application/json", "content-length": str(len(body))}
            lines = headers | refusal.headers | {"connection": "close"}
            event = h11.Response(status_code=refusal.status, headers=list(lines.items()))
            for part in (event, h11.Data(data=body), h11.EndOfMessage()):
                if raw := self.conn.send(part):
                    self.transport.write(raw)
        self.transport.close()


def impatient(bounds: Bounds) -> type[Impatient]:
    """The protocol with these limits: uvicorn makes one for each connection, and knows none of them."""
    return type("Impatient", (Impatient,), {"bounds": bounds})
