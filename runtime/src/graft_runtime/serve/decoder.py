"""A subprocess that decodes images for the server: bytes in, pixels out, under a limit of memory.

An exploited decoder then only controls a process that holds no token and no other image.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from typing import BinaryIO

import numpy as np

from graft_runtime.image import ImageError, decode

REQUEST = struct.Struct("<IQQ")  # enough, most pixels, bytes of the file that follows
RESPONSE = struct.Struct(
    "<?II"
)  # whether it went well; then height and width of the pixels, or 0 and the bytes of a fault


def main() -> None:
    """Decode requests until the input ends; the one argument is how many bytes of memory may be taken."""
    _limit_memory(int(sys.argv[1]))
    while header := sys.stdin.buffer.read(REQUEST.size):
        enough, most, size = REQUEST.unpack(header)
        _respond(sys.stdout.buffer, sys.stdin.buffer.read(size), enough, most)
        sys.stdout.buffer.flush()


def _respond(out: BinaryIO, data: bytes, enough: int, most: int) -> None:
    try:
        pixels = decode(data, enough=enough, max_pixels=most)
    except ImageError as error:
        fault = str(error).encode()
        out.write(RESPONSE.pack(False, 0, len(fault)) + fault)
    else:
        out.write(RESPONSE.pack(True, *pixels.shape[:2]))
        out.write(np.ascontiguousarray(pixels).data)


def _limit_memory(memory: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit, macOS does not keep it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


if __name__ == "__main__":
    main()
