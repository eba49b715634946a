"""Cut a network, a chain of stages, into a frozen and a tuned half.

No tracing: the frozen half runs the network and stops where the border stage would begin; the tuned half is a copy of
the structure that shares every tensor, with the stages before the border taken out, and goes on from what the border
stage received. Every cut is verified by numbers: both halves in a row must answer like the whole network.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from graft.backbones.graph import Stage
from graft.backbones.preprocess import Preprocess
from graft.errors import CutError, UsageError
from graft.torch import engine
from graft.torch.chain import eval_mode, find_stages, find_weight_layers
from graft.torch.network import (
    FORMAT,
    BackboneModule,
    FeaturesModule,
    ForwardStopped,
    NetworkModule,
    collect_outputs,
    normalise,
    pool_output,
    to_feature_map,
)

TOLERANCE = 1e-3  # of the difference between two images' answers; float32 leaves about 1e-6


@dataclass(frozen=True)
class Halves:
    """A network cut in two; both halves hold its own weights, so training `tuned` trains the network.

    The border is the stage at `border_index` in `chain`, the first one that is tuned; 'head' past the last. The stages
    from `end_index` on stay frozen; without an `until` there are none.
    """

    frozen: nn.Module
    tuned: nn.Module
    chain: tuple[Stage, ...]
    border_index: int
    end_index: int

    @property
    def border(self) -> str:
        """The first stage that is tuned."""
        return self.chain[self.border_index].name if self.border_index < len(self.chain) else "head"


def cut_network(
    network: NetworkModule,
    backbone: BackboneModule,
    at: str | int | float,
    until: str | int | float = "head",
    chain: Sequence[Stage] = (),
) -> Halves:
    """Split before a stage: by name, by index (0 = before all, -1 = before the last), by share of the chain (0 to 1),
    or 'head' (everything frozen but the head).

    Freezes the parameters below the border and makes those above it trainable; nowhere else is this decided. The
    stages from `until` on, named in the same ways, are a part of the tuned half that is not trained. A head that reads
    several layers goes on reading them: those below the border are frozen outputs too. `chain` are the stages of the
    backbone, found by a forward pass unless given.

    Raises CutError, which names the nearest border that works, where more than one tensor crosses, and UsageError
    where no stage lies between the border and `until`.
    """
    chain = chain or find_stages(backbone)
    names = [stage.name for stage in chain]
    place, end = _resolve_index(names, at), _resolve_index(names, until)
    if end <= place and end < len(chain):
        raise UsageError(
            f"'until' must lie above the cut, so that a stage is left to train between them. Got the cut {at}, stage "
            f"{place + 1} of {len(chain)}, and until {until}, stage {end + 1}: `graft stages` lists them."
        )
    frozen, tuned = _split_and_verify(network, backbone, chain, place)
    place = len(chain) if tuned is network.head else place
    network.requires_grad_(False)
    network.head.requires_grad_(True)
    if place == 0:  # and what belongs to no stage: a class token, say
        inside = tuple(f"{stage.name}." for stage in chain)
        for name, parameter in network.features.backbone.named_parameters():
            parameter.requires_grad_(not name.startswith(inside))
    for stage in chain[place : min(end, count_needed_stages(network.features, chain))]:
        network.features.backbone.get_submodule(stage.name).requires_grad_(True)
    return Halves(frozen, tuned, tuple(chain), place, end)


def cut_last_layers(
    network: NetworkModule, backbone: BackboneModule, count: int, chain: Sequence[Stage] = ()
) -> Halves:
    """Split at the nearest border below the last `count` layers, and make the parameters of these alone trainable.

    Layers as a person counts them (`graft.torch.chain`), without the head, which is trained as always. Raises
    UsageError for more layers than there are.
    """
    found = find_weight_layers(network.features)
    if not 1 <= count <= len(found):
        raise UsageError(
            f"'last' must be from 1 to {len(found)}, which is how many layers of {backbone.entry.name} can be trained "
            f"below the head. Got {count}."
        )
    wanted = {tensor for layer in found[-count:] for tensor in layer.tensors}
    chain = chain or find_stages(backbone)
    border = _find_workable_border(network, backbone, chain, _find_lowest_stage(wanted, chain))
    halves = cut_network(network, backbone, border, chain=chain)
    for name, parameter in backbone.module.named_parameters():
        parameter.requires_grad_(name in wanted)
    return halves


def count_needed_stages(features: FeaturesModule, chain: Sequence[Stage]) -> int:
    """The place after the last stage that the head needs."""
    names = [stage.name for stage in chain]
    return len(chain) if features.top else max(names.index(name) for name in features.layers) + 1


def _split_and_verify(
    network: NetworkModule, backbone: BackboneModule, chain: Sequence[Stage], place: int
) -> tuple[nn.Module, nn.Module]:
    if place >= count_needed_stages(network.features, chain):
        return FrozenHalf(network.features, network.features, ()), network.head
    if place == 0:
        return nn.Identity(), network
    frozen, tuned = _split(network, backbone, chain, place)
    if not _is_equivalent(network, frozen, tuned[0], backbone):
        raise CutError(
            f"{backbone.entry.name} cannot be cut before {chain[place].name!r}: more than one tensor crosses there. "
            f"{_describe_nearest_border(network, backbone, chain, place)}"
        )
    return frozen, tuned


def _resolve_index(chain: Sequence[str], at: str | int | float) -> int:
    if at == "head":
        return len(chain)
    if isinstance(at, str):
        if at not in chain:
            raise CutError(f"There is no stage {at!r}. The stages are {', '.join(chain)}, and 'head' after them.")
        return chain.index(at)
    if isinstance(at, float):
        place = round(at * len(chain)) if 0 <= at <= 1 else -1  # nan and inf cannot be rounded
    else:
        place = at + len(chain) * (at < 0)
    if not 0 <= place <= len(chain):
        raise CutError(
            f"A cut is a stage, an index from {-len(chain)} to {len(chain)} or a share from 0.0 to 1.0. Got {at}."
        )
    return place


def _split(
    network: NetworkModule, backbone: BackboneModule, chain: Sequence[Stage], place: int
) -> tuple[FrozenHalf, nn.Sequential]:
    names = [stage.name for stage in chain]
    prefix = _Prefix(
        network.features, names[place], [name for name in network.features.layers if name in names[:place]]
    )
    rest = _Suffix(network.features, names, place, backbone.example_images()[:1])
    return FrozenHalf(prefix, network.features, names[place:]), nn.Sequential(rest, network.head)


@torch.no_grad()
def _is_equivalent(network: NetworkModule, frozen: nn.Module, rest: nn.Module, backbone: BackboneModule) -> bool:
    """Whether both halves in a row answer like the network, judged by how much two images' features differ."""
    images = (backbone.example_images() * 40 + 128).clamp(0, 255).to(torch.uint8)
    images = images.to(next(network.features.parameters()).device)
    with eval_mode(network), eval_mode(rest):
        want, got = network.features(images), rest(frozen(images))
    return bool((want - got).abs().max() <= TOLERANCE * (want[0] - want[1]).abs().max())


def _find_lowest_stage(tensors: Iterable[str], chain: Sequence[Stage]) -> int:
    """The place of the first stage that holds one of these parameters; 0 where one is in no stage."""
    inside = [[place for place, stage in enumerate(chain) if name.startswith(f"{stage.name}.")] for name in tensors]
    return min(places[0] if places else 0 for places in inside)


def _find_workable_border(network: NetworkModule, backbone: BackboneModule, chain: Sequence[Stage], place: int) -> int:
    """This place, or the nearest below it where a single tensor crosses."""
    while place:
        frozen, tuned = _split(network, backbone, chain, place)
        if _is_equivalent(network, frozen, tuned[0], backbone):
            break
        place -= 1
    return place


def _describe_nearest_border(
    network: NetworkModule, backbone: BackboneModule, chain: Sequence[Stage], place: int
) -> str:
    for other in sorted(set(range(1, len(chain))) - {place}, key=lambda other: abs(other - place)):
        frozen, tuned = _split(network, backbone, chain, other)
        if _is_equivalent(network, frozen, tuned[0], backbone):
            return f"The nearest border that works is {chain[other].name!r}."
    return "No border inside this network works: use the probe ('head') or full fine-tuning (0)."


class _BorderReached(Exception):
    """Carries what the border stage received out of a forward pass."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


class FrozenHalf(nn.Module):
    """Computes without ever changing: no gradients, and always in eval mode, so batch norm keeps its statistics."""

    def __init__(self, inner: nn.Module, features: FeaturesModule, above: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner.eval()
        self._whole = [features]  # in a list, so that its parts above the border are no parts of this module
        self.above = tuple(f"{name}." for name in above)

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(images)

    def train(self, mode: bool = True) -> FrozenHalf:
        return super().train(False)

    @property
    def preprocess(self) -> Preprocess:
        """How to make an image ready."""
        return self._whole[0].preprocess

    @property
    def is_inside_network(self) -> bool:
        """Whether the border lies inside the network, not below the head."""
        return not isinstance(self.inner, FeaturesModule)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """What crosses the border for one image."""
        side = self.preprocess.size
        device = next(self._whole[0].parameters()).device
        return tuple(self(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)).shape[1:])

    @property
    def width(self) -> int:
        """How many numbers that is."""
        return math.prod(self.shape)

    def compile_features(self) -> engine.CompiledNetwork:
        """Ready to run; compiled once."""
        return self._compiled

    @cached_property
    def _compiled(self) -> engine.CompiledNetwork:
        return engine.compile(self, self.preprocess.size)

    def cache_key(self) -> str:
        """A name for what this computes: the weights below the border, preprocessing and layers read there."""
        features = self._whole[0]
        if not self.is_inside_network:
            return features.cache_key()
        whole = hashlib.sha256(repr((FORMAT, features.preprocess, features.layers, self.above[0])).encode())
        for name, tensor in sorted(features.backbone.state_dict().items()):
            if not name.startswith(self.above):
                whole.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
        return whole.hexdigest()[:32]


class _Prefix(nn.Module):
    """The network up to, not including, the border stage; with the pooled layers below it that the head reads."""

    def __init__(self, features: FeaturesModule, border: str, early: Sequence[str]) -> None:
        super().__init__()
        self.features, self.border, self.early = features, border, tuple(early)

    def forward(self, images: Tensor) -> Tensor:
        with collect_outputs(self.features.backbone, self.early) as outputs:
            reached = self._run_to_border(images)
        if not self.early:
            return reached
        return torch.cat([reached.flatten(1), *(pool_output(outputs[name]) for name in self.early)], dim=1)

    def _run_to_border(self, images: Tensor) -> Tensor:
        def stop(_stage: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _BorderReached(inputs[0])

        hook = self.features.backbone.get_submodule(self.border).register_forward_pre_hook(stop)
        try:
            self.features.backbone(normalise(self.features.preprocess, images))
        except _BorderReached as reached:
            return reached.features
        finally:
            hook.remove()
        raise CutError(f"The stage {self.border!r} never ran.")


class _Skip(nn.Module):
    """Stands in for a stage that was taken out: hands its first input on."""

    def forward(self, first: Tensor, *_others: Any, **_options: Any) -> Tensor:
        return first


class _Suffix(nn.Module):
    """The features from the border on: the same weights, the stages before it taken out."""

    def __init__(self, features: FeaturesModule, names: Sequence[str], place: int, example: Tensor) -> None:
        super().__init__()
        backbone = features.backbone
        self.stem = tuple(names[:1])  # still runs, on one blank image, so that code between stages sees its shapes
        self.late = tuple(name for name in features.layers if name in names[place:])
        self.early, self.top, self.pool = len(features.layers) > len(self.late), features.top, features.pool
        shared: dict[int, Any] = {id(tensor): tensor for tensor in [*backbone.parameters(), *backbone.buffers()]}
        self.rest = copy.deepcopy(backbone, shared)
        for name in names[1:place]:
            self.rest.set_submodule(name, _Skip())
        device = next(backbone.parameters()).device
        self.register_buffer("blank", torch.zeros_like(example, device=device), persistent=False)
        self._border_inputs: list[Tensor] = []
        border = self.rest.get_submodule(names[place])
        border.register_forward_pre_hook(lambda _stage, inputs: (self._border_inputs[0], *inputs[1:]))
        self.border: tuple[int, ...] = ()
        if self.early:  # one row of numbers crosses: what the border stage receives, then the pooled layers below it
            with torch.no_grad():
                self.border = tuple(_Prefix(features, names[place], ())._run_to_border(_grey_image(features)).shape[1:])

    def forward(self, crossing: Tensor) -> Tensor:
        size = math.prod(self.border)
        features = crossing[:, :size].unflatten(1, self.border) if self.early else crossing
        parts = [crossing[:, size:]] if self.early else []
        self._border_inputs, last = [features], []
        try:
            with collect_outputs(self.rest, self.late, stop=not self.top) as outputs, suppress(ForwardStopped):
                last = [self.rest(self.blank.to(features.dtype))]
        finally:
            self._border_inputs = []
        for name in self.late:
            parts.append(pool_output(outputs[name]) if self.pool else to_feature_map(name, outputs[name]).flatten(1))
        return torch.cat(parts + last * self.top, dim=1)

    def train(self, mode: bool = True) -> _Suffix:
        super().train(mode)
        for name in self.stem:  # otherwise the blank image would leak into the frozen batch statistics
            self.rest.get_submodule(name).eval()
        return self


def _grey_image(features: FeaturesModule) -> Tensor:
    side = features.preprocess.size
    device = next(features.parameters()).device
    return torch.full((1, 3, side, side), 128, dtype=torch.uint8, device=device)
