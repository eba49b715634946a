"""Classifiers of random numbers, of every kind of network and head, for tests of the graph that answers for them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from shaken import shaken

from graft.backbones import facts
from graft.backbones.backbone import Backbone
from graft.backbones.features import Features
from graft.backbones.graph import Graph
from graft.backbones.stages import layers
from graft.heads.designs import Conv, Linear, Mlp
from graft.model.card import describe
from graft.model.classifier import Classifier
from graft.model.composed import composed
from graft.model.memory import Memory
from graft.model.network import Network
from graft.model.unknown import Known, unit
from graft.torch.convert import graph_of
from graft.torch.fresh import fresh_module
from graft.torch.head import Head, arrays, fresh
from graft_runtime.card import MULTICLASS

CLASSES = tuple("abcde")


def outputs_of(graph: Graph) -> Sequence[str]:
    """The names of its outputs."""
    return [each.name for each in onnx.ModelProto.FromString(graph.structure).graph.output]


@functools.cache
def start(name: str) -> Backbone:
    """A network whose answers differ from image to image."""
    drawn = fresh_module(name)
    shaken(drawn.module).requires_grad_(False)
    graph = facts.completed(graph_of(drawn.module, drawn.preprocess), drawn.preprocess.size, f"{name}, shaken")
    return Backbone(drawn.entry, graph, drawn.preprocess, drawn.source)


def made(
    name: str, head: str, reads: str, task: str = MULTICLASS, known: int = 40, compared: Sequence[str] = ()
) -> Classifier:
    """A classifier of random numbers that answers differently from image to image."""
    backbone = start(name)
    chain = layers(backbone.graph.stages)
    names = {"all": chain, "early": chain[:-1], "map": chain[-1:], "last": ()}[reads]
    features = Features(backbone.graph, backbone.preprocess, names, top=reads != "early", pool=reads != "map")
    module = made_head(head, features)
    seen = torch.from_numpy(features.compiled(4)(images_of(features.preprocess.size, 4, 0)))
    module.standardise(seen.mean(0), 1 / (seen.std(0) + 0.1))
    network = Network(features, arrays(module))
    rng = np.random.default_rng(0)
    stored = unit(rng.normal(0, 1, (known, features.compared(compared).width))).astype(np.float16)
    some = Known(stored, rng.integers(0, 5, known), ("x",) * known, np.sort(rng.uniform(0.5, 1.2, 60)).astype("f4"))
    card = describe(network, backbone, CLASSES, "probe", 1.7)
    card = replace(card, task=task, scales=(1.0, 0.5, 2.0, 1.5, 1.0), shifts=(0.0, 0.1, -0.2, 0.3, 0.0))
    card = replace(card, unknown={"layers": list(compared)})
    return Classifier(network, card, memory=Memory(np.empty((0, 8), np.uint8), known=some))


def made_head(kind: str, features: Features) -> Head:
    torch.manual_seed(0)
    if kind in ("knn", "forest"):
        return filled(kind, features.width)
    design = {"linear": Linear(init="normal"), "mlp": Mlp(hidden="16"), "conv": Conv(filters=4, hidden="8")}[kind]
    return fresh(design, features.shape if kind == "conv" else features.width, 5)


def filled(kind: str, width: int) -> Head:
    if kind == "knn":
        head = Head({"kind": "knn", "width": width, "classes": 5, "stored": 30, "neighbours": 7, "pca": 6})
        head.axes.normal_()
        head.judge.features.copy_(torch.nn.functional.normalize(torch.randn(30, 6)))
        head.judge.labels.copy_(torch.arange(30) % 5)
        return head
    shape = {"trees": 40, "nodes": 120, "leaves": 80, "depth": 1, "several": False}  # stumps
    head = Head({"kind": "forest", "width": width, "classes": 5} | shape)
    tree = torch.arange(40)
    head.judge.roots.copy_(80 + tree)
    head.judge.features.copy_(torch.randint(0, width, (120,)))
    head.judge.thresholds[80:] = torch.randn(40) * 0.3
    head.judge.sides.copy_(torch.arange(120)[:, None].expand(-1, 2))
    head.judge.sides[80:] = torch.stack([2 * tree, 2 * tree + 1], dim=1).int()
    head.judge.leaves.copy_(torch.rand(80, 5).softmax(1))
    return head


def images_of(size: int, count: int, seed: int) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    images[1::2] //= 4
    return images


def whole(classifier: Classifier) -> Graph:
    """All that it says of an image, as one graph."""
    return composed(classifier.network, classifier.card, classifier.memory.known if classifier.memory else None)
