"""A network as a chain of stages: the largest repeated parts, in the order in which a forward pass meets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones.graph import Stage
from graft.torch.network import Backbone, LeftOut, heard

_STACKS = (nn.Sequential, nn.ModuleList)


def stages(backbone: Backbone) -> list[Stage]:
    """The chain of stages in the order in which a forward pass first meets them."""
    return chained(backbone.module, backbone.example())


@torch.no_grad()
def chained(module: nn.Module, example: Tensor) -> list[Stage]:
    """The same of the network alone, found with these normalised images."""
    names = list(blocks(module))  # none lies inside another, so that they end in the order in which they begin
    with still(module), heard(module, names) as outputs:  # in the order in which they were first heard
        module(example.to(next(module.parameters())))
    return [
        Stage(name, tuple(output.shape[1:]), _size(module.get_submodule(name)))
        for name, output in outputs.items()
        if isinstance(output, Tensor)
    ]


@torch.no_grad()
def work(backbone: Backbone, chain: Sequence[Stage]) -> tuple[list[int], int]:
    """The multiply-adds that one image takes in each stage, and in the whole network.

    What torch's counter does not know, a recurrent layer for instance, counts as nothing.
    """
    module, spent, handles = backbone.module, [0] * len(chain), []
    with FlopCounterMode(display=False) as counter:
        for place, stage in enumerate(chain):
            part = module.get_submodule(stage.name)
            handles.append(part.register_forward_pre_hook(lambda *_, place=place: _add(spent, place, -_done(counter))))
            handles.append(part.register_forward_hook(lambda *_, place=place: _add(spent, place, _done(counter))))
        try:
            with still(module):
                module(backbone.example()[:1].to(next(module.parameters())))
        finally:
            for handle in handles:
                handle.remove()
    return spent, _done(counter)


def _add(sums: list[int], place: int, more: int) -> None:
    sums[place] += more


def _done(counter: FlopCounterMode) -> int:
    """Multiply-adds so far; torch counts each as two."""
    return counter.get_total_flops() // 2


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """In eval mode for a while, so that looking changes no statistics; then each part as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def blocks(module: nn.Module, name: str = "", whole: int = 0) -> Iterator[str]:
    """Names of the largest repeated parts: open stacks, and whatever holds a stack and half of the network."""
    size = _size(module)
    whole = whole or size
    stack = isinstance(module, _STACKS) and len(module) > 1
    trunk = 2 * size > whole and any(isinstance(child, _STACKS) for child in module.children())
    if not name or stack or trunk:
        for child_name, child in module.named_children():
            yield from blocks(child, f"{name}.{child_name}" if name else child_name, whole)
    elif size:
        yield name


def _size(module: nn.Module) -> int:
    gone = sum(part.parameters_before for part in module.modules() if isinstance(part, LeftOut))
    return gone + sum(parameter.numel() for parameter in module.parameters())
