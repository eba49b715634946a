"""A classifier as one graph says what the classifier says, for every network, head and task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from drawn import made, module_of, outputs_of, whole

from graft.backbones.graph import inline_weights, prune_graph
from graft.backbones.preprocess import prepend_preprocess
from graft.data.dataset import from_arrays
from graft.metrics.unknown import NEIGHBOURS
from graft.model.classifier import Classifier
from graft.torch.network import find_map_layer
from graft.torch.program import ClassifierModule
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.contract import HEAT, IMAGE, LOGITS, MAP, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN

NEAR = (NEAREST, SIMILARITY)
NETWORKS = [
    *(
        "test_resnet",
        "test_vit",
        "test_convnext",
        "test_efficientnet",
        "tf_efficientnet_lite0",
    ),
    *("mobilenetv3_small_100", "mlp", "cnn", "rnn"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224")),
]


def told(classifier: Classifier, outputs: Sequence[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """What the graph says of decoded images [n, height, width, 3]."""
    composed = whole(classifier)
    assert ClassifierModule(classifier).outputs == tuple(outputs)
    assert list(outputs_of(composed))[: len(outputs)] == list(outputs)
    model = prepend_preprocess(classifier.network.preprocess, inline_weights(prune_graph(composed, outputs)))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return {name: np.asarray(each) for name, each in zip(outputs, session.run(None, {IMAGE: images}), strict=True)}


def check(classifier: Classifier, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    images = np.random.default_rng(1).integers(0, 256, (3, 70, 90, 3), dtype=np.uint8)
    images[1] //= 4
    said = told(classifier, outputs, images)
    network = classifier.network
    prepared = np.stack([network.preprocess.prepare(image) for image in images])
    logits = network(prepared)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3, "a network that says the same of every image proves nothing"
    with torch.no_grad():
        module = module_of(classifier)(torch.from_numpy(prepared)).numpy()
    np.testing.assert_allclose(logits, module, rtol=1e-3, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(said[LOGITS], logits, rtol=1e-3, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(said[PROBABILITIES], classifier.calibrate_logits(logits), atol=1e-4)
    look = classifier.run_forward(from_arrays(list(images)))
    np.testing.assert_allclose(said[UNKNOWN], look.near.scores if look.near else np.zeros(3), atol=1e-4)
    if NEAR[0] in outputs:
        assert look.near
        np.testing.assert_allclose(said[SIMILARITY], look.near.cosines, atol=1e-4)
        assert (said[NEAREST] == look.near.indices).all()
        assert said[NEAREST].dtype == np.int64
        assert (said[NEAREST] != np.arange(NEIGHBOURS)).any()
    return said


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_the_same_as_one_graph(name: str) -> None:
    classifier = made(name, "linear", "all")
    place = find_map_layer(module_of(classifier).features)
    drawn = place is not None and place.is_averaged
    check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, *[MAP] * (place is not None), *[HEAT] * drawn, *NEAR])


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
@pytest.mark.parametrize(
    ("head", "reads"),
    [("linear", "last"), ("linear", "early"), ("mlp", "all"), ("conv", "map"), ("knn", "last"), ("knn", "all")],
)
def test_every_head_answers_the_same_as_one_graph(head: str, reads: str, task: str) -> None:
    classifier = made("test_resnet", head, reads, task)
    check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, MAP, *[HEAT] * (head == "linear"), *NEAR])


def test_without_memory_the_score_of_unknown_is_0() -> None:
    classifier = replace(made("test_resnet", "linear", "all"), memory=None)
    assert not check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT])[UNKNOWN].any()


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
def test_with_too_many_classes_to_remember_it_is_the_energy(task: str) -> None:
    classifier = made("test_resnet", "linear", "all", task)
    assert classifier.memory
    assert classifier.memory.known
    known = replace(classifier.memory.known, features=classifier.memory.known.features[:0], names=())
    check(
        replace(classifier, memory=replace(classifier.memory, known=known)), [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT]
    )


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)])
def test_the_places_of_a_linear_head_add_up_to_its_logits(name: str) -> None:
    classifier = made(name, "linear", "last")
    said = check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT, *NEAR])
    totals, logits = said[HEAT].sum((2, 3)), said[LOGITS] - said[LOGITS].mean(1, keepdims=True)
    np.testing.assert_allclose(totals - totals[:1], logits - logits[:1], rtol=1e-3, atol=1e-3)  # but for a constant


def test_stored_features_are_kept_in_16_bits() -> None:
    model = inline_weights(whole(made("tf_efficientnet_lite0", "linear", "last")))
    halves = [list(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == 10]
    assert halves == [[40, 1280]]
