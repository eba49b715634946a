"""Backbone, features and network as modules: preprocessing, backbone and head."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graft.backbones.catalog import CatalogEntry
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import WeightsSource
from graft.errors import UsageError
from graft.torch.alone import hold_torch_lock
from graft.torch.head import HeadModule
from graft_runtime.card import MAX_ASPECT_RATIO


def normalise(preprocess: Preprocess, batch: Tensor) -> Tensor:
    """uint8 [n, 3, size, size] to the float32 that the network was trained on."""
    mean = torch.tensor(preprocess.mean, device=batch.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(preprocess.std, device=batch.device).view(1, 3, 1, 1) * 255
    return (batch.float() - mean) / std


def prepare_batch(preprocess: Preprocess, images: Tensor) -> Tensor:
    """Images of one size, uint8 [n, height, width, 3], each as `prepare` makes it: uint8 [n, 3, size, size].

    In steps that torch.export follows for any number and size, and can save: no question that the example at hand
    would answer for all others, and whole numbers only.
    """
    short = torch.sym_min(images.shape[1], images.shape[2])
    for axis in (1, 2):
        kept = torch.sym_min(images.shape[axis], MAX_ASPECT_RATIO * short)
        first = (images.shape[axis] - kept) // 2
        # A slice would ask whether it is the whole, since then it is contiguous; below as well.
        images = images.index_select(axis, torch.arange(first, first + kept, device=images.device))
    sides = _resize_sides(preprocess, images.shape[1], images.shape[2])
    resized = functional.interpolate(
        images.permute(0, 3, 1, 2), size=sides, mode=preprocess.interpolation, antialias=True
    )
    for axis, side in enumerate(sides, 2):
        spare = side - preprocess.size
        first = (spare + spare // 2 % 2) // 2  # half of it, halves to even
        resized = resized.index_select(axis, torch.arange(preprocess.size, device=resized.device) + first)
    return resized.contiguous()


def _resize_sides(preprocess: Preprocess, height: Any, width: Any) -> tuple[Any, Any]:
    """As Preprocess finds it; what torch.export has in place of the numbers takes no `min`."""
    if preprocess.crop == "squash":
        return preprocess.resize, preprocess.resize
    short = torch.sym_min(height, width)
    high, wide = (torch.sym_max(preprocess.resize, preprocess.resize * side // short) for side in (height, width))
    return high, wide


# --- modules ----------------------------------------------------------------------------------------------------------


FORMAT = 2  # of cached features: raise it when decoding, resizing or pooling changes


@dataclass(frozen=True)
class BackboneModule:
    """A network without its classifier: images, normalised, to features [n, width]."""

    entry: CatalogEntry
    module: nn.Module
    preprocess: Preprocess
    source: WeightsSource

    def example_images(self) -> Tensor:
        """Two different normalised images, so that answers that do not depend on the image are found out."""
        return build_example_images(self.preprocess)


def build_example_images(preprocess: Preprocess) -> Tensor:
    """Two different normalised images, so that answers that do not depend on the image are found out."""
    noise = torch.randn(2, 3, preprocess.size, preprocess.size, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([0.3, 2.0]).view(2, 1, 1, 1)


class FeaturesModule(nn.Module):
    """uint8 images [n, 3, size, size] to features [n, d]: chosen layers, each averaged over space, then the last.

    The frozen half of a probe, and the first half of the classifier that it makes. With `top=False` the output of the
    backbone itself is left out, and nothing after the last of the layers is computed: early features. With `pool=False`
    it is the map [c, h, w] of one layer, flattened, and nothing else.
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
        return torch.cat(self.forward_parts(images), dim=1)

    def forward_parts(self, images: Tensor) -> list[Tensor]:
        """The pooled output of each layer and, last, of the backbone; or the one map, flattened."""
        return self._forward_layers(images) if self.pool else [part.flatten(1) for part in self._forward_layers(images)]

    def _forward_layers(self, images: Tensor) -> list[Tensor]:
        last: list[Tensor] = []
        with collect_outputs(self.backbone, self.layers, stop=not self.top) as outputs, suppress(ForwardStopped):
            last = [self.backbone(normalise(self.preprocess, images))]
        parts = [
            pool_output(outputs[name]) if self.pool else to_feature_map(name, outputs[name]) for name in self.layers
        ]
        return parts + last if self.top else parts

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """How many features each layer gives, the last one last."""
        with torch.no_grad():
            return tuple(part.shape[1] for part in self.forward_parts(self.blank_image()))

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
            return tuple(self._forward_layers(self.blank_image())[0].shape[1:])

    def blank_image(self) -> Tensor:
        """One black image, to find out what comes of any."""
        side = self.preprocess.size
        device = next((tensor.device for tensor in self.backbone.parameters()), None)
        return torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)

    def cache_key(self) -> str:
        """A name for what this computes: weights, preprocessing and layers. Features are cached under it."""
        plain = (FORMAT, self.preprocess, self.layers)
        what = plain if self.top and self.pool else (*plain, self.top, self.pool)
        whole = hashlib.sha256(repr(what).encode())
        for name, tensor in sorted(self.backbone.state_dict().items()):
            whole.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()[:32]


class NetworkModule(nn.Module):
    """uint8 images [n, 3, size, size] to logits [n, classes]."""

    def __init__(self, features: FeaturesModule, head: HeadModule) -> None:
        super().__init__()
        self.features, self.head = features, head

    @property
    def preprocess(self) -> Preprocess:
        """How to make an image ready for this network."""
        return self.features.preprocess

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class ForwardStopped(Exception):
    """Ends a forward pass whose remainder nobody needs."""


class DroppedStage(nn.Module):
    """Stands where a stage was that a saved classifier does not need, and remembers how large it was."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.parameters_before = parameters

    def forward(self, *_inputs: Any, **_options: Any) -> Tensor:
        raise UsageError("This stage was left out of the saved classifier, as its head reads earlier ones only.")


class _OutputHook:
    """Keeps the output of a part.

    No inner function: the tests check the types of each one anew whenever it is made, which took a quarter of a fit.
    """

    def __init__(self, outputs: dict[str, Any], name: str) -> None:
        self.outputs, self.name = outputs, name

    def __call__(self, _part: nn.Module, _inputs: object, output: object) -> None:
        self.outputs[self.name] = output


class _StopHook:
    """Ends the pass before a part that is not needed."""

    def __init__(self, outputs: dict[str, Any], needed: int) -> None:
        self.outputs, self.needed = outputs, needed

    def __call__(self, _part: nn.Module, _inputs: object) -> None:
        if len(self.outputs) == self.needed:
            raise ForwardStopped


@contextmanager
def collect_outputs(module: nn.Module, names: Sequence[str], stop: bool = False) -> Iterator[dict[str, Any]]:
    """Collect the outputs of the named parts during a forward pass, in the order in which they come.

    With `stop`, ForwardStopped ends the forward pass once each of them has come, where the next weights would be used:
    an activation that works in place has then changed the output, as it has in a pass to the end. Holds the lock, as
    another thread may run the same module, whose outputs would be collected here.
    """
    outputs: dict[str, Any] = {}
    with hold_torch_lock(), ExitStack() as stack:
        for name in names:
            stack.callback(module.get_submodule(name).register_forward_hook(_OutputHook(outputs, name)).remove)
        if stop:
            ending = _StopHook(outputs, len(set(names)))
            for part in module.modules():
                if isinstance(part, DroppedStage) or next(part.parameters(recurse=False), None) is not None:
                    stack.callback(part.register_forward_pre_hook(ending).remove)
        yield outputs


def pool_output(output: Tensor) -> Tensor:
    """A layer's output averaged over space (or over tokens): [n, channels]."""
    if output.ndim == 4:
        return output.mean((1, 2) if is_channels_last(output) else (2, 3))
    return output.mean(1) if output.ndim == 3 else output


def to_feature_map(name: str, output: Tensor) -> Tensor:
    """A layer's output as a feature map [n, channels, height, width]; UsageError where it has none."""
    if output.ndim != 4:
        raise UsageError(
            f"The layer {name!r} gives no feature map but {list(output.shape[1:])} numbers for an image, and a conv "
            "head needs a map. Networks made of convolutions have one, so has Swin; for this one choose an mlp head."
        )
    return output.permute(0, 3, 1, 2) if is_channels_last(output) else output


def is_channels_last(output: Tensor) -> bool:
    """As Swin in timm lays out its maps: [n, h, w, c]."""
    return bool(output.shape[1] == output.shape[2] != output.shape[3])  # in a traced pass sizes are tensors


class ReferenceFeatures(nn.Module):
    """uint8 images [n, 3, size, size] to what the head reads [n, d], followed by the reference features [n, w].

    `layers` names the parts of the backbone that the reference features come from, averaged over space. Of several
    each is brought to length 1, so that the cosine of two images is the mean of their cosines by layer. Without a name
    it is the last layer that the head reads. One forward pass gives both, in one tensor, as compiled networks have it.

    Raises AttributeError for a layer that the backbone does not have.
    """

    def __init__(self, features: FeaturesModule, layers: Sequence[str] = ()) -> None:
        super().__init__()
        self.features, self.layers = features, tuple(layers)

    def forward(self, images: Tensor) -> Tensor:
        parts, reference = self.forward_parts(images)
        return torch.cat([*parts, reference], dim=1)

    def forward_parts(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """What the head reads, layer by layer, and the reference features."""
        with collect_outputs(self.features.backbone, self.layers) as outputs:
            parts = self.features.forward_parts(images)
        if not self.layers:
            return parts, pool_last(self.features, parts)
        return parts, torch.cat([functional.normalize(pool_output(outputs[name])) for name in self.layers], dim=1)

    @cached_property
    def width(self) -> int:
        """How many reference features there are."""
        with torch.no_grad():
            return self.forward_parts(self.features.blank_image())[1].shape[1]


def pool_last(features: FeaturesModule, parts: list[Tensor]) -> Tensor:
    """Return the last of the layers' outputs, [n, d]; a map is averaged over space."""
    return parts[-1] if features.pool else parts[-1].unflatten(1, features.shape).mean((2, 3))


@dataclass(frozen=True)
class MapLayer:
    """The part of the backbone whose output is the map.

    `is_averaged` says that what the head reads of the last layer is nothing but this map's average over space: the
    class activation map of a linear head (Zhou et al. 2016) is then exact.
    """

    name: str
    is_averaged: bool


@torch.no_grad()
def find_map_layer(features: FeaturesModule) -> MapLayer | None:
    """Where the last map is, found in one forward pass; None in a network that reads images row by row."""
    backbone, side = features.backbone, features.preprocess.size
    noise = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = (noise * torch.tensor([60, 255]).view(2, 1, 1, 1)).to(torch.uint8)
    with collect_outputs(backbone, [name for name, _ in backbone.named_modules() if name]) as outputs:
        last = pool_last(features, features.forward_parts(images))
    found = None
    for name, output in reversed(outputs.items()):
        feature_map = as_map(backbone, output) if isinstance(output, Tensor) else None
        if feature_map is None or feature_map.shape[2] * feature_map.shape[3] == 1:
            continue
        if feature_map.shape[1] == last.shape[1] and torch.allclose(
            feature_map.mean((2, 3)), last, rtol=1e-4, atol=1e-5
        ):
            return MapLayer(name, True)
        found = found or MapLayer(name, False)
    return found


def as_map(backbone: nn.Module, output: Tensor) -> Tensor | None:
    """An output with places as [n, channels, height, width]; None for any other."""
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if is_channels_last(output) else output
    if output.ndim != 3:
        return None
    side = math.isqrt(output.shape[1])
    rest = output.shape[1] - side * side  # tokens of the class or of nothing come before those of places
    if rest not in (0, 1, getattr(backbone, "num_prefix_tokens", 0)):
        return None
    return output[:, rest:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
