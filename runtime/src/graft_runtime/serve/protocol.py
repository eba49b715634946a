"""uvicorn's HTTP/1.1 protocol with further limits: of connections, of time for headers and for reading."""

from __future__ import annotations

import asyncio
from collections import Counter
from heapq import nsmallest
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.errors import RequestError
from graft_runtime.serve.upload import SPEED_WINDOW, SpeedMeter, client_network

MAX_HEADER_BYTES = 32 * 2**10  # bytes
READ_BYTES = 32 * 2**10  # bytes in one go: as chunks of one byte they take 0.1 s, for which all others wait


class LimitedProtocol(H11Protocol):
    """Close connections whose headers take too long or whose responses are not read, and those beyond the limit."""

    bounds: ClassVar[Bounds]
    read_timer: asyncio.TimerHandle | None = None
    write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that we hear of all that is not read
        transport.max_size = READ_BYTES
        self.speed, self.address = SpeedMeter(self.loop.time()), client_network(self.client)
        if len(self.connections) > self.bounds.connections and not self._make_room():
            self._refuse(RequestError(503, "busy", "The server has as many connections as it can. Try again.", retry=1))
        else:
            self._start_read_timer()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self.speed.count(len(data), self.loop.time())
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:  # the headers are not whole yet
            self._start_read_timer()
        elif self.conn.our_state is not h11.DONE:
            self._stop_read_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if (
            self.conn.their_state is h11.SEND_BODY and not self.read_timer
        ):  # of a request that was refused: not for ever
            self.read_timer = self.loop.call_later(self.bounds.body, self.transport.close)

    def shutdown(self) -> None:
        """Send `Connection: close` with the last response: else a client would send its next request in vain."""
        if self.cycle and not self.cycle.response_started:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_timer = self.loop.call_later(
            self.bounds.answer, self.transport.abort
        )  # to close it would wait for ever

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_write_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_read_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(RequestError(400, "wrong_http", msg))

    def _make_room(self) -> bool:
        """Close idle connections for this one: the oldest of the address that has most.

        One in a hundred at once, since the search takes as long as answering a request.
        """
        now, others = self.loop.time(), [each for each in self.connections if isinstance(each, LimitedProtocol)]
        waiting = [each for each in others if each is not self and each.is_idle(now)]
        of = Counter(each.address for each in waiting)
        many = 1 + self.bounds.connections // 100
        for each in nsmallest(many, waiting, key=lambda each: (-of[each.address], each.is_busy, each.speed.since)):
            each.give_way()
        return bool(waiting)

    @property
    def is_busy(self) -> bool:
        """Whether a request is under way."""
        return self.cycle is not None and not self.cycle.response_complete

    def is_idle(self, now: float) -> bool:
        """Whether it can be closed without losing a response: incomplete headers, slow sending, or not reading."""
        if self.transport.is_closing():
            return False
        if self.write_timer:
            return now - (self.write_timer.when() - self.bounds.answer) >= SPEED_WINDOW
        if not self.is_busy:
            return True
        return bool(self.cycle and self.cycle.more_body) and self.speed.is_slow(now)

    def give_way(self) -> None:
        """Close this connection in favour of another."""
        if self.write_timer:
            self.transport.abort()
        elif self.cycle and self.cycle.response_complete:
            self.transport.close()  # between two requests: a client that is told nothing sends its next one anew
        else:
            text = "Nothing came for too long, or too slowly, while others waited. Send the request again."
            self._refuse(RequestError(408, "too_slow", text))
            if self.cycle:
                self.cycle.disconnected = True
                self.cycle.message_event.set()

    def _start_read_timer(self) -> None:
        if self.read_timer is None:
            late = RequestError(408, "too_slow", f"The headers did not arrive within {self.bounds.headers:g} seconds.")
            self.read_timer = self.loop.call_later(self.bounds.headers, self._refuse, late)

    def _stop_read_timer(self) -> None:
        if self.read_timer:
            self.read_timer.cancel()
            self.read_timer = None

    def _stop_write_timer(self) -> None:
        if self.write_timer:
            self.write_timer.cancel()
            self.write_timer = None

    def _refuse(self, refusal: RequestError) -> None:
        """Send the error, if the connection still allows it, and close."""
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


def build_protocol(bounds: Bounds) -> type[LimitedProtocol]:
    """Build the protocol class with these limits: uvicorn instantiates it without arguments of ours."""
    return type("Impatient", (LimitedProtocol,), {"bounds": bounds})
