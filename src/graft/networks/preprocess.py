"""What a network's pretrained weights expect of a picture; it belongs to the weights and travels with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from graft_runtime.card import LONGEST

Box = tuple[int, int, int, int]  # left, top, width, height in pixels


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop and normalise as the weights were trained.

    `resize` is the short side in pixels before the centre crop of `size`; `mean` and `std` are on the scale 0 to 1.
    The resize is torch's antialiased interpolation on uint8, which rounds like Pillow's and is several times faster.

    >>> Preprocess(size=224, resize=256).prepare(np.zeros((300, 400, 3), np.uint8)).shape
    torch.Size([3, 224, 224])
    """

    size: int = 224
    resize: int = 256
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop: Literal["center", "squash"] = "center"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @property
    def enough(self) -> int:
        """The short side, in pixels, from which on a larger decoded picture cannot be told from a smaller one."""
        return 2 * self.resize

    def prepare(self, image: NDArray[np.uint8]) -> Tensor:
        """One upright picture [height, width, 3] as the network sees it: uint8 [3, size, size]."""
        height, width = image.shape[:2]
        short = min(height, width)
        image = _centre(image, min(height, LONGEST * short), min(width, LONGEST * short))
        resized = self._resized(image, *self._target(*image.shape[:2]))
        top, left = (round((side - self.size) / 2) for side in resized.shape[1:])
        return resized[:, top : top + self.size, left : left + self.size].contiguous()

    def prepare_batch(self, images: Tensor) -> Tensor:
        """Pictures of one size, uint8 [n, height, width, 3], each as `prepare` makes it: uint8 [n, 3, size, size].

        In steps that torch.export follows for any number and size, and can save: no question that the example at hand
        would answer for all others, and whole numbers only.
        """
        short = torch.sym_min(images.shape[1], images.shape[2])
        for axis in (1, 2):
            kept = torch.sym_min(images.shape[axis], LONGEST * short)
            first = (images.shape[axis] - kept) // 2
            # A slice would ask whether it is the whole, since then it is contiguous; below as well.
            images = images.index_select(axis, torch.arange(first, first + kept, device=images.device))
        sides = self._target(images.shape[1], images.shape[2])
        resized = functional.interpolate(
            images.permute(0, 3, 1, 2), size=sides, mode=self.interpolation, antialias=True
        )
        for axis, side in enumerate(sides, 2):
            spare = side - self.size
            first = (spare + spare // 2 % 2) // 2  # half of it, halves to even
            resized = resized.index_select(axis, torch.arange(self.size, device=resized.device) + first)
        return resized.contiguous()

    def prepare_crop(self, image: NDArray[np.uint8], box: Box, flip: bool) -> Tensor:
        """One crop of the picture, stretched to uint8 [3, size, size] and mirrored if asked."""
        left, top, width, height = box
        crop = self._resized(image[top : top + height, left : left + width], self.size, self.size)
        return crop.flip(2) if flip else crop

    def normalise(self, batch: Tensor) -> Tensor:
        """uint8 [n, 3, size, size] to the float32 that the network was trained on."""
        mean = torch.tensor(self.mean, device=batch.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=batch.device).view(1, 3, 1, 1) * 255
        return (batch.float() - mean) / std

    def _target(self, height: Any, width: Any) -> tuple[Any, Any]:  # numbers, or what torch.export has in their place
        if self.crop == "squash":
            return self.resize, self.resize
        short = torch.sym_min(height, width)  # of numbers just their min
        high, wide = (torch.sym_max(self.resize, self.resize * side // short) for side in (height, width))
        return high, wide

    def _resized(self, image: NDArray[np.uint8], height: int, width: int) -> Tensor:
        own = np.require(image, requirements=["C", "W"])  # decoded pictures may be read-only, of which torch warns
        pixels = torch.from_numpy(own).permute(2, 0, 1)[None]
        return functional.interpolate(pixels, size=(height, width), mode=self.interpolation, antialias=True)[0]


def _centre(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]
