"""What answers: a frozen graph and a head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graft.backbones.features import Features
from graft.backbones.preprocess import Preprocess
from graft.heads.head import Head


@dataclass(frozen=True, eq=False)
class Network:
    """uint8 images [n, 3, size, size] to logits [n, classes]: features, then a head on them."""

    features: Features
    head: Head

    @property
    def preprocess(self) -> Preprocess:
        """How to make an image ready for this network."""
        return self.features.preprocess

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.head(self.features.compiled(len(images))(images))
