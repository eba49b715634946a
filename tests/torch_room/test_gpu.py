"""A graph's outputs by PyTorch on a device, which here is the CPU: the same numbers by the same names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from shaken import CLASSIC, shaken

from graft import device
from graft.backbones import backbone, wire
from graft.backbones.graph import LAST, complete_graph
from graft.backbones.preprocess import Preprocess
from graft.torch.convert import convert_module
from graft.torch.engine import GpuSession
from graft.torch.restore import build_random_module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("test_resnet", 0), ("test_vit", 0), ("test_efficientnet", 0)),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in CLASSIC),
    ],
)
def test_the_outputs_are_those_of_the_graph(name: str, size: int) -> None:
    drawn = build_random_module(name)
    if size:
        drawn = replace(drawn, preprocess=Preprocess(size=size, resize=size))
    graph = complete_graph(convert_module(shaken(drawn.module), drawn.preprocess), drawn.preprocess.size)
    gpu = GpuSession(drawn.module, drawn.preprocess, torch.device("cpu"), LAST in graph.shapes)
    gpu.batch = 2
    side = drawn.preprocess.size
    images = np.random.default_rng(0).integers(0, 256, (3, 3, side, side), np.uint8)
    outputs = wire.output_names(graph.structure)
    for asked in (outputs, *([name] for name in outputs)):  # alone: activations work in place
        for own, theirs in zip(gpu.run(images, asked), graph.runner.run(images, asked), strict=True):
            assert own.shape == theirs.shape
            assert np.abs(own - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_a_batch_too_large_for_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = build_random_module("test_resnet")
    gpu = GpuSession(drawn.module, drawn.preprocess, torch.device("cpu"), False)
    images = np.zeros((3, 3, drawn.preprocess.size, drawn.preprocess.size), np.uint8)
    want, once = gpu.run(images, ["top"])[0], gpu._run_batch

    def full(images: np.ndarray, outputs: list[str]) -> list[np.ndarray]:
        if len(images) > 1:
            raise torch.OutOfMemoryError("full")
        return once(images, outputs)

    monkeypatch.setattr(gpu, "_run_batch", full)
    assert np.allclose(gpu.run(images, ["top"])[0], want, atol=1e-5)
    assert gpu.batch == 1


def test_pytorch_is_asked_for_a_gpu_only_where_there_may_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("graft.torch.engine.move_to_gpu", lambda *given: asked.append(given) or given[1])
    monkeypatch.setattr(device, "is_gpu_likely", lambda: False)
    backbone.load_backbone(offline=True)
    assert not asked
    monkeypatch.setattr(device, "is_gpu_likely", lambda: True)
    backbone.load_backbone(offline=True)
    assert len(asked) == 1
