"""Thumbnails: images made small, as JPEG in a data URI."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 75  # of a thumbnail's JPEG


@dataclass(frozen=True)
class Thumbnail:
    """JPEG in base64, and its size in pixels."""

    base64_text: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return f"data:image/jpeg;base64,{self.base64_text}"


def make_thumbnail(image: NDArray[np.uint8], side: int) -> Thumbnail:
    """Scale an image [height, width, 3] to at most `side` pixels along its longer side."""
    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return Thumbnail(base64.b64encode(file.getvalue()).decode(), small.width, small.height)
