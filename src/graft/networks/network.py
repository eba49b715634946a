"""Network = preprocess + backbone + head."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from graft.networks import catalog, weights
from graft.networks.catalog import Entry
from graft.networks.head import Head
from graft.networks.preprocess import Preprocess
from graft.networks.weights import Source

FORMAT = 1  # of cached features: raise it when decoding, resizing or pooling changes


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier: pictures, normalised, to features [n, width]."""

    entry: Entry
    module: nn.Module
    preprocess: Preprocess
    source: Source

    def example(self) -> Tensor:
        """Two different normalised pictures, so that answers that do not depend on the picture are found out."""
        side = self.preprocess.size
        noise = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        return noise * torch.tensor([0.3, 2.0]).view(2, 1, 1, 1)


def load_backbone(name: str = catalog.DEFAULT, file: Path | None = None, offline: bool = False) -> Backbone:
    """A pretrained backbone of the catalogue, ready to use: eval mode, nothing trainable.

    Raises UsageError for an unknown name and WeightsError where its weights cannot be had or do not fit.
    """
    entry = catalog.find(name)
    source = weights.locate(entry, file, offline)
    whole = catalog.build(entry)
    source = weights.load(entry, whole, source)
    module = catalog.headless(entry, whole).eval().requires_grad_(False)
    return Backbone(entry, module, catalog.preprocess(entry), source)


class Features(nn.Module):
    """uint8 pictures [n, 3, size, size] to features [n, d]: chosen layers, each averaged over space, then the last.

    The frozen half of a probe, and the first half of the classifier that it makes.
    """

    def __init__(self, backbone: nn.Module, preprocess: Preprocess, layers: Sequence[str]) -> None:
        super().__init__()
        self.backbone, self.preprocess, self.layers = backbone, preprocess, tuple(layers)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.each(images), dim=1)

    def each(self, images: Tensor) -> list[Tensor]:
        """The pooled output of each layer and, last, of the backbone."""
        with heard(self.backbone, self.layers) as outputs:
            last = self.backbone(self.preprocess.normalise(images))
        return [pooled(outputs[name]) for name in self.layers] + [last]

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """How many features each layer gives, the last one last."""
        side = self.preprocess.size
        with torch.no_grad():
            return tuple(part.shape[1] for part in self.each(torch.zeros(1, 3, side, side, dtype=torch.uint8)))

    @property
    def width(self) -> int:
        """How many features there are."""
        return sum(self.widths)

    def key(self) -> str:
        """A name for what this computes: weights, preprocessing and layers. Features are cached under it."""
        whole = hashlib.sha256(repr((FORMAT, self.preprocess, self.layers)).encode())
        for name, tensor in sorted(self.backbone.state_dict().items()):
            whole.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()[:32]


class Network(nn.Module):
    """uint8 pictures [n, 3, size, size] to logits [n, classes]."""

    def __init__(self, features: Features, head: Head) -> None:
        super().__init__()
        self.features, self.head = features, head

    @property
    def preprocess(self) -> Preprocess:
        """How to make a picture ready for this network."""
        return self.features.preprocess

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@contextmanager
def heard(module: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Collects the outputs of the named parts during a forward pass, in the order in which they come."""
    outputs: dict[str, Any] = {}

    def listen(name: str) -> torch.utils.hooks.RemovableHandle:
        def keep(_part: nn.Module, _inputs: object, output: object) -> None:
            outputs[name] = output

        return module.get_submodule(name).register_forward_hook(keep)

    handles = [listen(name) for name in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def pooled(output: Tensor) -> Tensor:
    """A layer's output averaged over space (or over tokens): [n, channels]."""
    if output.ndim == 4:
        channels_last = output.shape[1] == output.shape[2] != output.shape[3]  # as Swin in timm: [n, h, w, c]
        return output.mean((1, 2) if channels_last else (2, 3))
    return output.mean(1) if output.ndim == 3 else output
