"""The weights of a classifier's network, named as its file names them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.model.classifier import Classifier
from graft.model.network import Network


def tensors(network: Network) -> dict[str, NDArray[Any]]:
    """All of them: of the backbone, then of the head."""
    own = {f"features.backbone.{name}": each for name, each in network.features.graph.tensors.items()}
    return own | {f"head.{name}": each for name, each in network.head.tensors.items()}


def same(one: Classifier, other: Classifier) -> bool:
    """Whether both have the same weights, bit for bit."""
    mine, theirs = tensors(one.network), tensors(other.network)
    return mine.keys() == theirs.keys() and all(np.array_equal(mine[name], theirs[name]) for name in mine)
