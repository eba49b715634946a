"""Networks and classifiers of PyTorch as graphs: what a converter has to give, for tests of what is made of it."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
import torch
from shaken import shaken
from torch import Tensor, nn

from graft.backbones.graph import LAST, MAP, POOLED, PREPARED, TOP, Graph, Stage, split
from graft.heads.designs import Conv, Linear, Mlp
from graft.model.card import describe
from graft.model.classifier import Classifier
from graft.model.composed import Reads, composed
from graft.model.memory import Memory
from graft.model.unknown import Known, unit
from graft.networks.chain import layers, stages
from graft.networks.fresh import fresh_backbone
from graft.networks.head import Head, arrays, fresh
from graft.networks.heat import as_map
from graft.networks.network import Backbone, Features, Network, heard, mapped, pooled
from graft.networks.places import last_place
from graft.networks.reference import WithReference
from graft_runtime.card import MULTICLASS

CLASSES = tuple("abcde")


class _Everything(nn.Module):
    """Prepared images to every output of a backbone, in the order of `names`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone, self.preprocess = backbone.module, backbone.preprocess
        chain = stages(backbone)
        self.stages = [stage.name for stage in chain]
        self.mapped = [stage.name for stage in chain if len(stage.shape) == 3]
        self.place = last_place(Features(backbone.module, backbone.preprocess, ()))
        self.names = [TOP, *(POOLED + name for name in self.stages), *(MAP + name for name in self.mapped)]
        self.names += [LAST] * (self.place is not None)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        heard_of = [*self.stages, *([self.place.name] if self.place else [])]
        with heard(self.backbone, heard_of) as outputs:
            top = self.backbone(self.preprocess.normalise(images))
        found = [top, *(pooled(outputs[name]) for name in self.stages)]
        found += [mapped(name, outputs[name]) for name in self.mapped]
        if self.place:
            last = as_map(self.backbone, outputs[self.place.name])
            assert last is not None
            found.append(last)
        return tuple(each * 1 for each in found)  # one value cannot have two names


def drawn(backbone: Backbone) -> Graph:
    """The graph of a backbone; its tensors have the names of PyTorch, but for those that were folded."""
    whole = _Everything(backbone).eval()
    side, file = backbone.preprocess.size, io.BytesIO()
    example = torch.zeros(2, 3, side, side, dtype=torch.uint8)
    names = {"input_names": [PREPARED], "output_names": whole.names}
    free = {name: {0: "n"} for name in (PREPARED, *whole.names)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated
        torch.onnx.export(whole, (example,), file, dynamo=False, opset_version=20, dynamic_axes=free, **names)
    model = onnx.load_from_string(file.getvalue())
    renamed(model, "backbone.")
    structure, tensors = split(model, [each.name for each in model.graph.initializer if len(each.dims) > 0])
    chain = tuple(Stage(each.name, each.shape, each.parameters) for each in stages(backbone))
    return Graph(structure, tensors, chain, averaged=whole.place is not None and whole.place.averaged)


def renamed(model: onnx.ModelProto, prefix: str) -> None:
    """Take this away from the names of weights."""
    for each in model.graph.initializer:
        each.name = each.name.removeprefix(prefix)
    for node in model.graph.node:
        node.input[:] = [name.removeprefix(prefix) for name in node.input]


def outputs_of(graph: Graph) -> Sequence[str]:
    """The names of its outputs."""
    return [each.name for each in onnx.ModelProto.FromString(graph.structure).graph.output]


@functools.cache
def start(name: str) -> tuple[Backbone, Graph]:
    backbone = fresh_backbone(name)
    shaken(backbone.module).requires_grad_(False)
    return backbone, drawn(backbone)


def made(
    name: str, head: str, reads: str, task: str = MULTICLASS, known: int = 40, compared: Sequence[str] = ()
) -> Classifier:
    """A classifier of random numbers that answers differently from image to image."""
    backbone, _ = start(name)
    chain = layers(stages(backbone))
    names = {"all": chain, "early": chain[:-1], "map": chain[-1:], "last": ()}[reads]
    features = Features(backbone.module, backbone.preprocess, names, top=reads != "early", pool=reads != "map")
    network = Network(features, made_head(head, features)).eval().requires_grad_(False)
    with torch.no_grad():
        seen = features(torch.from_numpy(images_of(features.preprocess.size, 4, 0)))
    network.head.standardise(seen.mean(0), 1 / (seen.std(0) + 0.1))
    rng = np.random.default_rng(0)
    stored = unit(rng.normal(0, 1, (known, WithReference(features, compared).width))).astype(np.float16)
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


def whole(name: str, classifier: Classifier) -> Graph:
    head, known = arrays(classifier.network.head), classifier.memory.known if classifier.memory else None
    return composed(start(name)[1], Reads.of(classifier.card), head, classifier.card, known)
