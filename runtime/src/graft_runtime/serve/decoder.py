"""A process that decodes pictures for the server: bytes in, pixels out, under a limit of memory.

A fault in a decoder, even one that breaks into it, then ends a process that holds no token and no other picture.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from typing import BinaryIO

import numpy as np

from graft_runtime.image import ImageError, decode

ASKED = struct.Struct("<IQQ")  # enough, most pixels, bytes of the file that follows
TOLD = struct.Struct("<?II")  # whether it went well; then height and width of the pixels, or 0 and the bytes of a fault


def main() -> None:
    """Answer until nothing more is asked; the one argument is how many bytes of memory may be taken."""
    _limit(int(sys.argv[1]))
    while header := sys.stdin.buffer.read(ASKED.size):
        enough, most, size = ASKED.unpack(header)
        _answer(sys.stdout.buffer, sys.stdin.buffer.read(size), enough, most)
        sys.stdout.buffer.flush()


def _answer(out: BinaryIO, data: bytes, enough: int, most: int) -> None:
    try:
        pixels = decode(data, enough=enough, most=most)
    except ImageError as error:
        fault = str(error).encode()
        out.write(TOLD.pack(False, 0, len(fault)) + fault)
    else:
        out.write(TOLD.pack(True, *pixels.shape[:2]))
        out.write(np.ascontiguousarray(pixels).data)


def _limit(memory: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit, macOS does not keep it
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))


if __name__ == "__main__":
    main()
