"""A network without the stages that come after all that is read of it: what early features leave out of a file."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from graft.backbones.preprocess import Preprocess
from graft.networks.chain import LeftOut, blocks, chained
from graft.networks.network import Features, example


def unread(features: Features, also: Collection[str] = ()) -> tuple[str, ...]:
    """The stages that a forward pass meets after all that the head reads, and after the stages named in `also`.

    None where the last output of the backbone is read, and none again of a network that was shortened.
    """
    if features.top or shortened(features):
        return ()
    assert isinstance(features.preprocess, Preprocess)
    names = [stage.name for stage in chained(features.backbone, example(features.preprocess))]
    read = [names.index(name) for name in {*features.layers, *also} if name in names]
    # A layer that is no stage lies inside one: then it is not known where the reading ends.
    return tuple(names[max(read) + 1 :]) if len(read) == len({*features.layers, *also}) else ()


def shortened(features: Features) -> bool:
    """Whether stages are missing."""
    return any(isinstance(part, LeftOut) for part in features.backbone.modules())


def shorten(backbone: nn.Module, kept: Collection[str]) -> None:
    """Take out, in place, the stages of which not one tensor is among those `kept`, as a file names them."""
    for name in list(blocks(backbone)):
        stage = backbone.get_submodule(name)
        if not any(each.startswith(f"{name}.") for each in kept):
            backbone.set_submodule(name, LeftOut(sum(each.numel() for each in stage.parameters())))
