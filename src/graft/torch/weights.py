"""Pretrained weights into a network of PyTorch: whole, or not at all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from graft.backbones.catalog import Entry
from graft.backbones.graph import OWN, Graph
from graft.backbones.weights import Source, is_packaged, obtained
from graft.errors import ModelError
from graft.torch.build import build, headless
from graft.torch.shorter import shorten
from graft.torch.tensors import check, fill, read


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


def module_of(entry: Entry, graph: Graph) -> nn.Module:
    """The network of this entry, without its classifier and what the graph lacks, with the weights of the graph."""
    own = {name: each for name, each in graph.tensors.items() if not name.startswith(OWN)}
    return filled(entry, {name: torch.from_numpy(np.array(each)) for name, each in own.items()})


def filled(entry: Entry, tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of this entry, without its classifier, with these tensors. Raises ModelError for those of another."""
    with torch.random.fork_rng(devices=[]):  # what is drawn here is thrown away
        backbone = headless(entry, build(entry))
    shorten(backbone, list(tensors))
    try:
        check(backbone.state_dict(), dict(tensors))
    except ValueError as fault:
        raise ModelError(f"The weights are not those of '{entry.name}': {fault}.") from fault
    backbone.load_state_dict(tensors, strict=False)  # strict it was above, but for counters that nobody reads
    return backbone.eval().requires_grad_(False)
