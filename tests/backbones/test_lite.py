"""The EfficientNet-Lite family, built from arrays: the same stages, shapes and numbers as timm's."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from graft.backbones import catalog, lite
from graft.backbones.features import choose_layers
from graft.backbones.graph import LAST, MAP, POOLED, PREPARED, TOP, Graph, inline_weights, open_session
from graft.errors import WeightsError
from graft.torch import build
from graft.torch.chain import find_module_stages
from graft.torch.network import FeaturesModule, collect_outputs, find_map_layer, normalise, pool_output

CLOSE = {MAP: 1e-5, POOLED: 4e-6, TOP: 4e-6, LAST: 1e-5}  # of the largest number of an output; rounding leaves half
FAMILY = list(lite.NETWORKS)


def drawn(name: str) -> tuple[torch.nn.Module, dict[str, NDArray[Any]]]:
    """timm's network with random weights, and its tensors.

    Each norm has the statistics of its input, as in a trained network: else rounding is blown up with every layer.
    """
    torch.manual_seed(0)
    network = build.build_network(catalog.find_entry(name))
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for part in norms:
        part.weight.data.uniform_(0.1, 0.4)
        part.bias.data.normal_(0.5, 0.5)
        part.momentum = 1.0
    side = lite.NETWORKS[name].size
    with torch.no_grad():
        network.train()(torch.randn(4, 3, side, side))
    network.eval()
    return network, {key: tensor.numpy() for key, tensor in network.state_dict().items()}


def images(name: str, count: int) -> NDArray[np.uint8]:
    side = lite.NETWORKS[name].size
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


@pytest.mark.parametrize("name", [*FAMILY[:3], *(pytest.param(each, marks=pytest.mark.slow) for each in FAMILY[3:])])
def test_every_output_is_that_of_timm(name: str) -> None:
    entry = catalog.find_entry(name)
    whole, tensors = drawn(name)
    graph = lite.build(name, lite.match_tensors(name, tensors, Path("drawn")))
    backbone, preprocess = build.remove_classifier(entry, whole), catalog.build_preprocess(entry)
    side = torch.zeros(2, 3, preprocess.size, preprocess.size)
    assert [(each.name, each.shape, each.parameters) for each in graph.stages] == [
        (each.name, each.shape, each.parameters) for each in find_module_stages(backbone, side)
    ]
    given = images(name, 2)
    names = [stage.name for stage in graph.stages]
    with torch.no_grad(), collect_outputs(backbone, names) as outputs:
        top = backbone(normalise(preprocess, torch.from_numpy(given)))
    wanted = {MAP + each: outputs[each] for each in names}
    wanted |= {POOLED + each: pool_output(outputs[each]) for each in names} | {TOP: top}
    features = FeaturesModule(backbone, preprocess, choose_layers(find_module_stages(backbone, side)))
    place = find_map_layer(features)
    assert place is not None
    assert graph.top_is_average == place.is_averaged
    wanted[LAST] = outputs[place.name]
    got = open_session(graph).run(given, list(wanted))
    for (output, want), own in zip(wanted.items(), got, strict=True):
        close = next(close for kind, close in CLOSE.items() if output.startswith(kind))
        assert np.abs(own - want.numpy()).max() <= close * np.abs(want.numpy()).max(), output
        assert own.shape == tuple(want.shape), output


@pytest.mark.parametrize("name", FAMILY)
def test_tensors_and_facts_are_those_of_timm(name: str) -> None:
    entry = catalog.find_entry(name)
    state = build.build_network(entry).state_dict()
    assert list(lite.tensor_shapes(name).items()) == [(key, tuple(tensor.shape)) for key, tensor in state.items()]
    facts, own = catalog.build_preprocess(entry), lite.NETWORKS[name]
    assert (own.size, own.resize, own.interpolation) == (facts.size, facts.resize, facts.interpolation)
    assert (facts.mean, facts.std, facts.crop) == (lite.MEAN, lite.STD, "center")


@pytest.fixture(scope="module")
def tensors() -> dict[str, NDArray[Any]]:
    return drawn(FAMILY[0])[1]


@pytest.fixture(scope="module")
def graph(tensors: dict[str, NDArray[Any]]) -> Graph:
    return lite.build(FAMILY[0], tensors)


def test_the_graph_holds_what_pytorch_wants(graph: Graph, tensors: dict[str, NDArray[Any]]) -> None:
    """All of the network's tensors under their names but those of the classifier, and none that was folded."""
    assert graph.tensors.keys() == tensors.keys() - set(lite.CLASSIFIER)
    for name, tensor in graph.tensors.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    assert len(graph.structure) < 100_000


def test_the_graph_is_valid_onnx(graph: Graph) -> None:
    onnx.checker.check_model(inline_weights(graph), full_check=True)
    assert onnx.ModelProto.FromString(graph.structure).graph.input[0].name == PREPARED


def test_the_same_tensors_give_the_same_structure(graph: Graph, tensors: dict[str, NDArray[Any]]) -> None:
    assert lite.build(FAMILY[0], dict(reversed(tensors.items()))).structure == graph.structure


def test_the_classifier_is_read_beside(tensors: dict[str, NDArray[Any]]) -> None:
    found = lite.classifier_weights(tensors)
    assert found is not None
    np.testing.assert_array_equal(found[0], tensors["classifier.weight"])
    np.testing.assert_array_equal(found[1], tensors["classifier.bias"])
    assert lite.classifier_weights({}) is None


def test_tensors_by_other_names_are_taken_by_their_place(tensors: dict[str, NDArray[Any]]) -> None:
    others = {f"layer{at}.{name.rpartition('.')[2]}": each for at, (name, each) in enumerate(tensors.items())}
    found = lite.match_tensors(FAMILY[0], others, Path("others.pth"))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_old_files_lack_the_counters_and_some_the_classifier(tensors: dict[str, NDArray[Any]]) -> None:
    bare = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(lite.BATCH_COUNTER) and name not in lite.CLASSIFIER
    }
    assert lite.match_tensors(FAMILY[0], bare, Path("bare.pth")).keys() == bare.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"bn1.weight": None},
            r"old\.pth does not fit 'tf_efficientnet_lite0': missing bn1\.weight\. Is it",
        ),
        ({"extra": np.zeros(2, np.float32)}, r"unexpected extra"),
        ({"bn1.bias": np.zeros(31, np.float32)}, r"wrong shape bn1\.bias \[31\] for \[32\]"),
        ({"bn1.bias": np.zeros(32, np.int8)}, r"wrong type bn1\.bias int8 for float32"),
        ({"bn1.bias": np.full(32, np.nan, np.float32)}, r"not a number in bn1\.bias"),
    ],
)
def test_tensors_of_another_network(
    change: dict[str, NDArray[Any] | None], message: str, tensors: dict[str, NDArray[Any]]
) -> None:
    changed = {name: each for name, each in {**tensors, **change}.items() if each is not None}
    with pytest.raises(WeightsError, match=message):
        lite.match_tensors(FAMILY[0], changed, Path("old.pth"))


def test_another_of_the_family_does_not_fit(tensors: dict[str, NDArray[Any]]) -> None:
    others = {f"layer{at}.{name.rpartition('.')[2]}": each for at, (name, each) in enumerate(tensors.items())}
    for given in (tensors, others):
        with pytest.raises(WeightsError, match=r"does not fit 'tf_efficientnet_lite1': missing"):
            lite.match_tensors(FAMILY[1], given, Path("lite0.pth"))
