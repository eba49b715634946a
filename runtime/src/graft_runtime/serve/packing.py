"""Bodies that come packed, as `Content-Encoding` says, unpacked piece by piece: a bomb ends at the usual limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

from graft_runtime.serve.refusal import Refusal

WAYS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # and what zlib calls them
PIECE = 2**18  # bytes that are unpacked in one go, for which all others wait


async def unpacked(chunks: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """The chunks as they were before they were packed. Raises Refusal for other packings, or what is damaged."""
    way = encoding.strip().lower()
    if way in ("", "identity"):
        async for chunk in chunks:
            yield chunk
        return
    if way not in WAYS:
        text = "A body is packed by gzip or deflate, once, or not at all."
        raise Refusal(415, "wrong_encoding", f"{text} Got Content-Encoding {encoding[:40]!r}.")
    unpacker = zlib.decompressobj(WAYS[way])
    async for chunk in chunks:
        while True:
            piece = _piece(unpacker, chunk, way)
            yield piece
            chunk = unpacker.unconsumed_tail
            if not chunk and len(piece) < PIECE:
                break
            await asyncio.sleep(0)
        if unpacker.unused_data:
            raise Refusal(400, "wrong_packing", f"Something follows the end of the body's {way}.")
    if not unpacker.eof:
        raise Refusal(400, "wrong_packing", f"The body's {way} is cut short.")


def _piece(unpacker: Any, chunk: bytes, way: str) -> bytes:
    try:
        return unpacker.decompress(chunk, PIECE)
    except zlib.error as error:
        raise Refusal(400, "wrong_packing", f"The body is no {way}: {error}.") from error
