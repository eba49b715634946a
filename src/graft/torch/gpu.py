"""Run a backbone's graph in PyTorch on a GPU, with the same named outputs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import LAST, MAP, POOLED, TOP, Graph
from graft.backbones.preprocess import Preprocess
from graft.torch.alone import hold_torch_lock
from graft.torch.engine import BATCH_GPU, device
from graft.torch.network import (
    FeaturesModule,
    ForwardStopped,
    as_map,
    collect_outputs,
    find_map_layer,
    normalise,
    pool_output,
    to_feature_map,
)
from graft.torch.weights import build_from_graph


def move_to_gpu(entry: CatalogEntry, graph: Graph, preprocess: Preprocess) -> Graph:
    """The graph with a module on the GPU in the place of ONNX Runtime; as it is where PyTorch finds no GPU."""
    target = device()
    if target.type == "cpu":
        return graph
    return replace(
        graph, other_runner=GpuSession(build_from_graph(entry, graph), preprocess, target, LAST in graph.shapes)
    )


class GpuSession:
    """Compute a graph's outputs with a module on a device; when memory runs out the batch is halved for good."""

    def __init__(self, module: nn.Module, preprocess: Preprocess, where: torch.device, has_map: bool) -> None:
        self.module = module.to(where, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.preprocess, self.device, self.batch = preprocess, where, BATCH_GPU
        self.map_layer = find_map_layer(FeaturesModule(self.module, preprocess, ())) if has_map else None

    def open(self, outputs: Sequence[str]) -> None:
        """There is nothing to be made ready."""

    def run(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        """These outputs for any number of images, in the order asked for."""
        rows, start = list[list[NDArray[Any]]](), 0
        while start < max(len(images), 1):
            try:
                rows.append(self._run_batch(images[start : start + self.batch], outputs))
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                torch.cuda.empty_cache()
            else:
                start += self.batch
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    def _run_batch(self, images: NDArray[np.uint8], outputs: Sequence[str]) -> list[NDArray[Any]]:
        names = {name: self._module_name(name) for name in outputs if name != TOP}
        given = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        top: Tensor | None = None
        with hold_torch_lock(), torch.inference_mode():
            with (
                collect_outputs(self.module, [*names.values()], stop=TOP not in outputs) as parts,
                suppress(ForwardStopped),
            ):
                top = self.module(normalise(self.preprocess, given))
            found = [self._select_output(name, top if name == TOP else parts[names[name]]) for name in outputs]
            return [each.float().cpu().numpy() for each in found]

    def _module_name(self, name: str) -> str:
        """The part of the network whose output it is made of."""
        if name == LAST:
            assert self.map_layer
            return self.map_layer.name
        return name.partition("/")[2]

    def _select_output(self, name: str, output: Tensor | None) -> Tensor:
        assert output is not None
        if name == LAST:
            output = as_map(self.module, output)
            assert output is not None
        return (
            pool_output(output)
            if name.startswith(POOLED)
            else to_feature_map(name, output)
            if name.startswith(MAP)
            else output
        )
