"""What a network's preprocessing does to batches, in PyTorch: training and the exported program work on tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from graft.backbones.preprocess import Preprocess
from graft_runtime.card import LONGEST


def normalised(preprocess: Preprocess, batch: Tensor) -> Tensor:
    """uint8 [n, 3, size, size] to the float32 that the network was trained on."""
    mean = torch.tensor(preprocess.mean, device=batch.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocess.std, device=batch.device).view(1, 3, 1, 1) * 255
    return (batch.float() - mean) / std


def prepared_batch(preprocess: Preprocess, images: Tensor) -> Tensor:
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
    sides = _target(preprocess, images.shape[1], images.shape[2])
    resized = functional.interpolate(
        images.permute(0, 3, 1, 2), size=sides, mode=preprocess.interpolation, antialias=True
    )
    for axis, side in enumerate(sides, 2):
        spare = side - preprocess.size
        first = (spare + spare // 2 % 2) // 2  # half of it, halves to even
        resized = resized.index_select(axis, torch.arange(preprocess.size, device=resized.device) + first)
    return resized.contiguous()


def _target(preprocess: Preprocess, height: Any, width: Any) -> tuple[Any, Any]:
    """As Preprocess finds it; what torch.export has in place of the numbers takes no `min`."""
    if preprocess.crop == "squash":
        return preprocess.resize, preprocess.resize
    short = torch.sym_min(height, width)
    high, wide = (torch.sym_max(preprocess.resize, preprocess.resize * side // short) for side in (height, width))
    return high, wide
