"""A picture made small: what pages and exported files carry of it."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

QUALITY = 75


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG in base64, and its sides in pixels."""

    code: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:image/jpeg;base64,{self.code}"


def thumbnail(whole: NDArray[np.uint8], side: int) -> Thumbnail:
    """The picture [height, width, 3] with at most so many pixels along its longer side."""
    small = Image.fromarray(whole)
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    return Thumbnail(base64.b64encode(file.getvalue()).decode(), small.width, small.height)
