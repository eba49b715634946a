"""What a network's pretrained weights expect of a picture; it belongs to the weights and travels with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from graft.backbones.resize import Interpolation, resized
from graft_runtime.card import LONGEST

Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise as the weights were trained.

    `resize` is the short side in pixels before the centre crop of `size`; `mean` and `std` are on the scale 0 to 1.
    The resize is torch's antialiased interpolation on uint8, which rounds like Pillow's, worked out without torch.

    >>> Preprocess(size=224, resize=256).prepare(np.zeros((300, 400, 3), np.uint8)).shape
    (3, 224, 224)
    """

    size: int = 224
    resize: int = 256
    interpolation: Interpolation = "bicubic"
    crop: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def enough(self) -> int:
        """The short side, in pixels, from which on a larger decoded picture cannot be told from a smaller one."""
        return 2 * self.resize

    def prepare(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One upright picture [height, width, 3] as the network sees it: uint8 [3, size, size]."""
        height, width = image.shape[:2]
        short = min(height, width)
        image = _centre(image, min(height, LONGEST * short), min(width, LONGEST * short))
        target = self._target(*image.shape[:2])
        top, left = (round((side - self.size) / 2) for side in target)
        rows, columns = (top, top + self.size), (left, left + self.size)
        return resized(image, target, rows, columns, self.interpolation)

    def prepare_crop(self, image: NDArray[np.uint8], box: Box, flip: bool) -> NDArray[np.uint8]:
        """One crop of the picture, stretched to uint8 [3, size, size] and mirrored if asked."""
        left, top, width, height = box
        part, whole = image[top : top + height, left : left + width], (0, self.size)
        crop = resized(part, (self.size, self.size), whole, whole, self.interpolation)
        return crop[:, :, ::-1].copy() if flip else crop  # torch takes no steps backwards

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.crop == "squash":
            return self.resize, self.resize
        short = min(height, width)
        return max(self.resize, self.resize * height // short), max(self.resize, self.resize * width // short)


def _centre(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
