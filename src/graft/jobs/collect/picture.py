"""Whether what came is a picture, of which kind, and how large."""

from __future__ import annotations

import os
import threading

from graft.jobs.collect.faults import Refused
from graft_runtime.image import ImageError, decode, header

SUFFIXES = {  # MPO: a JPEG of several views; others as they are called
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "TIFF": ".tif",
    "HEIF": ".heic",
    "DIB": ".bmp",
}

# A picture of 64 megapixels takes 200 MB: as many at a time as there are cores, not as there are threads.
_DECODING = threading.BoundedSemaphore(os.cpu_count() or 1)


def examined(data: bytes) -> tuple[str, int, int]:
    """(suffix by content, width, height) of a picture that decodes as a whole, upright. Raises Refused."""
    try:
        with _DECODING:
            height, width, _ = decode(data).shape
    except ImageError as error:
        page = b"<html" in data[:1000].lower() or b"<!doctype html" in data[:1000].lower()
        raise Refused("a web page, no picture" if page else error.reason) from error
    with header(data) as image:
        kind = image.format or ""
    return SUFFIXES.get(kind, f".{kind.lower()}"), width, height
