"""A network without the stages that come after all that is read of it: what early features leave out of a file."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from graft.torch.chain import blocks
from graft.torch.network import LeftOut


def shorten(backbone: nn.Module, kept: Collection[str]) -> None:
    """Take out, in place, the stages of which not one tensor is among those `kept`, as a file names them."""
    for name in list(blocks(backbone)):
        stage = backbone.get_submodule(name)
        if not any(each.startswith(f"{name}.") for each in kept):
            backbone.set_submodule(name, LeftOut(sum(each.numel() for each in stage.parameters())))


def shortened(backbone: nn.Module) -> bool:
    """Whether stages are missing."""
    return any(isinstance(part, LeftOut) for part in backbone.modules())
