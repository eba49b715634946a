"""A network's layers as a person counts them: each convolution or linear layer, with the norm that comes after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from graft.torch.chain import still
from graft.torch.network import Features


@dataclass(frozen=True)
class Layer:
    """A module with a weight matrix of its own, and all tensors from it up to the next such module.

    `name` is the module's in the backbone, `tensors` are the names of parameters, `parameters` is how many numbers.
    """

    name: str
    tensors: tuple[str, ...]
    parameters: int


def weight_layers(features: Features) -> list[Layer]:
    """The layers of the backbone that these features need, in the order in which a forward pass uses their weights.

    A convolution, a linear layer, a recurrent one: whatever owns a weight of two dimensions or more. What comes after
    it and has none, a norm or a scale, belongs to it; what comes before the first layer belongs to the first.
    """
    module = features.backbone
    groups: dict[str, list[str]] = {}
    early: list[str] = []
    last = ""
    for name in _used(features):
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


def _used(features: Features) -> Iterable[str]:
    """The names of the backbone's parameters in the order of their first use in a forward pass.

    Hooks would miss what is read without being called: BEiT's attention takes the weights of its linear layer.
    """
    side = features.preprocess.size
    device = next(features.backbone.parameters()).device
    blank = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
    noted = _Noted(features.backbone)
    with torch.no_grad(), still(features), noted:
        features(blank)
    return noted.order


class _Noted(TorchFunctionMode):
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
