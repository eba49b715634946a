"""The graph composed without PyTorch says what the classifier made of PyTorch's modules says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from drawn import images_of, made, module_of, outputs_of, start, whole

from graft.backbones.features import Features
from graft.backbones.graph import open_session, prune_graph, truncate_graph
from graft.errors import ModelError, UsageError
from graft.heads.head import Head
from graft.metrics.unknown import reference_layers
from graft.model.classifier import Classifier
from graft.model.network import BACKBONE, FEATURES, HEAD, KNOWN, REFERENCE, build_classifier_graph, tensors_with_prefix
from graft.torch.network import ReferenceFeatures
from graft.torch.program import ClassifierModule
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.contract import HEAT, LOGITS, MAP, NEAREST, PROBABILITIES, SIMILARITY, UNKNOWN

NEAR = (NEAREST, SIMILARITY)


def check(classifier: Classifier, outputs: Sequence[str]) -> dict[str, Any]:
    graph, network = whole(classifier), module_of(classifier)
    images = images_of(network.preprocess.size, 3, 1)
    names = [*outputs, FEATURES, REFERENCE]
    assert list(outputs_of(graph))[: len(names)] == names
    found = open_session(graph)
    said = dict(zip(names, found.run(images, names), strict=True))
    alone = [found.run(image[None], names) for image in images]
    answering = ClassifierModule(classifier).eval()
    assert answering.outputs == tuple(outputs)
    with torch.no_grad():
        given = torch.from_numpy(images)
        parts, reference = ReferenceFeatures(network.features, classifier.reference_layers).forward_parts(given)
        reference = reference if classifier.reference_layers else torch.nn.functional.normalize(reference)
        want = [*answering(given), torch.cat(parts, dim=1), reference]
    for at, (each, value) in enumerate(zip(names, want, strict=True)):
        if each == NEAREST:
            assert said[each].dtype == np.int64
            np.testing.assert_array_equal(said[each], value.numpy())
        else:
            close = 1e-5 * max(float(value.abs().max()), 1)
            np.testing.assert_allclose(said[each], value.numpy(), rtol=1e-5, atol=close, err_msg=each)
            one = np.concatenate([answers[at] for answers in alone])
            np.testing.assert_allclose(one, said[each], rtol=1e-5, atol=close, err_msg=each)
    assert np.abs(said[LOGITS][0] - said[LOGITS][1]).max() > 1e-3, "the same of every image proves nothing"
    return said


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
@pytest.mark.parametrize(
    ("head", "reads"),
    [
        *(("linear", "last"), ("linear", "all"), ("linear", "early"), ("mlp", "all"), ("conv", "map")),
        *(("knn", "last"), ("knn", "all"), ("forest", "last"), ("forest", "early")),
    ],
)
def test_every_head_and_task_answers_as_before(head: str, reads: str, task: str) -> None:
    classifier = made("test_resnet", head, reads, task)
    check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, MAP, *[HEAT] * (head == "linear"), *NEAR])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "drawn"),
    [
        ("test_vit", False),
        ("test_convnext", False),
        ("test_efficientnet", True),
        ("mobilenetv3_small_100", False),
        ("mlp", None),
    ],
)
def test_every_kind_of_network_answers_as_before(name: str, drawn: bool | None) -> None:
    places = [MAP] * (drawn is not None) + [HEAT] * bool(drawn)
    check(made(name, "linear", "all"), [PROBABILITIES, UNKNOWN, LOGITS, *places, *NEAR])


@pytest.mark.parametrize("reads", ["last", "early", "map"])
def test_images_are_compared_by_the_layers_that_the_card_names(reads: str) -> None:
    compared = [stage.name for stage in start("test_resnet").graph.stages][1:3]
    classifier = made("test_resnet", "conv" if reads == "map" else "linear", reads, compared=compared)
    said = check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, MAP, *[HEAT] * (reads != "map"), *NEAR])
    assert np.linalg.norm(said[REFERENCE], axis=1) == pytest.approx(np.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
@pytest.mark.parametrize("known", [-1, 0, 3])
def test_what_is_unknown_is_told_with_few_images_without_any_and_not_at_all(known: int, task: str) -> None:
    classifier = made("test_resnet", "linear", "last", task, max(known, 0))
    classifier = classifier if known >= 0 else replace(classifier, memory=None)
    outputs = [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT, *[*NEAR] * (known > 0)]
    said = check(classifier, outputs)
    assert said[UNKNOWN].any() == (known >= 0)


def test_logits_without_bounds_have_an_energy() -> None:
    classifier = made("test_resnet", "linear", "last", known=0)
    head = classifier.network.head
    weight = np.asarray(head.tensors["judge.weight"], np.float32)
    head = head.with_tensors({"judge.weight": weight * np.float32(1e5)})
    classifier = replace(classifier, network=replace(classifier.network, head=head))
    said = check(classifier, [PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT])
    assert np.isfinite(said[UNKNOWN]).all()


def test_the_head_alone_says_of_the_features_what_the_graph_says() -> None:
    classifier = made("test_resnet", "mlp", "all")
    graph = whole(classifier)
    features, logits = open_session(graph).run(images_of(classifier.network.preprocess.size, 3, 1), [FEATURES, LOGITS])
    head = Head(classifier.network.head.spec, tensors_with_prefix(graph, HEAD))
    np.testing.assert_allclose(head(features), logits, rtol=1e-5, atol=1e-5)


def test_tensors_are_there_once_by_the_names_of_the_classifier() -> None:
    classifier = made("test_resnet", "linear", "early")
    backbone = start("test_resnet").graph
    graph = whole(classifier)
    read = [stage.name for stage in backbone.stages].index(classifier.network.features.layers[-1])
    own = {BACKBONE + name for name in truncate_graph(backbone, read + 1).tensors}
    assert graph.tensors.keys() == own | {HEAD + name for name in classifier.network.head.tensors} | {KNOWN}
    assert all(graph.tensors[name] is backbone.tensors[name.removeprefix(BACKBONE)] for name in own)
    assert graph.tensors[KNOWN].dtype == np.float16
    assert len(own) < len(backbone.tensors)  # early features need no last stage
    assert len(prune_graph(graph, [MAP]).tensors) < len(graph.tensors)
    inside = onnx.ModelProto.FromString(graph.structure).graph
    assert len(graph.structure) < 100_000
    assert {each.name for each in inside.initializer if each.external_data} <= graph.tensors.keys()


def test_a_stage_that_is_not_there_is_named() -> None:
    classifier = made("test_resnet", "linear", "last")
    card = replace(classifier.card, unknown={"layers": ["layer9"]})
    with pytest.raises(ModelError, match=r"has no output 'pooled/layer9'; it has pooled/"):
        build_classifier_graph(classifier.network, card, None)
    features = replace(classifier.network.features, layers=("layer9",))
    with pytest.raises(ModelError, match=r"has no output 'pooled/layer9'; it has pooled/"):
        build_classifier_graph(replace(classifier.network, features=features), classifier.card, None)


@pytest.mark.parametrize(
    ("layers", "top", "pool", "message"),
    [
        ((), False, True, "need the name of at least one layer"),
        (("a", "b"), False, False, "that of one layer"),
        ((), True, False, "that of one layer"),
    ],
)
def test_reading_what_cannot_be_read_is_refused(layers: Any, top: bool, pool: bool, message: str) -> None:
    backbone = start("test_resnet")
    with pytest.raises(UsageError, match=message):
        Features(backbone.graph, backbone.preprocess, layers, top, pool)


def test_a_card_says_what_images_are_compared_by() -> None:
    assert reference_layers({"layers": ["b", "c"]}) == ("b", "c")
    assert reference_layers({"layer": "b"}) == ("b",)
