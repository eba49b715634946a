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

from graft.backbones import lite
from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.features import Features, choose_layers
from graft.backbones.graph import Graph, complete_graph, normalise_rows
from graft.heads.designs import Conv, Linear, Mlp
from graft.heads.head import Head
from graft.heads.nodes import tensor_shapes
from graft.metrics.unknown import KnownImages
from graft.model.card import build_card
from graft.model.classifier import Classifier
from graft.model.memory import Memory
from graft.model.network import Network, build_classifier_graph
from graft.torch import network as changing
from graft.torch.convert import convert_module
from graft.torch.head import build_head, head_to_arrays
from graft.torch.restore import build_random_module, network_to_module
from graft_runtime.card import MULTICLASS

CLASSES = tuple("abcde")
FOREST = {"trees": 40, "nodes": 120, "leaves": 80, "depth": 1, "several": False}  # stumps


@functools.cache
def start(name: str) -> Backbone:
    if name in lite.NETWORKS:  # built from arrays, and not converted
        return load_backbone(name, offline=True)
    drawn = build_random_module(name)
    graph = convert_module(shaken(drawn.module), drawn.preprocess)
    return Backbone(drawn.entry, complete_graph(graph, drawn.preprocess.size), drawn.preprocess, drawn.source)


def made(
    name: str, head: str, reads: str, task: str = MULTICLASS, known: int = 40, compared: Sequence[str] = ()
) -> Classifier:
    """A classifier of random numbers that answers differently from image to image."""
    backbone = start(name)
    chain = choose_layers(backbone.graph.stages)
    names = {"all": chain, "early": chain[:-1], "map": chain[-1:], "last": ()}[reads]
    features = Features(backbone.graph, backbone.preprocess, names, top=reads != "early", pool=reads != "map")
    seen = features.compile_features()(images_of(features.preprocess.size, 4, 0))
    network = Network(features, made_head(head, features).with_standardisation(seen.mean(0), 1 / (seen.std(0) + 0.1)))
    rng = np.random.default_rng(0)
    stored = normalise_rows(rng.normal(0, 1, (known, features.reference_features(compared).width))).astype(np.float16)
    some = KnownImages(
        stored, rng.integers(0, 5, known), ("x",) * known, np.sort(rng.uniform(0.5, 1.2, 60)).astype("f4")
    )
    card = build_card(network, backbone, CLASSES, "probe", 1.7)
    card = replace(card, task=task, scales=(1.0, 0.5, 2.0, 1.5, 1.0), shifts=(0.0, 0.1, -0.2, 0.3, 0.0))
    card = replace(card, unknown={"layers": list(compared)})
    return Classifier(network, card, memory=Memory(np.empty((0, 8), np.uint8), known=some) if known >= 0 else None)


def made_head(kind: str, features: Features) -> Head:
    torch.manual_seed(0)
    if kind in ("knn", "forest"):
        return filled(kind, features.width)
    design = {"linear": Linear(init="normal"), "mlp": Mlp(hidden="16"), "conv": Conv(filters=4, hidden="8")}[kind]
    return head_to_arrays(build_head(design, features.shape if kind == "conv" else features.width, 5))


def filled(kind: str, width: int) -> Head:
    rng, own = np.random.default_rng(0), {"stored": 30, "neighbours": 7, "pca": 6} if kind == "knn" else FOREST
    spec: dict[str, Any] = {"kind": kind, "width": width, "classes": 5} | own
    tensors: dict[str, NDArray[Any]] = {}
    for name, (dtype, shape) in tensor_shapes(spec).items():
        tensors[name] = rng.normal(0, 1, shape).astype(dtype)
    if kind == "knn":
        return Head(
            spec,
            tensors
            | {"judge.features": normalise_rows(tensors["judge.features"]), "judge.labels": rng.integers(0, 5, 30)},
        )
    tree, sides = np.arange(40, dtype=np.int32), np.arange(120, dtype=np.int32)[:, None].repeat(2, axis=1)
    sides[80:] = np.stack([2 * tree, 2 * tree + 1], axis=1)
    places = {"roots": 80 + tree, "features": rng.integers(0, width, 120).astype(np.int32), "sides": sides}
    numbers = {"thresholds": tensors["judge.thresholds"] * np.float32(0.3), "leaves": rng.dirichlet(np.ones(5), 80)}
    judge = places | {name: each.astype(np.float32) for name, each in numbers.items()}
    return Head(spec, tensors | {f"judge.{name}": each for name, each in judge.items()}).check_stored()


def images_of(size: int, count: int, seed: int) -> NDArray[np.uint8]:
    images = np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    images[1::2] //= 4
    return images


def whole(classifier: Classifier) -> Graph:
    """All that it says as one graph."""
    known = classifier.memory.known if classifier.memory else None
    return build_classifier_graph(classifier.network, classifier.card, known)


def module_of(classifier: Classifier) -> changing.NetworkModule:
    """Its network as a module of PyTorch."""
    return network_to_module(classifier.network, classifier.card)


def outputs_of(graph: Graph) -> Sequence[str]:
    """The names of its outputs."""
    return [each.name for each in onnx.ModelProto.FromString(graph.structure).graph.output]
