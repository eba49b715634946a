"""Feature maps: what chosen stages of a network say of each place of an image."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.errors import UsageError
from graft.networks.chain import Stage
from graft.networks.network import AllHeard, Backbone, heard, mapped
from graft.networks.normalise import normalised


class Maps(nn.Module):
    """uint8 images [n, 3, size, size] to the maps of some stages, each flattened, one after the other: [n, d].

    Nothing after the last of the stages is computed. Raises UsageError for a stage without a map.
    """

    def __init__(self, backbone: Backbone, chain: Sequence[Stage], names: Sequence[str]) -> None:
        super().__init__()
        self.backbone, self.preprocess = backbone.module, backbone.preprocess
        self.names = tuple(stage.name for stage in chain if stage.name in names)
        without = [stage for stage in chain if stage.name in names and len(stage.shape) != 3]
        if without:
            having = ", ".join(stage.name for stage in chain if len(stage.shape) == 3)
            raise UsageError(
                f"The stage {without[0].name!r} of {backbone.entry.name} gives no feature map but "
                f"{list(without[0].shape)} numbers for an image. Stages with a map: {having or 'none'}."
            )

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([part.flatten(1) for part in self._maps(images)], dim=1)

    def _maps(self, images: Tensor) -> list[Tensor]:
        with heard(self.backbone, self.names, stop=True) as outputs, suppress(AllHeard):
            self.backbone(normalised(self.preprocess, images))
        return [mapped(name, outputs[name]) for name in self.names]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """(channels, height, width) of each stage's map, in the order of a forward pass."""
        side = self.preprocess.size
        device = next((tensor.device for tensor in self.backbone.parameters()), None)
        with torch.no_grad():
            maps = self._maps(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device))
        return {name: tuple(part.shape[1:]) for name, part in zip(self.names, maps, strict=True)}

    def divided(self, flat: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The maps [n, channels, height, width] of each stage in what `forward` returned."""
        ends = np.cumsum([prod(shape) for shape in self.shapes.values()])
        parts = np.split(flat, ends[:-1], axis=1)
        return {name: part.reshape(-1, *self.shapes[name]) for name, part in zip(self.names, parts, strict=True)}
