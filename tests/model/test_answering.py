"""A classifier as one graph says what the classifier says, for every network, head and task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from shaken import shaken

from graft.heads.designs import Conv, Linear, Mlp
from graft.model.answering import Answering
from graft.model.card import describe
from graft.model.classifier import Classifier
from graft.model.memory import Memory
from graft.model.unknown import NEIGHBOURS, Known, unit
from graft.networks import graph, pixels
from graft.networks.chain import layers, stages
from graft.networks.fresh import fresh_backbone
from graft.networks.head import Head, fresh
from graft.networks.network import Features, Network
from graft.networks.places import last_place
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.contract import HEAT, IMAGE, LOGITS, MAP, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN

CLASSES = tuple("abcde")
NEAR = (NEAREST, SIMILARITY)
NETWORKS = [
    *(
        "test_resnet",
        "test_vit",
        "test_convnext",
        "test_efficientnet",
        "tf_efficientnet_lite0",
        "deit_tiny_patch16_224",
    ),
    *("mobilenetv3_small_100", "mlp", "cnn", "rnn"),
    pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
]


def made(name: str, head: str = "linear", reads: str = "all", task: str = MULTICLASS, known: bool = True) -> Classifier:
    """A classifier of random numbers that answers differently from picture to picture."""
    backbone = fresh_backbone(name)
    shaken(backbone.module).requires_grad_(False)
    chain = layers(stages(backbone))
    names = {"all": chain, "early": chain[:-1], "map": chain[-1:], "last": ()}[reads]
    features = Features(backbone.module, backbone.preprocess, names, top=reads != "early", pool=reads != "map")
    network = Network(features, _head(head, features)).eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        seen = features(torch.from_numpy(rng.integers(0, 256, (4, 3, *[features.preprocess.size] * 2), dtype=np.uint8)))
    network.head.standardise(seen.mean(0), 1 / (seen.std(0) + 0.1))
    width = network.head.map[0] if network.head.map else features.widths[-1]
    stored = unit(rng.normal(0, 1, (40, width)).astype(np.float32)).astype(np.float16)
    scores = np.sort(rng.uniform(0.5, 1.2, 60)).astype(np.float32)
    memory = Memory(np.empty((0, 8), np.uint8), known=Known(stored, rng.integers(0, 5, 40), ("x",) * 40, scores))
    card = describe(network, backbone, CLASSES, "probe", 1.7)
    card = replace(card, task=task, scales=(1.0, 0.5, 2.0, 1.5, 1.0), shifts=(0.0, 0.1, -0.2, 0.3, 0.0))
    return Classifier(network, card, memory=memory if known else None)


def _head(kind: str, features: Features) -> Head:
    if kind == "knn":
        head = Head({"kind": "knn", "width": features.width, "classes": 5, "stored": 30, "neighbours": 7})
        random = torch.Generator().manual_seed(0)
        head.judge.features.copy_(torch.nn.functional.normalize(torch.randn(30, features.width, generator=random)))
        head.judge.labels.copy_(torch.arange(30) % 5)
        return head
    design = {"linear": Linear(init="normal"), "mlp": Mlp(hidden="16"), "conv": Conv(filters=4, hidden="8")}[kind]
    return fresh(design, features.shape if kind == "conv" else features.width, 5)


def told(classifier: Classifier, outputs: Sequence[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """What the graph says of decoded pictures [n, height, width, 3]."""
    answering = Answering(classifier).eval()
    assert answering.outputs == tuple(outputs)
    side = classifier.network.preprocess.size
    example = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    whole = pixels.before(classifier.network.preprocess, graph.traced(answering, example, outputs))
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    return dict(zip(outputs, session.run(None, {IMAGE: images}), strict=True))


def check(classifier: Classifier, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    images = np.random.default_rng(1).integers(0, 256, (3, 70, 90, 3), dtype=np.uint8)
    images[1] //= 4
    said = told(classifier, outputs, images)
    network = classifier.network
    prepared = torch.from_numpy(np.stack([network.preprocess.prepare(image) for image in images]))
    with torch.no_grad():
        logits = network(prepared).numpy()
    assert np.abs(logits[0] - logits[1]).max() > 1e-3, "a network that says the same of every picture proves nothing"
    np.testing.assert_allclose(said[LOGITS], logits, rtol=1e-3, atol=1e-4 * np.abs(logits).max())
    np.testing.assert_allclose(said[PROBABILITIES], classifier.calibrated(logits), atol=1e-4)
    look = classifier.look(_data(images))
    np.testing.assert_allclose(said[UNKNOWN], look.near.scores if look.near else np.zeros(3), atol=1e-4)
    if NEAR[0] in outputs:
        assert look.near
        np.testing.assert_allclose(said[SIMILARITY], look.near.cosines, atol=1e-4)
        assert (said[NEAREST] == look.near.which).all()
        assert said[NEAREST].dtype == np.int64
        assert (said[NEAREST] != np.arange(NEIGHBOURS)).any()
    return said


def _data(images: np.ndarray):
    from graft.data.dataset import from_arrays

    return from_arrays(list(images))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_the_same_as_one_graph(name: str) -> None:
    classifier = made(name)
    place = last_place(classifier.network.features)
    drawn = place is not None and place.averaged
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
    assert not check(made("test_resnet", known=False), [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT])[UNKNOWN].any()


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
def test_with_too_many_classes_to_remember_it_is_the_energy(task: str) -> None:
    classifier = made("test_resnet", task=task)
    assert classifier.memory
    assert classifier.memory.known
    known = replace(classifier.memory.known, features=classifier.memory.known.features[:0], names=())
    check(
        replace(classifier, memory=replace(classifier.memory, known=known)), [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT]
    )


@pytest.mark.parametrize("name", ["test_resnet", pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow)])
def test_the_places_of_a_linear_head_add_up_to_its_logits(name: str) -> None:
    classifier = made(name, reads="last")
    said = check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT, *NEAR])
    totals, logits = said[HEAT].sum((2, 3)), said[LOGITS] - said[LOGITS].mean(1, keepdims=True)
    np.testing.assert_allclose(totals - totals[:1], logits - logits[:1], rtol=1e-3, atol=1e-3)  # but for a constant


def test_large_tensors_that_16_bits_hold_are_kept_in_them() -> None:
    classifier = made("tf_efficientnet_lite0", reads="last")
    answering = Answering(classifier).eval()
    example = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    model = graph.traced(answering, example, answering.outputs)
    halves = [list(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == 10]
    assert halves == [[1280, 40]]
