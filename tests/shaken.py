"""Random networks whose answers differ from image to image, as those of freshly drawn weights often do not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from timm.models.vgg import VGG, ConvMlp
from torch import nn
from torchvision.models import AlexNet

from graft.backbones import backbone as looking
from graft.backbones import catalog
from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import complete_graph
from graft.backbones.preprocess import Preprocess
from graft.torch import build
from graft.torch.convert import convert_module
from graft.torch.network import BackboneModule
from graft.torch.restore import build_random_module

CLASSIC = [  # networks of the texts, with sides of images that are quick
    ("alexnet", 96),
    ("vgg11", 64),
    ("googlenet", 64),
    ("inception_v3", 96),
    ("resnet18", 64),
    ("densenet121", 64),
]


@torch.no_grad()
def shaken(module: nn.Module) -> nn.Module:
    """Move scales, biases and statistics far from where they start, so that answers depend on the image."""
    random = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.ndim == 4:  # GoogLeNet's own start says almost nothing
            nn.init.kaiming_normal_(weight, generator=random)
        elif weight.ndim == 1 and "bias" not in name:
            weight.uniform_(0.5, 1.5, generator=random)
        elif weight.ndim == 1 or not weight.any():
            weight.normal_(0, 0.1, generator=random)
    for name, buffer in module.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1, generator=random)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=random)
    return module


SIDES = dict(CLASSIC) | dict.fromkeys(("vgg16", "resnet50", "mobilenet_v2", "mobilenetv2_100"), 64)
NARROW = 128  # units of a dense layer


def slim(network: nn.Module) -> nn.Module:
    """Narrow, in place, the dense layers of 4096 that AlexNet and VGG have: most of their weights are there."""
    if isinstance(network, AlexNet):
        for place, inputs, outputs in ((1, 9216, NARROW), (4, NARROW, NARROW), (6, NARROW, 1000)):
            network.classifier[place] = nn.Linear(inputs, outputs)
    elif isinstance(network, VGG):
        network.pre_logits = ConvMlp(512, NARROW)
        network.head.fc = nn.Linear(NARROW, 1000)
        network.head.num_features = network.head_hidden_size = NARROW
    return network


@contextmanager
def slim_networks() -> Iterator[None]:
    """Build the networks of the texts like that, for small images: all kinds of layers, a tenth of the work.

    That the whole ones are converted, at their own size of images, is held by test_convert.
    """
    own = catalog.build_preprocess

    def small(entry: CatalogEntry) -> Preprocess:
        side = SIDES.get(entry.name.partition(".")[0], 0)
        return replace(own(entry), size=side, resize=side * 8 // 7) if side else own(entry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "build_preprocess", small)
        for name in ("_build_timm", "_build_torchvision"):
            build_whole = getattr(build, name)
            patch.setattr(build, name, lambda *given, own=build_whole: slim(own(*given)))
        yield


def pretrained(name: str, size: int, module: nn.Module | None = None) -> looking.Backbone:
    """The network of this name, or this module, shaken, for images of this size, as a graph."""
    made = build_random_module(name)
    preprocess = Preprocess(size=size, resize=size)
    return looked(BackboneModule(made.entry, shaken(module or made.module), preprocess, made.source))


def looked(backbone: BackboneModule) -> looking.Backbone:
    """A network of PyTorch as a graph. They share the weights: `revive.backbone_of` makes a copy of these."""
    graph = complete_graph(convert_module(backbone.module, backbone.preprocess), backbone.preprocess.size)
    return looking.Backbone(backbone.entry, graph, backbone.preprocess, backbone.source)
