"""Reference features: what an image is compared with training images by, from the layers chosen for it.

Everything that compares images goes through here: fit, the saved folder, every export, predict and evaluate.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.torch.network import Features, heard, pooled


class WithReference(nn.Module):
    """uint8 images [n, 3, size, size] to what the head reads [n, d], followed by the reference features [n, w].

    `layers` names the parts of the backbone that the reference features come from, averaged over space. Of several
    each is brought to length 1, so that the cosine of two images is the mean of their cosines by layer. Without a name
    it is the last layer that the head reads. One forward pass gives both, in one tensor, as compiled networks have it.

    Raises AttributeError for a layer that the backbone does not have.
    """

    def __init__(self, features: Features, layers: Sequence[str] = ()) -> None:
        super().__init__()
        self.features, self.layers = features, tuple(layers)

    def forward(self, images: Tensor) -> Tensor:
        parts, reference = self.each(images)
        return torch.cat([*parts, reference], dim=1)

    def each(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the head reads, layer by layer, and the reference features."""
        with heard(self.features.backbone, self.layers) as outputs:
            parts = self.features.each(images)
        if not self.layers:
            return parts, last_of(self.features, parts)
        return parts, torch.cat([functional.normalize(pooled(outputs[name])) for name in self.layers], dim=1)

    @cached_property
    def width(self) -> int:
        """How many reference features there are."""
        with torch.no_grad():
            return self.each(self.features.blank())[1].shape[1]


def last_of(features: Features, parts: list[Tensor]) -> Tensor:
    """Of what each layer says the last [n, d]; a map is averaged over space."""
    return parts[-1] if features.pool else parts[-1].unflatten(1, features.shape).mean((2, 3))
