"""Heads as arrays say what the same heads say in PyTorch, of sound features and of broken ones."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from graft.heads import designs
from graft.heads.head import Head, zero_tensors
from graft.heads.nodes import tensor_shapes
from graft.torch import head as modules

WIDTH, CLASSES, MAP = 24, 3, [6, 2, 2]
DENSE = {"hidden": [7, 5], "activation": "relu", "dropout": 0.0}
FOREST = {"kind": "forest", "trees": 5, "nodes": 35, "leaves": 20, "depth": 3}  # each tree of 4 leaves and 3 nodes
KINDS: list[dict[str, Any]] = [
    {"kind": "linear"},
    {"kind": "linear", "dropout": 0.4},
    {"kind": "linear", "pca": 4},
    {"kind": "mlp", "hidden": [7]},  # as before activations could be chosen
    {"kind": "mlp", **DENSE, "hidden": []},
    *({"kind": "mlp", **DENSE, "activation": name, "dropout": 0.2} for name in designs.ACTIVATIONS),
    {"kind": "conv", "shape": MAP, "filters": 4, "spatial_dropout": 0.0, **DENSE},
    {"kind": "conv", "shape": [2, 3, 4], "filters": 4, "padding": "same", "spatial_dropout": 0.3, **DENSE},
    {"kind": "conv", "shape": [1, 6, 4], "filters": 4, "padding": "valid", "spatial_dropout": 0.3, **DENSE},
    {"kind": "conv", "shape": [24, 1, 1], "filters": 4, "spatial_dropout": 0.0, **DENSE},
    {"kind": "knn", "stored": 30, "neighbours": 7},
    {"kind": "knn", "stored": 4, "neighbours": 99, "pca": 6},
    {**FOREST, "several": False},
    {**FOREST, "several": True, "pca": 5},
]
each_kind = pytest.mark.parametrize("spec", KINDS, ids=lambda spec: "-".join(map(str, spec.values())))


def filled(spec: dict[str, Any], seed: int = 0) -> Head:
    """A head of random numbers."""
    spec = {"width": WIDTH, "classes": CLASSES} | spec
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {
        name: rng.normal(0, 0.7, shape).astype(kind) for name, (kind, shape) in tensor_shapes(spec).items()
    }
    tensors["scale"] = np.abs(tensors["scale"]) + np.float32(0.5)
    if spec["kind"] == "knn":
        stored = tensors["judge.features"]
        tensors["judge.features"] = stored / np.linalg.norm(stored, axis=1, keepdims=True)
        tensors["judge.labels"] = rng.integers(0, CLASSES, spec["stored"])
    if spec["kind"] == "forest":
        tensors |= forest(rng, spec.get("pca", WIDTH), spec["classes"])
    return Head(spec, tensors).check_stored()


def forest(rng: np.random.Generator, width: int, classes: int) -> dict[str, np.ndarray]:
    """Five trees of three nodes above four leaves; the leaves of all come first."""
    leaves = rng.dirichlet(np.ones(classes), 20).astype(np.float32)
    sides, roots = np.repeat(np.arange(35, dtype=np.int32)[:, None], 2, axis=1), 20 + 3 * np.arange(5, dtype=np.int32)
    for tree, root in enumerate(roots):
        sides[root] = root + 1, root + 2
        sides[root + 1], sides[root + 2] = (4 * tree, 4 * tree + 1), (4 * tree + 2, 4 * tree + 3)
    thresholds = np.r_[np.full(20, 1e30), rng.normal(0, 0.5, 15)].astype(np.float32)
    places = {"roots": roots, "features": rng.integers(0, width, 35).astype(np.int32), "sides": sides}
    return {f"judge.{name}": each for name, each in {**places, "thresholds": thresholds, "leaves": leaves}.items()}


def told(head: Head, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return modules.head_to_module(head)(torch.from_numpy(features)).numpy()


@each_kind
@pytest.mark.parametrize("count", [0, 1, 9])
def test_it_says_what_pytorch_says(spec: dict[str, Any], count: int) -> None:
    head = filled(spec)
    features = np.random.default_rng(1).normal(0.2, 1, (count, WIDTH)).astype(np.float32)
    got = head(features)
    assert got.shape == (count, CLASSES)
    np.testing.assert_allclose(got, told(head, features), rtol=1e-5, atol=1e-5)
    if count > 1:
        assert np.ptp(got, axis=0).max() > 0.01  # a head that says the same of every image proves nothing


@each_kind
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-40])
def test_broken_features_are_judged_as_pytorch_judges_them(spec: dict[str, Any], broken: float) -> None:
    head = filled(spec)
    features = np.random.default_rng(1).normal(0.2, 1, (3, WIDTH)).astype(np.float32)
    features[0, 3] = features[1] = broken
    got, want = head(features), told(head, features)
    sound = np.isfinite(want).all(axis=1)
    assert (np.isfinite(got).all(axis=1) == sound).all()
    assert sound[2]
    np.testing.assert_allclose(got[sound], want[sound], rtol=1e-4, atol=1e-5)


@each_kind
def test_one_broken_feature_is_noticed_wherever_pytorch_notices_it(spec: dict[str, Any]) -> None:
    head = filled(spec)
    features = np.random.default_rng(1).normal(0.2, 1, (WIDTH, WIDTH)).astype(np.float32)
    np.fill_diagonal(features, np.nan)
    got, want = head(features), told(head, features)
    assert (np.isfinite(got).all(axis=1) == np.isfinite(want).all(axis=1)).all()


def test_a_feature_on_a_threshold_hears_both_sides() -> None:
    head = filled({**FOREST, "several": False})
    features = np.random.default_rng(1).normal(0.2, 1, (200, WIDTH)).astype(np.float32)
    tensors, root = head.tensors, 20
    feature = int(tensors["judge.features"][root])
    edge = tensors["judge.thresholds"][root] / tensors["scale"][feature] + tensors["mean"][feature]
    features[:, feature] = edge + np.linspace(-2e-3, 2e-3, 200)
    np.testing.assert_allclose(head(features), told(head, features), rtol=1e-4, atol=1e-4)


@each_kind
def test_arrays_and_modules_are_copies_of_each_other(spec: dict[str, Any]) -> None:
    head = filled(spec)
    back = modules.head_to_arrays(modules.head_to_module(head))
    assert json.loads(json.dumps(back.spec)) == head.spec
    assert back.tensors.keys() == head.tensors.keys()
    for name, tensor in head.tensors.items():
        np.testing.assert_array_equal(back.tensors[name], tensor)
        assert not np.shares_memory(back.tensors[name], tensor)
    features = np.ones((2, WIDTH), np.float32)
    assert (pickle.loads(pickle.dumps(head))(features) == head(features)).all()


@each_kind
def test_centred_logits_sum_to_0_and_differ_as_before(spec: dict[str, Any]) -> None:
    head = filled(spec)
    features = np.random.default_rng(1).normal(0.2, 1, (9, WIDTH)).astype(np.float32)
    before, centred = head(features), head.centre_logits()
    assert (centred is not None) == (spec["kind"] not in ("knn", "forest"))
    if centred is not None:
        np.testing.assert_allclose(centred(features), before - before.mean(axis=1, keepdims=True), atol=1e-5)
        np.testing.assert_array_equal(head(features), before)


@each_kind
def test_it_standardises_as_pytorch_does(spec: dict[str, Any]) -> None:
    head, rng = filled(spec), np.random.default_rng(2)
    mean, scale = rng.normal(0, 1, WIDTH).astype(np.float32), rng.uniform(0.5, 2, WIDTH).astype(np.float32)
    module = modules.head_to_module(head)
    module.standardise(torch.from_numpy(mean), torch.from_numpy(scale))
    got = head.with_standardisation(mean, scale)
    for name in ("mean", "scale"):
        np.testing.assert_allclose(got.tensors[name], module.state_dict()[name].numpy(), rtol=1e-6, atol=1e-6)


@each_kind
def test_its_tensors_are_those_of_the_module(spec: dict[str, Any]) -> None:
    spec = {"width": WIDTH, "classes": CLASSES} | spec
    state = modules.HeadModule(spec).state_dict()
    want = {name: (tensor.numpy().dtype, tuple(tensor.shape)) for name, tensor in state.items()}
    assert {name: (np.dtype(kind), shape) for name, (kind, shape) in tensor_shapes(spec).items()} == want
    assert zero_tensors(spec).keys() == want.keys()


def test_activations_and_initialisers_are_those_of_the_module() -> None:
    assert list(modules.ACTIVATIONS) == list(designs.ACTIVATIONS)
    assert list(modules.INITIALISERS) == list(designs.INITIALISERS)


def test_telling_what_a_head_may_be_loads_nothing_heavy() -> None:
    code = (
        "import sys; from graft.training.plan import Plan; Plan('tail', 'mlp:hidden=8+8').check(); "
        "from graft.heads import choose; from graft.model import explain, network; "
        "print(*{'torch', 'timm', 'sklearn', 'onnx'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "tree"}, "there is no head of kind 'tree'; there are linear, mlp, conv, knn and forest"),
        ({"kind": "mlp"}, "the head has no 'hidden'"),
        ({"kind": "linear", "width": 0}, "the head's 'width' is a whole number from 1 to 2"),
        ({"kind": "mlp", "hidden": [5], "activation": "cos"}, "'activation' is one of relu, leaky-relu, .*and is cos"),
        ({**KINDS[10], "shape": [5, 2, 2]}, r"A map of \[5, 2, 2\] has 20 features, not 24"),
    ],
)
def test_a_spec_that_cannot_be_is_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Head({"width": WIDTH, "classes": CLASSES} | spec, {})


def test_tensors_that_are_not_those_of_the_spec_are_named() -> None:
    head = filled({"kind": "linear"})
    weight = head.tensors["judge.weight"]
    with pytest.raises(ValueError, match=r"lacks tensor 'judge\.bias'"):
        Head(head.spec, {name: each for name, each in head.tensors.items() if name != "judge.bias"})
    with pytest.raises(ValueError, match="has an unknown tensor 'axes'"):
        head.with_tensors({"axes": weight})
    with pytest.raises(ValueError, match=r"'judge\.weight' must be float32 \[3, 24\], and is float32 \[24, 3\]"):
        head.with_tensors({"judge.weight": weight.T})
    with pytest.raises(ValueError, match=r"'judge\.weight' must be float32 \[3, 24\], and is float64 \[3, 24\]"):
        head.with_tensors({"judge.weight": weight.astype(np.float64)})


@pytest.mark.parametrize(
    ("spec", "name", "place", "message"),
    [
        ({**FOREST, "several": False}, "roots", 35, r"head\.judge\.roots has places from 23 to 35, and there are 35"),
        ({**FOREST, "several": True, "pca": 5}, "features", 5, r"head\.judge\.features has .* to 5, and there are 5"),
        ({**FOREST, "several": False}, "sides", -1, r"head\.judge\.sides has places from -1"),
        ({**FOREST, "several": False, "depth": 1}, "roots", 20, "the ways down from head.judge.roots has places"),
        ({"kind": "knn", "stored": 30, "neighbours": 7}, "labels", 3, r"head\.judge\.labels has places from 0 to 3"),
    ],
)
def test_a_place_that_is_not_there_is_found(spec: dict[str, Any], name: str, place: int, message: str) -> None:
    head = filled(spec | ({"depth": 3} if "depth" in spec else {}))
    tensor = head.tensors[f"judge.{name}"].copy()
    tensor.flat[0] = place
    changed = Head(head.spec | spec, {**head.tensors, f"judge.{name}": tensor})
    with pytest.raises(ValueError, match=message):
        changed.check_stored()
