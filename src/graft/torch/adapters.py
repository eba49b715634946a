"""Parameter-efficient training: LoRA adapters, or normalisation layers and biases alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.linear import Linear
from torch import nn

from graft import extras
from graft.errors import UsageError
from graft.torch.alone import temporary_seed

# What an adapter can stand beside. No other kinds: a convolution that standardises its weights, say, would not be the
# same once an adapter is merged into these.
_LINEAR = (nn.Linear, Linear)
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = ("norm", "affine")  # in the names of all normalisation layers of torch and timm; ResMLP calls its own Affine


def add_lora(module: nn.Module, stages: Sequence[str], rank: int, alpha: float, seed: int = 0) -> list[str]:
    """Put a low-rank adapter beside every linear layer and ungrouped convolution of these stages; return their names.

    LoRA (Hu et al. 2021): the layer's answer plus alpha / rank times B(A(x)), where B begins at zero, so that nothing
    changes at first. Works on the module itself, freezes it, and leaves only the adapters trainable. A layer that the
    network reads the weights of without calling it (attention in BEiT and Swin V2) gets one that never learns.

    Raises UsageError where the library peft is missing or the stages hold no such layer.
    """
    if rank < 1 or not alpha > 0:
        raise UsageError(f"An adapter needs a rank of at least 1 and an alpha above 0. Got {rank} and {alpha}.")
    names, peft = find_adaptable_layers(module, stages), _import_peft()
    wanted = "|".join(map(re.escape, names))  # a list would also match layers whose names merely end like these
    options: dict[str, Any] = {"r": rank, "lora_alpha": alpha, "target_modules": wanted}
    with temporary_seed(seed):
        peft.inject_adapter_in_model(peft.LoraConfig(**options), module)
    _remove_peft_config(module)
    for _, layer in _iterate_lora_layers(module, peft):
        layer.train(layer.get_base_layer().training)
    return names


def find_adaptable_layers(module: nn.Module, stages: Sequence[str]) -> list[str]:
    """The layers of these stages that an adapter can stand beside.

    Raises UsageError where there is none, or the library peft is missing.
    """
    extras.require_package("peft", "LoRA")  # importing it takes seconds
    names = [name for name, layer in _iterate_parts(module, stages) if _can_adapt(layer)]
    if not names:
        raise UsageError(
            f"The stages {', '.join(stages)} hold no linear layer and no ungrouped convolution, so LoRA has nothing "
            "to adapt there. Cut deeper; nearly all networks of the catalogue hold some."
        )
    return names


@torch.no_grad()
def merge_adapters(module: nn.Module) -> None:
    """Add the adapters to the weights that they stand beside and put the plain layers back, in the module itself."""
    for name, layer in list(_iterate_lora_layers(module, _import_peft())):
        layer.merge()
        module.set_submodule(name, layer.get_base_layer())


def norm_parameters(module: nn.Module, stages: Sequence[str]) -> list[nn.Parameter]:
    """Weights of the normalisation layers in these stages, and every bias there, each once.

    Frankle et al. 2021 train the former, Ben Zaken et al. 2022 (BitFit) the latter. Raises UsageError for none.
    """
    found = [
        parameter
        for _, layer in _iterate_parts(module, stages)
        for name, parameter in layer.named_parameters(recurse=False)
        if name.endswith("bias") or any(norm in type(layer).__name__.lower() for norm in _NORMS)
    ]
    if not found:
        raise UsageError(
            f"The stages {', '.join(stages)} hold no normalisation layer and no bias, so there is nothing to tune. "
            "Nearly all networks have both, resnet50 and vit_base_patch16_224 for instance."
        )
    return list(dict.fromkeys(found))


def _iterate_parts(module: nn.Module, stages: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Every part that is one of the stages or lies in one, with its full name."""
    for name, part in module.named_modules():
        if any(name == stage or name.startswith(f"{stage}.") for stage in stages):
            yield name, part


def _can_adapt(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        # peft builds the adapter without the layer's dilation and kind of padding.
        plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        return type(layer) in _CONVOLUTIONS and plain
    return type(layer) in _LINEAR


def _iterate_lora_layers(module: nn.Module, peft: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, part in module.named_modules():
        if isinstance(part, peft.tuners.lora.LoraLayer):
            yield name, part


def _remove_peft_config(module: nn.Module) -> None:
    """Take away the note that peft leaves on the module: with it a second call would warn."""
    vars(module).pop("peft_config", None)


def _import_peft() -> ModuleType:
    import peft  # seconds: it brings the library transformers along
    import peft.tuners.lora

    return peft
