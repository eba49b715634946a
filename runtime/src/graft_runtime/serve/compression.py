"""Decompress request bodies (`Content-Encoding`) piece by piece: a bomb ends at the usual limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from typing import Any

from graft_runtime.serve.errors import RequestError

WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # the wbits argument of zlib
PIECE_BYTES = 2**18  # decompressed at once, while all others wait


async def decompress(chunks: AsyncIterator[bytes], encoding: str) -> AsyncIterator[bytes]:
    """Yield the decompressed chunks. Raises RequestError for other encodings and damaged data."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        async for chunk in chunks:
            yield chunk
        return
    if name not in WINDOW_BITS:
        text = "A body is packed by gzip or deflate, once, or not at all."
        raise RequestError(415, "wrong_encoding", f"{text} Got Content-Encoding {encoding[:40]!r}.")
    decompressor = zlib.decompressobj(WINDOW_BITS[name])
    async for chunk in chunks:
        while True:
            piece = _decompress_piece(decompressor, chunk, name)
            yield piece
            chunk = decompressor.unconsumed_tail
            if not chunk and len(piece) < PIECE_BYTES:
                break
            await asyncio.sleep(0)
        if decompressor.unused_data:
            raise RequestError(400, "wrong_packing", f"Something follows the end of the body's {name}.")
    if not decompressor.eof:
        raise RequestError(400, "wrong_packing", f"The body's {name} is cut short.")


def _decompress_piece(decompressor: Any, chunk: bytes, name: str) -> bytes:
    try:
        return decompressor.decompress(chunk, PIECE_BYTES)
    except zlib.error as error:
        raise RequestError(400, "wrong_packing", f"The body is no {name}: {error}.") from error
