"""Classifiers of random numbers that answer differently from image to image, as graphs and as modules of PyTorch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from shaken import shaken

from graft.backbones import facts, lite
from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.features import Features
from graft.backbones.graph import Graph
from graft.backbones.stages import layers
from graft.heads.checks import shapes
from graft.heads.designs import Conv, Linear, Mlp
from graft.heads.head import Head
from graft.model.card import describe
from graft.model.classifier import Classifier
from graft.model.composed import composed
from graft.model.memory import Memory
from graft.model.network import Network
from graft.model.unknown import Known, unit
from graft.torch import network as changing
from graft.torch.convert import graph_of
from graft.torch.fresh import fresh_module
from graft.torch.head import arrays, fresh
from graft.torch.revive import network_of
from graft_runtime.card import MULTICLASS

CLASSES = tuple("abcde")
FOREST = {"trees": 40, "nodes": 120, "leaves": 80, "depth": 1, "several": False}  # stumps


@functools.cache
def start(name: str) -> Backbone:
    if name in lite.NETWORKS:  # built from arrays, and not converted
        return load_backbone(name, offline=True)
    drawn = fresh_module(name)
    graph = graph_of(shaken(drawn.module), drawn.preprocess)
    return Backbone(drawn.entry, facts.completed(graph, drawn.preprocess.size), drawn.preprocess, drawn.source)


def made(
    name: str, head: str, reads: str, task: str = MULTICLASS, known: int = 40, compared: Sequence[str] = ()
) -> Classifier:
    """A classifier of random numbers that answers differently from image to image."""
    backbone = start(name)
    chain = layers(backbone.graph.stages)
    names = {"all": chain, "early": chain[:-1], "map": chain[-1:], "last": ()}[reads]
    features = Features(backbone.graph, backbone.preprocess, names, top=reads != "early", pool=reads != "map")
    seen = features.compiled(4)(images_of(features.preprocess.size, 4, 0))
    network = Network(features, made_head(head, features).standardising(seen.mean(0), 1 / (seen.std(0) + 0.1)))
    rng = np.random.default_rng(0)
    stored = unit(rng.normal(0, 1, (known, features.compared(compared).width))).astype(np.float16)
    some = Known(stored, rng.integers(0, 5, known), ("x",) * known, np.sort(rng.uniform(0.5, 1.2, 60)).astype("f4"))
    card = describe(network, backbone, CLASSES, "probe", 1.7)
    card = replace(card, task=task, scales=(1.0, 0.5, 2.0, 1.5, 1.0), shifts=(0.0, 0.1, -0.2, 0.3, 0.0))
    card = replace(card, unknown={"layers": list(compared)})
    return Classifier(network, card, memory=Memory(np.empty((0, 8), np.uint8), known=some) if known >= 0 else None)


def made_head(kind: str, features: Features) -> Head:
    torch.manual_seed(0)
    if kind in ("knn", "forest"):
        return filled(kind, features.width)
    design = {"linear": Linear(init="normal"), "mlp": Mlp(hidden="16"), "conv": Conv(filters=4, hidden="8")}[kind]
    return arrays(fresh(design, features.shape if kind == "conv" else features.width, 5))


def filled(kind: str, width: int) -> Head:
    rng, own = np.random.default_rng(0), {"stored": 30, "neighbours": 7, "pca": 6} if kind == "knn" else FOREST
    spec: dict[str, Any] = {"kind": kind, "width": width, "classes": 5} | own
    tensors: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in shapes(spec).items():
        tensors[name] = rng.normal(0, 1, shape).astype(dtype)
    if kind == "knn":
        return Head(
            spec, tensors | {"judge.features": unit(tensors["judge.features"]), "judge.labels": rng.integers(0, 5, 30)}
        )
    tree, sides = np.arange(40, dtype=np.int32), np.arange(120, dtype=np.int32)[:, None].repeat(2, axis=1)
    sides[80:] = np.stack([2 * tree, 2 * tree + 1], axis=1)
    places = {"roots": 80 + tree, "features": rng.integers(0, width, 120).astype(np.int32), "sides": sides}
    numbers = {"thresholds": tensors["judge.thresholds"] * np.float32(0.3), "leaves": rng.dirichlet(np.ones(5), 80)}
    judge = places | {name: each.astype(np.float32) for name, each in numbers.items()}
    return Head(spec, tensors | {f"judge.{name}": each for name, each in judge.items()}).checked()


def images_of(size: int, count: int, seed: int) -> NDArray[np.uint8]:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    images[1::2] //= 4
    return images


def whole(classifier: Classifier) -> Graph:
    """All that it says as one graph."""
    known = classifier.memory.known if classifier.memory else None
    return composed(classifier.network, classifier.card, known)


def module_of(classifier: Classifier) -> changing.Network:
    """Its network as a module of PyTorch."""
    return network_of(classifier.network, classifier.card)


def outputs_of(graph: Graph) -> Sequence[str]:
    """The names of its outputs."""
    return [each.name for each in onnx.ModelProto.FromString(graph.structure).graph.output]
