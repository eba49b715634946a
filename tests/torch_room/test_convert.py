"""Networks as graphs: what PyTorch says of any number of images, stage for stage, under the names of its tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from graft.backbones.graph import CONSTANT, LAST, MAP, POOLED, PREPARED, TOP, Graph, inline_weights, open_session
from graft.backbones.preprocess import Preprocess
from graft.errors import ExportError
from graft.torch import chain, convert
from graft.torch.alone import temporary_seed
from graft.torch.convert import convert_module
from graft.torch.network import FeaturesModule, as_map, collect_outputs, find_map_layer
from graft.torch.restore import build_random_module

QUICK = [
    *("cnn", "mlp", "rnn"),  # our own; a GRU
    "test_resnet",
    "test_efficientnet_evos",
    "test_vit",
    "test_vit4",  # root mean square norm, which the exporter lacks
    "test_coatnet",
    "tf_mobilenetv3_small_minimal_100",  # 'same' padding
]
SLOW = [
    "alexnet",
    *("vgg16", "googlenet", "inception_v3", "resnet18", "densenet121", "mobilenetv2_100", "squeezenet1_1"),
    *("mobilenetv3_small_100", "tf_efficientnet_lite0", "convnext_atto", "swin_tiny_patch4_window7_224"),
    *("deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "regnety_002"),
    *("test_byobnet", "test_convnext", "test_convnext2", "test_convnext3", "test_efficientnet", "test_efficientnet_gn"),
    *("test_efficientnet_ln", "test_mambaout", "test_maxvit", "test_nfnet", "test_vit2", "test_vit3"),
    "test_vit_relpos",
]
SMALL = Preprocess(16, 16, "bilinear", "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def images(size: int, count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, size, size), np.uint8)


def close(ours: np.ndarray, theirs: Tensor, name: str) -> None:
    want = theirs.numpy()
    assert ours.shape == want.shape, name
    np.testing.assert_allclose(ours, want, rtol=0, atol=1e-4 * max(np.abs(want).max(), 1e-6), err_msg=name)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in SLOW)])
def test_the_graph_says_what_pytorch_says(name: str) -> None:
    backbone = build_random_module(name)
    graph = convert_module(backbone.module, backbone.preprocess)
    own = backbone.module.state_dict()
    assert [(each.name, each.shape, each.parameters) for each in graph.stages] == [
        (each.name, each.shape, each.parameters) for each in chain.find_stages(backbone)
    ]
    assert [each for each in graph.tensors if not each.startswith(CONSTANT)] == list(own)
    assert all(np.shares_memory(graph.tensors[each], own[each].numpy()) for each in own if own[each].numel())
    assert len(graph.structure) < 2**20
    assert_same(graph, FeaturesModule(backbone.module, backbone.preprocess, [each.name for each in graph.stages]))


@torch.no_grad()
def assert_same(graph: Graph, features: FeaturesModule) -> None:
    """Every output, for four images at once and for each alone."""
    given, place = images(features.preprocess.size), find_map_layer(features)
    names = [each.name for each in onnx.ModelProto.FromString(graph.structure).graph.output]
    with collect_outputs(features.backbone, [*features.layers, *([place.name] if place else [])]) as outputs:
        parts = features.forward_parts(torch.from_numpy(given))
    want = dict(zip([*(f"{POOLED}{each}" for each in features.layers), TOP], parts, strict=True))
    maps = {each: outputs[each] for each in features.layers if outputs[each].ndim == 4}
    turned = {each: as_map(features.backbone, output) for each, output in maps.items()}
    want |= {f"{MAP}{each}": output for each, output in turned.items() if output is not None}
    if place:
        last = as_map(features.backbone, outputs[place.name])
        assert last is not None
        want[LAST] = last
    assert sorted(names) == sorted(want)
    assert graph.top_is_average == bool(place and place.is_averaged)
    running = open_session(graph)
    for name, found in zip(names, running.run(given, names), strict=True):
        close(found, want[name], name)
    singly = [running.run(given[row : row + 1], names) for row in range(len(given))]
    for name, rows in zip(names, zip(*singly, strict=True), strict=True):
        close(np.concatenate(rows), want[name], name)


def test_weights_stay_outside_of_the_structure() -> None:
    backbone = build_random_module("test_resnet")
    graph = convert_module(backbone.module, backbone.preprocess)
    inner = onnx.ModelProto.FromString(graph.structure).graph
    outside = [each for each in inner.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    assert {each.name for each in outside} == {each for each in graph.tensors if "num_batches" not in each}
    assert len(graph.structure) * 20 < sum(each.nbytes for each in graph.tensors.values())
    assert [each.name for each in inner.input] == [PREPARED]
    norm = next(node for node in inner.node if node.op_type == "BatchNormalization")
    first = norm.input[1].removesuffix("weight")
    assert list(norm.input)[1:] == [f"{first}{each}" for each in ("weight", "bias", "running_mean", "running_var")]
    onnx.checker.check_model(inline_weights(graph), full_check=True)


def test_equal_and_shared_tensors_keep_their_names() -> None:
    with temporary_seed(0):
        shared = nn.Conv2d(3, 3, 3, padding=1)
        module = nn.Sequential(shared, nn.ReLU(), shared, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    module.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    graph = convert_module(module.eval(), SMALL)
    assert list(graph.tensors) == list(module.state_dict())
    asked = {each.name for each in onnx.ModelProto.FromString(graph.structure).graph.initializer}
    assert {"0.weight", "3.weight", "5.weight", "5.running_var", "5.running_mean"} <= asked


def test_converting_leaves_the_module_as_it_was() -> None:
    backbone = build_random_module("test_resnet")
    module = backbone.module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    graph = convert_module(module, backbone.preprocess)
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())
    assert_same(graph, FeaturesModule(module.eval(), backbone.preprocess, [each.name for each in graph.stages]))


class Odd(nn.Module):
    """Answers that depend on how many images are asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

    def forward(self, given: Tensor) -> Tensor:
        return self.layers(given).mean((2, 3)) * int(given.shape[0])


class Unknown(Odd):
    """A step that no ONNX operator takes."""

    def forward(self, given: Tensor) -> Tensor:
        return torch.linalg.qr(self.layers(given).mean((2, 3)))[1]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Odd, "answers differently for 3 images, in 'top'"), (Unknown, "UnsupportedOperatorError: .*qr")],
)
def test_what_cannot_be_converted_is_an_error(
    kind: type[nn.Module], reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=f"^This network cannot be converted: .*{reason}"):
        convert_module(kind().eval(), SMALL)
    assert capfd.readouterr() == ("", "")  # the exporter would print the whole graph


@pytest.mark.parametrize(("size", "wanted"), [(2, 6), (3, 7), (6, 6), (7, 3), (9, 2), (5, 1)])
def test_means_over_maps_of_any_size_are_pytorchs(size: int, wanted: int) -> None:
    """AlexNet and VGG pool to 6 x 6 and 7 x 7, whatever comes."""
    given = torch.rand(1, 2, size, size, generator=torch.Generator().manual_seed(0))
    means = convert._averaging_matrix(size, wanted)
    torch.testing.assert_close(means @ given @ means.T, torch.nn.functional.adaptive_avg_pool2d(given, wanted))
