"""A web server of our own, and limits that suit it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from web import Web

from graft.jobs.collect.fetch import FetchLimits

QUICK = FetchLimits(
    request_timeout=0.6,
    connect_timeout=0.5,
    read_timeout=0.3,
    backoff=0.02,
    max_retry_after=1.0,
    rate=1000.0,
    allow_private=True,
    max_bytes=200_000,
)


@pytest.fixture
def web(photos: Path) -> Iterator[Web]:
    """The server, with the images of the class folders under /disc/00.png and so on."""
    with Web() as server:
        server.files = {f"/{path.parent.name}/{path.name}": path.read_bytes() for path in sorted(photos.glob("*/*"))}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def quick() -> FetchLimits:
    """Limits of tenths of seconds, for a server of our own."""
    return QUICK
