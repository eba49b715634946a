"""A server in a thread of the test, and images to send to it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import uvicorn
from exported import image

from graft_runtime.serve.app import build_app
from graft_runtime.serve.bounds import Bounds
from graft_runtime.serve.model import Model
from graft_runtime.serve.server import LOCAL, build_config


def until(holds: Callable[[], bool]) -> None:
    """Wait for what comes after the answer: a line in the log, a figure."""
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


TOKEN = "a-token-of-enough-letters"
RED, GREEN = image((90, 10, 10)), image((10, 80, 20), (50, 20))


@dataclass
class Running:
    """A server in a thread of the test, on a port of its own."""

    url: str
    port: int
    model: Model

    def post(self, path: str = "/v1/predict", **keywords: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=30, **keywords)

    def get(self, path: str, **keywords: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **keywords)

    def lives(self) -> bool:
        """Whether the next request is answered as ever."""
        return self.post(content=RED).json()["predictions"][0]["label"] == "red"


@contextmanager
def running(file: Path, bounds: Bounds | None = None, **keywords: Any) -> Iterator[Running]:
    model, limits = Model(file, 1), bounds or Bounds()
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    app = build_app(model, limits, hosts=LOCAL, **keywords)
    server = uvicorn.Server(build_config(app, limits))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    listening.listen(512)  # as the program does
    port = listening.getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", port, model)
    finally:
        server.should_exit = True
        thread.join(40)
        assert not thread.is_alive()


def said(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    connection.settimeout(10)
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)
