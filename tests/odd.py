"""Images of every awkward kind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)  # pyright: ignore[reportArgumentType]
    return file.getvalue()


def odd_files(folder: Path) -> list[Path]:
    """Images of every awkward kind, as files."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))

    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: a quarter turn
    contents = {
        "row.png": encoded(noise(1, 500, 3)),
        "column.png": encoded(noise(500, 1, 3)),
        "dot.png": encoded(noise(1, 1, 3)),
        "panorama.jpg": encoded(noise(100, 1700, 3), "JPEG"),
        "large.jpg": encoded(noise(1400, 2100, 3), "JPEG"),
        "grey.png": encoded(noise(60, 80)),
        "cmyk.jpg": encoded(noise(60, 80, 3).convert("CMYK"), "JPEG"),
        "turned.jpg": encoded(noise(60, 80, 3), "JPEG", exif=turned),
        "clear.png": encoded(noise(60, 80, 4)),
        "palette.gif": encoded(noise(61, 83, 3).convert("P"), "GIF"),
        "broken.jpg": encoded(noise(60, 80, 3), "JPEG")[:700],
        "text.png": b"no image",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]
