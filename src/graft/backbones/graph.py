"""A network as an ONNX graph with named outputs: what looks at images, without PyTorch.

The graph's structure and its weights are kept apart: the structure is a small ONNX model whose weights are external
data, named as PyTorch names them (`conv_stem.weight`), and the weights are arrays. So a saved classifier holds its
weights once, in model.safetensors, and both ONNX Runtime and PyTorch read them there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PREPARED = "prepared"  # the input: uint8 [n, 3, size, size], resized and cropped, not normalised
TOP = "top"  # the output of the whole backbone, pooled: float32 [n, width]
POOLED = "pooled/"  # + a stage's name: its output averaged over space or tokens, float32 [n, channels]
MAP = "map/"  # + a stage's name: its output as a map, float32 [n, channels, height, width]; not of every stage
LAST = "last"  # the last map of the network, float32 [n, channels, height, width]; not of every network


@dataclass(frozen=True)
class Stage:
    """One link of the chain: its name in the backbone, the shape of what it hands on, and its parameters."""

    name: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True, eq=False)
class Graph:
    """uint8 images [n, 3, size, size] to the outputs by name, any number n.

    `structure` is the ONNX model without its weights, `tensors` are these by name; there may be more of them than the
    structure needs, as PyTorch wants them all. `stages` is the chain, in the order of a forward pass. `averaged` says
    that TOP is nothing but LAST averaged over space: the class activation map of a linear head (Zhou et al. 2016) is
    then exact.
    """

    structure: bytes
    tensors: Mapping[str, NDArray[np.generic]]
    stages: tuple[Stage, ...]
    averaged: bool = False
