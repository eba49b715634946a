"""A network of PyTorch as a Graph with all outputs that a classifier may read: what a converter has to give."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from graft.backbones.graph import LAST, MAP, POOLED, PREPARED, TOP, Graph, Stage, split
from graft.networks.chain import stages
from graft.networks.heat import as_map
from graft.networks.network import Backbone, Features, heard, mapped, pooled
from graft.networks.places import last_place


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
