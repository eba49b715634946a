"""Pretrained weights into a network of PyTorch: whole, or not at all."""

from __future__ import annotations

from torch import nn

from graft.backbones.catalog import Entry
from graft.backbones.weights import Source, is_packaged, obtained
from graft.torch.tensors import fill, read


def load(entry: Entry, network: nn.Module, source: Source) -> Source:
    """Fill the network with the weights, all of them, and say what was loaded.

    A classifier for another number of classes, or none, is no fault: graft puts its own in that place.
    """
    source = obtained(entry, source)
    assert source.path is not None
    tensors = read(source.path)
    if is_packaged(entry, source):
        # The package names its tensors otherwise, but holds the same in the same order and shapes.
        tensors = dict(zip(network.state_dict(), tensors.values(), strict=True))
    fill(entry, network, tensors, source.path)
    return source
