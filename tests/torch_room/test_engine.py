"""ONNX Runtime and PyTorch say the same, in batches of any length; so does a graph by PyTorch on a device."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from shaken import CLASSIC, shaken
from torch import Tensor, nn

from graft import device
from graft.backbones import backbone, wire
from graft.backbones.backbone import load_backbone
from graft.backbones.graph import LAST, complete_graph
from graft.backbones.preprocess import Preprocess
from graft.torch import engine
from graft.torch.convert import convert_module
from graft.torch.engine import GpuSession
from graft.torch.network import FeaturesModule
from graft.torch.restore import backbone_to_module, build_random_module


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "device", lambda: torch.device("cpu"))


@pytest.fixture
def tiny() -> FeaturesModule:
    torch.manual_seed(0)
    parts = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return FeaturesModule(parts.eval(), Preprocess(size=16, resize=16), ())


def draw_batch(count: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 3, size, size), np.uint8)


def eager(network: nn.Module, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    with torch.inference_mode():
        return np.concatenate([network(torch.from_numpy(image[None])).numpy() for image in images])


@pytest.mark.slow
def test_the_default_says_the_same_in_onnx_runtime_and_in_pytorch() -> None:
    backbone = backbone_to_module(load_backbone(offline=True))
    network = FeaturesModule(backbone.module, backbone.preprocess, ("blocks.2.1", "blocks.6"))
    run = engine.compile(network, backbone.preprocess.size)
    images = draw_batch(9, backbone.preprocess.size)
    want = eager(network, images)
    assert isinstance(run, engine.OnnxRuntimeNetwork)
    assert want.std(axis=0).max() > 0.1  # the images do differ
    for count in (1, 7, 8, 9):
        assert np.abs(run(images[:count]) - want[:count]).max() <= 1e-4


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_a_batch_of_any_length_comes_back_whole_and_in_order(tiny: FeaturesModule, count: int) -> None:
    images = draw_batch(count, 16)
    run = engine.compile(tiny, 16)
    assert isinstance(run, engine.OnnxRuntimeNetwork)
    for each in (run, engine.TorchNetwork(tiny, 8)):
        assert np.allclose(each(images), eager(tiny, images), atol=1e-5)


def test_a_network_that_cannot_be_exported_runs_in_pytorch(
    tiny: FeaturesModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise torch.onnx.errors.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    run = engine.compile(tiny, 16)
    assert isinstance(run, engine.TorchNetwork)
    assert np.allclose(run(draw_batch(5, 16)), eager(tiny, draw_batch(5, 16)), atol=1e-5)


def test_a_network_that_differs_once_exported_runs_in_pytorch(
    tiny: FeaturesModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = engine.OnnxRuntimeNetwork._run_batch
    monkeypatch.setattr(
        engine.OnnxRuntimeNetwork, "_run_batch", lambda self, images: once(self, images) * np.float32(1.001)
    )
    run = engine.compile(tiny, 16)
    assert isinstance(run, engine.TorchNetwork)
    assert np.allclose(run(draw_batch(5, 16)), eager(tiny, draw_batch(5, 16)), atol=1e-5)


class Short(nn.Module):
    """Runs out of memory on more than `most` images; otherwise answers with the sum of each."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.seen = most, list[int]()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return images.double().sum((1, 2, 3), keepdim=False)[:, None]


def test_when_memory_runs_out_the_batch_is_halved_and_stays_so() -> None:
    network = Short(2)
    run, images = engine.TorchNetwork(network, 8), draw_batch(7, 4)
    assert np.array_equal(run(images)[:, 0], images.sum((1, 2, 3)))
    assert network.seen == [7, 4, 2, 2, 2, 1]
    assert run.batch == 2
    assert np.array_equal(run(images[:3])[:, 0], images[:3].sum((1, 2, 3)))
    assert network.seen[6:] == [2, 1]


def test_memory_that_does_not_hold_one_image_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        engine.TorchNetwork(Short(0), 8)(draw_batch(3, 4))


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
