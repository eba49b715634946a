"""Network = preprocess + backbone + head."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.catalog import Entry
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import Source
from graft.errors import UsageError
from graft.torch.alone import alone
from graft.torch.head import Head
from graft.torch.normalise import normalised

FORMAT = 2  # of cached features: raise it when decoding, resizing or pooling changes


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier: pictures, normalised, to features [n, width]."""

    entry: Entry
    module: nn.Module
    preprocess: Preprocess
    source: Source

    def example(self) -> Tensor:
        """Two different normalised pictures, so that answers that do not depend on the picture are found out."""
        return example(self.preprocess)


def example(preprocess: Preprocess) -> Tensor:
    """Two different normalised images, so that answers that do not depend on the image are found out."""
    noise = torch.randn(2, 3, preprocess.size, preprocess.size, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([0.3, 2.0]).view(2, 1, 1, 1)


class Features(nn.Module):
    """uint8 pictures [n, 3, size, size] to features [n, d]: chosen layers, each averaged over space, then the last.

    The frozen half of a probe, and the first half of the classifier that it makes. With `top=False` what the backbone
    itself says is left out, and nothing after the last of the layers is computed: early features. With `pool=False` it
    is the map [c, h, w] of one layer, flattened, and nothing else.
    """

    def __init__(
        self, backbone: nn.Module, preprocess: Preprocess, layers: Sequence[str], top: bool = True, pool: bool = True
    ) -> None:
        super().__init__()
        self.backbone, self.preprocess, self.layers = backbone, preprocess, tuple(layers)
        self.top, self.pool = top and pool, pool
        if not pool and len(self.layers) != 1:
            raise UsageError(f"A feature map is that of one layer. Got {len(self.layers)}: {', '.join(self.layers)}.")
        if not self.top and not self.layers:
            raise UsageError("Early features need the name of at least one layer. Got none.")

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.each(images), dim=1)

    def each(self, images: Tensor) -> list[Tensor]:
        """The pooled output of each layer and, last, of the backbone; or the one map, flattened."""
        return self._parts(images) if self.pool else [part.flatten(1) for part in self._parts(images)]

    def _parts(self, images: Tensor) -> list[Tensor]:
        last: list[Tensor] = []
        with heard(self.backbone, self.layers, stop=not self.top) as outputs, suppress(AllHeard):
            last = [self.backbone(normalised(self.preprocess, images))]
        parts = [pooled(outputs[name]) if self.pool else mapped(name, outputs[name]) for name in self.layers]
        return parts + last if self.top else parts

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """How many features each layer gives, the last one last."""
        with torch.no_grad():
            return tuple(part.shape[1] for part in self.each(self.blank()))

    @property
    def width(self) -> int:
        """How many features there are."""
        return sum(self.widths)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of the map, or (d,) of pooled features; raises UsageError where the layer has no map."""
        if self.pool:
            return (self.width,)
        with torch.no_grad():
            return tuple(self._parts(self.blank())[0].shape[1:])

    def blank(self) -> Tensor:
        """One black image, to find out what comes of any."""
        side = self.preprocess.size
        device = next((tensor.device for tensor in self.backbone.parameters()), None)
        return torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)

    def key(self) -> str:
        """A name for what this computes: weights, preprocessing and layers. Features are cached under it."""
        plain = (FORMAT, self.preprocess, self.layers)
        what = plain if self.top and self.pool else (*plain, self.top, self.pool)
        whole = hashlib.sha256(repr(what).encode())
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


class AllHeard(Exception):
    """Ends a forward pass whose remainder nobody needs."""


class LeftOut(nn.Module):
    """Stands where a stage was that a saved classifier does not need, and remembers how large it was."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.parameters_before = parameters

    def forward(self, *_inputs: Any, **_options: Any) -> Tensor:
        raise UsageError("This stage was left out of the saved classifier, as its head reads earlier ones only.")


class _Keep:
    """Keeps the output of a part.

    No inner function: the tests check the types of each one anew whenever it is made, which took a quarter of a fit.
    """

    def __init__(self, outputs: dict[str, Any], name: str) -> None:
        self.outputs, self.name = outputs, name

    def __call__(self, _part: nn.Module, _inputs: object, output: object) -> None:
        self.outputs[self.name] = output


class _Stop:
    """Ends the pass before a part that is not needed."""

    def __init__(self, outputs: dict[str, Any], needed: int) -> None:
        self.outputs, self.needed = outputs, needed

    def __call__(self, _part: nn.Module, _inputs: object) -> None:
        if len(self.outputs) == self.needed:
            raise AllHeard


@contextmanager
def heard(module: nn.Module, names: Sequence[str], stop: bool = False) -> Iterator[dict[str, Any]]:
    """Collects the outputs of the named parts during a forward pass, in the order in which they come.

    With `stop`, AllHeard leaves the forward pass once each of them has come, where the next weights would be used: an
    activation that works in place has then changed the output, as it has in a pass to the end. Alone, as the module may
    be another thread's too, whose passes would be heard here.
    """
    outputs: dict[str, Any] = {}
    with alone(), ExitStack() as stack:
        for name in names:
            stack.callback(module.get_submodule(name).register_forward_hook(_Keep(outputs, name)).remove)
        if stop:
            ending = _Stop(outputs, len(set(names)))
            for part in module.modules():
                if isinstance(part, LeftOut) or next(part.parameters(recurse=False), None) is not None:
                    stack.callback(part.register_forward_pre_hook(ending).remove)
        yield outputs


def pooled(output: Tensor) -> Tensor:
    """A layer's output averaged over space (or over tokens): [n, channels]."""
    if output.ndim == 4:
        return output.mean((1, 2) if channels_last(output) else (2, 3))
    return output.mean(1) if output.ndim == 3 else output


def mapped(name: str, output: Tensor) -> Tensor:
    """A layer's output as a feature map [n, channels, height, width]; UsageError where it has none."""
    if output.ndim != 4:
        raise UsageError(
            f"The layer {name!r} gives no feature map but {list(output.shape[1:])} numbers for a picture, and a conv "
            "head needs a map. Networks made of convolutions have one, so has Swin; for this one choose an mlp head."
        )
    return output.permute(0, 3, 1, 2) if channels_last(output) else output


def channels_last(output: Tensor) -> bool:
    """As Swin in timm lays out its maps: [n, h, w, c]."""
    return bool(output.shape[1] == output.shape[2] != output.shape[3])  # in a traced pass sizes are tensors
