"""Run the server: address, token, start and shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn

from graft_runtime.serve.app import build_app
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.corrections import check_folder
from graft_runtime.serve.middleware import GuardMiddleware, log_to_stderr
from graft_runtime.serve.model import Model
from graft_runtime.serve.protocol import MAX_HEADER_BYTES, build_protocol

LOCAL = ("localhost", "127.0.0.1", "[::1]")
GRACE_SECONDS = 30  # seconds that requests under way get when the server is asked to end
BACKLOG = 2048  # connections that the system holds until they are accepted
ACCEPT_BATCH = (
    16  # that are accepted in one go: asyncio would take a whole backlog before it hears that there are too many
)
SPARE_FILES = 128  # open files beside connections: those of decoders, of the model, of answers
MIN_TOKEN_CHARS = 16  # characters that a token has at least


@dataclass(frozen=True)
class Address:
    """Where a server listens, and the token that it asks for, empty for none."""

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """For a browser: the page takes the token from what follows the #, which is sent nowhere."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        shown = _find_own_address() if self.host in ("0.0.0.0", "::") else name
        return f"http://{shown}:{self.port}/" + (f"#token={self.token}" if self.token else "")


def serve(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    corrections: Path | None = None,
    bounds: Bounds | None = None,
    on_start: Callable[[Address], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way; `started` is called when it listens.

    A server that others than this machine can reach asks for a token, and makes one where none is given. Raises
    ValueError for a token that will not do, OSError for an address that cannot be had or a folder that keeps nothing.
    """
    limits = bounds or Bounds()
    if token and (len(token) < MIN_TOKEN_CHARS or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(
            f"A token has at least {MIN_TOKEN_CHARS} ASCII characters without spaces. Leave it out to have one made."
        )
    listening = _listen(host, port)
    limits = replace(limits, connections=_raise_file_limit(limits.connections))
    sys.set_int_max_str_digits(640)  # a JSON of longer numbers takes quadratic time
    with contextlib.closing(listening):
        if corrections:
            check_folder(corrections)
        local = host in ("localhost", "127.0.0.1", "::1")
        address = Address(host, listening.getsockname()[1], token or ("" if local else secrets.token_urlsafe(24)))
        log_to_stderr()
        app = build_app(model, limits, token=address.token, hosts=LOCAL, corrections=corrections)
        server = _Server(build_config(app, limits), lambda: on_start(address))
        try:
            asyncio.run(server.serve(sockets=[listening]))
        except SystemExit as error:
            raise OSError("The server cannot start; the last line of its log says why.") from error


def build_config(app: GuardMiddleware, bounds: Bounds) -> uvicorn.Config:
    """Build the configuration of uvicorn."""
    return uvicorn.Config(
        app,
        http=build_protocol(bounds),
        interface="asgi3",
        ws="none",
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        backlog=ACCEPT_BATCH,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


class _Server(uvicorn.Server):
    """Call `on_start` after the start, and exit normally on a signal, which uvicorn would raise again."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(BACKLOG)  # asyncio has just told the system to hold no more than are accepted in one go
        self.on_start()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        wanted = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in wanted}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def welcome(model: Path, address: Address, corrections: Path | None = None) -> str:
    """Return the text that a terminal shows at the start."""
    lines = [f"{model} answers at {address.url}"]
    if address.token:
        lines.append(f"Programs send the header Authorization: Bearer {address.token}")
    if corrections:
        lines.append(f"Corrected images are kept in {corrections}/CLASS/.")
    return "\n".join([*lines, "Ctrl-C ends it; requests under way are answered first."])


def _listen(host: str, port: int) -> socket.socket:
    """Open a listening socket. Raises OSError with advice."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # By the protocol asyncio knows that it may send at once: else each answer waits 40 ms for the client's kernel.
        listening = socket.socket(found[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, OverflowError) as error:
        raise OSError(f"There is no address {host}:{port} on this machine: {error}.") from error
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        text = f"The server cannot listen on {host}:{port}: {error.strerror}. Choose another --port, or 0 for any."
        raise OSError(text) from error
    return listening


def _raise_file_limit(connections: int) -> int:
    """Raise the limit of open files; return how many connections it allows. Without files no connection is accepted."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = hard if hard != resource.RLIM_INFINITY else max(soft, 2 * connections)
        allowed = max(soft, min(2 * connections, most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        return min(connections, max(allowed - SPARE_FILES, allowed // 4))
    return connections


def _find_own_address() -> str:
    """Return the address of this machine in its network, as far as it is known; nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("10.255.255.255", 1))
        return probe.getsockname()[0]
    return "localhost"
