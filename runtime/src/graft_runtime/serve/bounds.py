"""Limits of the server: sizes, counts and times."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True)
class Bounds:
    """Limits of a request, in bytes, pixels, images and seconds, and of all requests that are under way together.

    `bytes` are those of a body; `pixels` those of an image, of a JPEG after it was scaled down while it was decoded;
    `images` those of one request. `requests`, `held` bytes and `waiting` images are what all may take at once: beyond
    it a client is asked to come again later. `decoded` images lie between decoder and network, 60 MB each at most;
    the others wait as files. `headers`, `body`, `decode` and `answer` are how long each may take.
    """

    bytes: int = 20 * MB
    pixels: int = 20_000_000
    images: int = 32
    requests: int = 128
    held: int = 256 * MB
    waiting: int = 256
    decoded: int = 16
    connections: int = 1024
    headers: float = 10
    body: float = 30
    decode: float = 10
    answer: float = 30
    memory: int = 1500 * MB  # of a process that decodes
