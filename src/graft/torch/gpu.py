"""A backbone's graph computed by PyTorch on a GPU: the same outputs, by the same names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.catalog import Entry
from graft.backbones.graph import LAST, MAP, POOLED, TOP, Graph
from graft.backbones.preprocess import Preprocess
from graft.torch.alone import alone
from graft.torch.engine import BATCH_GPU, device
from graft.torch.network import AllHeard, Features, heard, mapped, pooled
from graft.torch.normalise import normalised
from graft.torch.places import as_map, last_place
from graft.torch.weights import module_of


def placed(entry: Entry, graph: Graph, preprocess: Preprocess) -> Graph:
    """The graph with a module on the GPU in the place of ONNX Runtime; as it is where PyTorch finds no GPU."""
    where = device()
    if where.type == "cpu":
        return graph
    return replace(graph, elsewhere=Placed(module_of(entry, graph), preprocess, where, LAST in graph.shapes))


class Placed:
    """A network on a device, asked for a graph's outputs; when memory runs out the batch is halved, and stays so."""

    def __init__(self, module: nn.Module, preprocess: Preprocess, where: torch.device, last: bool) -> None:
        self.module = module.to(where, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.preprocess, self.where, self.batch = preprocess, where, BATCH_GPU
        self.place = last_place(Features(self.module, preprocess, ())) if last else None

    def open(self, outputs: Sequence[str]) -> None:
        """There is nothing to be made ready."""

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """These outputs for any number of images, in the order asked for."""
        rows, start = list[list[NDArray[Any]]](), 0
        while start < max(len(images), 1):
            try:
                rows.append(self._once(images[start : start + self.batch], outputs))
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                torch.cuda.empty_cache()
            else:
                start += self.batch
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def _once(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        names = {name: self._part(name) for name in outputs if name != TOP}
        given = torch.from_numpy(np.ascontiguousarray(images)).to(self.where)
        top: Tensor | None = None
        with alone(), torch.inference_mode():
            with heard(self.module, [*names.values()], stop=TOP not in outputs) as parts, suppress(AllHeard):
                top = self.module(normalised(self.preprocess, given))
            found = [self._output(name, top if name == TOP else parts[names[name]]) for name in outputs]
            return [each.float().cpu().numpy() for each in found]

    def _part(self, name: str) -> str:
        """The part of the network whose output it is made of."""
        if name == LAST:
            assert self.place
            return self.place.name
        return name.partition("/")[2]

    def _output(self, name: str, said: Tensor | None) -> Tensor:
        assert said is not None
        if name == LAST:
            said = as_map(self.module, said)
            assert said is not None
        return pooled(said) if name.startswith(POOLED) else mapped(name, said) if name.startswith(MAP) else said
