"""What a network's pretrained weights expect of an image: facts that belong to the weights and travel with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise as the weights were trained.

    `resize` is the short side in pixels before the centre crop of `size`; `mean` and `std` are on the scale 0 to 1.
    """

    size: int = 224
    resize: int = 256
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
