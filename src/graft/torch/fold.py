"""Fold frozen batch norm into the convolutions before it while a network trains: fewer passes over the activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.func import functional_call

from graft.torch.chain import eval_mode

TOLERANCE = 1e-3  # largest difference of the outputs, relative to the largest of them; float32 leaves about 1e-6

ConvAndNorm = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextmanager
def fold_batch_norm(module: nn.Module, batch: Tensor) -> Iterator[int]:
    """Run convolutions with the batch norm after them folded in, and yield for how many of them.

    With its statistics frozen, batch norm is a scale and a shift for each channel: scaled weights give the same
    outputs, and the same gradients of the weights, of the scale and of the shift, up to the last bits. `batch` is an
    input of the module, in eval mode; where the folded module answers it otherwise, nothing is folded. No tensor of the
    module changes, nor does its name.

    >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> with fold_batch_norm(network, torch.zeros(1, 3, 8, 8)) as count:
    ...     count
    1
    """
    with torch.no_grad(), eval_mode(module):
        pairs, wanted = _find_pairs(module, batch)
        with ExitStack() as stack:
            _fold_pairs(pairs, stack)
            same = (module(batch) - wanted).abs().max() <= TOLERANCE * wanted.abs().max()
            kept = stack.pop_all() if same else ExitStack()
    with kept:
        yield len(pairs) if same else 0


def _find_pairs(module: nn.Module, batch: Tensor) -> tuple[list[ConvAndNorm], Tensor]:
    """Convolutions whose output a batch norm receives as it is, found in one forward pass; with its output."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensors themselves: an id alone may be given again
    pairs: list[ConvAndNorm] = []
    calls: dict[nn.Module, int] = {}

    def note_output(part: Any, _inputs: object, output: Tensor) -> None:
        outputs[id(output)] = part, output

    def note_input(part: Any, inputs: tuple[Tensor, ...]) -> None:
        calls[part] = calls.get(part, 0) + 1
        if found := outputs.get(id(inputs[0])):
            pairs.append((found[0], part))

    with ExitStack() as stack:
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                stack.callback(part.register_forward_hook(note_output).remove)
            if type(part) in (nn.BatchNorm2d, BatchNormAct2d):
                stack.callback(part.register_forward_pre_hook(note_input).remove)
        wanted = module(batch)
    return [(conv, norm) for conv, norm in pairs if calls[norm] == 1 and _is_worth_folding(conv, norm)], wanted


def _is_worth_folding(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Not where only the norm is trained: gradients of the weights would be computed for nothing else."""
    return conv.weight.requires_grad or not any(each.requires_grad for each in norm.parameters())


def _fold_pairs(pairs: list[ConvAndNorm], stack: ExitStack) -> None:
    """Give both parts of each pair a forward of their own, until the stack is closed."""
    for conv, norm in pairs:
        for part, forward in ((conv, _FoldedConv(conv, norm)), (norm, _Activation(norm))):
            part.forward = forward
            stack.callback(part.__dict__.pop, "forward")


class _FoldedConv:
    """The forward of a convolution with the scale and the shift of a batch norm."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        self.conv, self.norm = conv, norm

    def __call__(self, input: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = (norm.running_var + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
        shift = shift * scale if norm.bias is None else shift * scale + norm.bias
        folded = {"weight": conv.weight * scale.view(-1, 1, 1, 1), "bias": shift}
        own = conv.__dict__.pop("forward")
        try:
            return functional_call(conv, folded, (input,))
        finally:
            conv.forward = own


class _Activation:
    """What is left of a batch norm that is folded: timm's has an activation in it."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm = norm

    def __call__(self, input: Tensor) -> Tensor:
        norm = self.norm
        if not isinstance(norm, BatchNormAct2d):
            return input
        for part in (norm.drop, norm.act):
            assert isinstance(part, nn.Module)
            input = part(input)
        return input
