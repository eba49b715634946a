"""A network as a chain of stages, and the cut that splits it into a frozen and a tuned half.

No tracing: the frozen half runs the network and stops where the border stage would begin; the tuned half is a copy of
the structure that shares every tensor, with the stages before the border taken out, and goes on from what the border
stage received. Every cut is verified by numbers: both halves in a row must answer like the whole network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from graft.errors import CutError
from graft.networks.network import Backbone, Features, Network, heard

TOLERANCE = 1e-3  # of the difference between two pictures' answers; float32 leaves about 1e-6
_STACKS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True)
class Stage:
    """One link of the chain: its name in the backbone, the shape of what it hands on, and its parameters."""

    name: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Halves:
    """A network cut in two; both halves hold its own weights, so training `tuned` trains the network."""

    frozen: nn.Module
    tuned: nn.Module
    border: str


@torch.no_grad()
def stages(backbone: Backbone) -> list[Stage]:
    """The chain of stages in the order in which a forward pass first meets them."""
    module = backbone.module
    names = list(_blocks(module))  # none lies inside another, so that they end in the order in which they begin
    with _still(module), heard(module, names) as outputs:  # in the order in which they were first heard
        module(backbone.example().to(next(module.parameters()).dtype))
    return [
        Stage(name, tuple(output.shape[1:]), _size(module.get_submodule(name)))
        for name, output in outputs.items()
        if isinstance(output, Tensor)
    ]


def layers(chain: Sequence[Stage], most: int = 8) -> tuple[str, ...]:
    """The stages worth pooling: the last one of each resolution or width, evenly thinned to at most `most`.

    A network of one width throughout (a ViT) gives four, evenly spaced.
    """
    ends = [a.name for a, b in pairwise(chain) if a.shape != b.shape]
    if len(ends) < 4:
        ends = [chain[len(chain) * quarter // 4 - 1].name for quarter in (1, 2, 3, 4) if len(chain) * quarter >= 4]
    step = max(1, -(-len(ends) // most))
    return tuple(reversed(ends[::-1][::step]))


def probed(backbone: Backbone) -> Features:
    """The backbone as a probe sees it: frozen whole, with the features of all its layers."""
    return Features(backbone.module, backbone.preprocess, layers(stages(backbone)))


def cut(network: Network, backbone: Backbone, at: str | int | float) -> Halves:
    """Split before a stage: by name, by index (0 = before all, -1 = before the last), by share of the chain (0 to 1),
    or 'head' (everything frozen but the head).

    Freezes the parameters below the border and makes those above it trainable; nowhere else is this decided.
    Raises CutError, which names the nearest border that works, where more than one tensor crosses.
    """
    chain = [stage.name for stage in stages(backbone)]
    place = _place(chain, at)
    halves = _halved(network, backbone, chain, place)
    network.requires_grad_(place == 0)
    network.head.requires_grad_(True)
    for name in chain[place:]:
        network.features.backbone.get_submodule(name).requires_grad_(True)
    return halves


def _halved(network: Network, backbone: Backbone, chain: Sequence[str], place: int) -> Halves:
    if place == len(chain):
        return Halves(_Frozen(network.features), network.head, "head")
    if place == 0:
        return Halves(nn.Identity(), network, chain[0])
    if network.features.layers:
        raise CutError("A network whose head reads several layers can be cut at 'head' only.")
    halves = _split(network, backbone, chain, place)
    if not _whole(network, halves, backbone):
        raise CutError(
            f"{backbone.entry.name} cannot be cut before {chain[place]!r}: more than one tensor crosses there. "
            f"{_nearest(network, backbone, chain, place)}"
        )
    return halves


def _place(chain: Sequence[str], at: str | int | float) -> int:
    if at == "head":
        return len(chain)
    if isinstance(at, str):
        if at not in chain:
            raise CutError(f"There is no stage {at!r}. The stages are {', '.join(chain)}, and 'head' after them.")
        return chain.index(at)
    place = round(at * len(chain)) if isinstance(at, float) else at + len(chain) * (at < 0)
    if not 0 <= place <= len(chain):
        raise CutError(
            f"A cut is a stage, an index from {-len(chain)} to {len(chain)} or a share from 0.0 to 1.0. Got {at}."
        )
    return place


def _split(network: Network, backbone: Backbone, chain: Sequence[str], place: int) -> Halves:
    prefix = _Prefix(network.features, chain[place])
    rest = _Suffix(network.features.backbone, chain[:1], chain[1:place], chain[place], backbone.example()[:1])
    return Halves(_Frozen(prefix), nn.Sequential(rest, network.head), chain[place])


@torch.no_grad()
def _whole(network: Network, halves: Halves, backbone: Backbone) -> bool:
    """Whether both halves in a row answer like the network, judged by how much two pictures' features differ."""
    images = (backbone.example() * 40 + 128).clamp(0, 255).to(torch.uint8)
    with _still(network), _still(halves.tuned):
        want, got = network.features(images), halves.tuned[0](halves.frozen(images))  # type: ignore[index]
    return bool((want - got).abs().max() <= TOLERANCE * (want[0] - want[1]).abs().max())


@contextmanager
def _still(module: nn.Module) -> Iterator[None]:
    """In eval mode for a while, so that looking changes no statistics; then each part as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _nearest(network: Network, backbone: Backbone, chain: Sequence[str], place: int) -> str:
    others = sorted(range(1, len(chain)), key=lambda other: abs(other - place))
    for other in others:
        if other != place and _whole(network, _split(network, backbone, chain, other), backbone):
            return f"The nearest border that works is {chain[other]!r}."
    return "No border inside this network works: use the probe ('head') or full fine-tuning (0)."


class _Reached(Exception):
    """Carries what the border stage received out of a forward pass."""

    def __init__(self, features: Tensor) -> None:
        self.features = features


class _Frozen(nn.Module):
    """Computes without ever changing: no gradients, and always in eval mode, so batch norm keeps its statistics."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.eval()

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.inner(images)

    def train(self, mode: bool = True) -> _Frozen:
        return super().train(False)


class _Prefix(nn.Module):
    """The network up to, not including, the border stage."""

    def __init__(self, features: Features, border: str) -> None:
        super().__init__()
        self.features, self.border = features, border

    def forward(self, images: Tensor) -> Tensor:
        def stop(_stage: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            raise _Reached(inputs[0])

        hook = self.features.backbone.get_submodule(self.border).register_forward_pre_hook(stop)
        try:
            self.features(images)
        except _Reached as reached:
            return reached.features
        finally:
            hook.remove()
        raise CutError(f"The stage {self.border!r} never ran.")


class _Skip(nn.Module):
    """Stands in for a stage that was taken out: hands its first input on."""

    def forward(self, first: Tensor, *_others: Any, **_options: Any) -> Tensor:
        return first


class _Suffix(nn.Module):
    """The backbone from the border stage on: the same weights, the stages before it taken out."""

    def __init__(
        self, backbone: nn.Module, stem: Sequence[str], before: Sequence[str], border: str, example: Tensor
    ) -> None:
        super().__init__()
        self.stem = tuple(stem)  # still runs, on one blank picture, so that code between stages sees its shapes
        shared: dict[int, Any] = {id(tensor): tensor for tensor in [*backbone.parameters(), *backbone.buffers()]}
        self.rest = copy.deepcopy(backbone, shared)
        for name in before:
            self.rest.set_submodule(name, _Skip())
        self.register_buffer("blank", torch.zeros_like(example), persistent=False)
        self._given: list[Tensor] = []
        self.rest.get_submodule(border).register_forward_pre_hook(lambda _stage, inputs: (self._given[0], *inputs[1:]))

    def forward(self, features: Tensor) -> Tensor:
        self._given = [features]
        try:
            return self.rest(self.blank.to(features.dtype))
        finally:
            self._given = []

    def train(self, mode: bool = True) -> _Suffix:
        super().train(mode)
        for name in self.stem:  # otherwise the blank picture would leak into the frozen batch statistics
            self.rest.get_submodule(name).eval()
        return self


def _blocks(module: nn.Module, name: str = "", whole: int = 0) -> Iterator[str]:
    """Names of the largest repeated parts: open stacks, and whatever holds a stack and half of the network."""
    size = _size(module)
    whole = whole or size
    stack = isinstance(module, _STACKS) and len(module) > 1
    trunk = 2 * size > whole and any(isinstance(child, _STACKS) for child in module.children())
    if not name or stack or trunk:
        for child_name, child in module.named_children():
            yield from _blocks(child, f"{name}.{child_name}" if name else child_name, whole)
    elif size:
        yield name


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
