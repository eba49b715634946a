"""Stages and weight layers of a network: its largest repeated parts, in forward order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones.graph import Stage
from graft.torch.network import BackboneModule, DroppedStage, FeaturesModule, collect_outputs

_STACKS = (nn.Sequential, nn.ModuleList)


def find_stages(backbone: BackboneModule) -> list[Stage]:
    """The chain of stages in the order in which a forward pass first meets them."""
    return find_module_stages(backbone.module, backbone.example_images())


@torch.no_grad()
def find_module_stages(module: nn.Module, example: Tensor) -> list[Stage]:
    """The same of the network alone, found with these normalised images."""
    names = list(find_blocks(module))  # none lies inside another, so that they end in the order in which they begin
    with eval_mode(module), collect_outputs(module, names) as outputs:  # in the order of their first call
        module(example.to(next(module.parameters())))
    return [
        Stage(name, tuple(output.shape[1:]), _count_parameters(module.get_submodule(name)))
        for name, output in outputs.items()
        if isinstance(output, Tensor)
    ]


@torch.no_grad()
def count_multiply_adds(backbone: BackboneModule, chain: Sequence[Stage]) -> tuple[list[int], int]:
    """The multiply-adds that one image takes in each stage, and in the whole network.

    What torch's counter does not know, a recurrent layer for instance, counts as nothing.
    """
    module, spent, handles = backbone.module, [0] * len(chain), []
    with FlopCounterMode(display=False) as counter:
        for place, stage in enumerate(chain):
            part = module.get_submodule(stage.name)
            handles.append(
                part.register_forward_pre_hook(
                    lambda *_, place=place: _add(spent, place, -_multiply_adds_so_far(counter))
                )
            )
            handles.append(
                part.register_forward_hook(lambda *_, place=place: _add(spent, place, _multiply_adds_so_far(counter)))
            )
        try:
            with eval_mode(module):
                module(backbone.example_images()[:1].to(next(module.parameters())))
        finally:
            for handle in handles:
                handle.remove()
    return spent, _multiply_adds_so_far(counter)


def _add(sums: list[int], place: int, more: int) -> None:
    sums[place] += more


def _multiply_adds_so_far(counter: FlopCounterMode) -> int:
    """Multiply-adds so far; torch counts each as two."""
    return counter.get_total_flops() // 2


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """In eval mode for a while, so that a forward pass changes no statistics; then each part as it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def find_blocks(module: nn.Module, name: str = "", whole: int = 0) -> Iterator[str]:
    """Names of the largest repeated parts: open stacks, and whatever holds a stack and half of the network."""
    size = _count_parameters(module)
    whole = whole or size
    stack = isinstance(module, _STACKS) and len(module) > 1
    trunk = 2 * size > whole and any(isinstance(child, _STACKS) for child in module.children())
    if not name or stack or trunk:
        for child_name, child in module.named_children():
            yield from find_blocks(child, f"{name}.{child_name}" if name else child_name, whole)
    elif size:
        yield name


def _count_parameters(module: nn.Module) -> int:
    gone = sum(part.parameters_before for part in module.modules() if isinstance(part, DroppedStage))
    return gone + sum(parameter.numel() for parameter in module.parameters())


# --- weight layers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A module with a weight matrix of its own, and all tensors from it up to the next such module.

    `name` is the module's in the backbone, `tensors` are the names of parameters, `parameters` is how many numbers.
    """

    name: str
    tensors: tuple[str, ...]
    parameters: int


def find_weight_layers(features: FeaturesModule) -> list[Layer]:
    """The layers of the backbone that these features need, in the order in which a forward pass uses their weights.

    A convolution, a linear layer, a recurrent one: whatever owns a weight of two dimensions or more. What comes after
    it and has none, a norm or a scale, belongs to it; what comes before the first layer belongs to the first.
    """
    module = features.backbone
    groups: dict[str, list[str]] = {}
    early: list[str] = []
    last = ""
    for name in _trace_parameter_order(features):
        owner, _, own = name.rpartition(".")
        if own.startswith(("weight", "in_proj_weight")) and module.get_parameter(name).ndim > 1:
            last = owner
        groups.setdefault(last, []).append(name) if last else early.append(name)
    for first in list(groups)[:1]:
        groups[first] = early + groups[first]
    return [
        Layer(name, tuple(tensors), sum(module.get_parameter(each).numel() for each in tensors))
        for name, tensors in groups.items()
    ]


def _trace_parameter_order(features: FeaturesModule) -> Iterable[str]:
    """The names of the backbone's parameters in the order of their first use in a forward pass.

    Hooks would miss what is read without being called: BEiT's attention takes the weights of its linear layer.
    """
    side = features.preprocess.size
    device = next(features.backbone.parameters()).device
    blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
    recorder = _ParameterRecorder(features.backbone)
    with torch.no_grad(), eval_mode(features), recorder:
        features(blank)
    return recorder.order


class _ParameterRecorder(TorchFunctionMode):
    """Notes which parameters torch's functions are given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.names = {id(parameter): name for name, parameter in module.named_parameters()}
        self.order: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") != "__get__":  # to ask a weight for its type or device is no use of it
            for given in tree_leaves((args, kwargs)):
                if name := self.names.get(id(given)):
                    self.order.setdefault(name)
        return func(*args, **(kwargs or {}))
