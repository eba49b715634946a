"""Principal components before a head: scikit-learn's own axes, and one head that takes features as they come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from graft.errors import DataError, UsageError
from graft.heads import choose, classical, head, linear
from graft.heads.choose import reduce_with_pca
from graft.heads.head import Problem, Solution, standardise_features
from graft.training.strategies import EarlyFeatures, Probe

COUNT, KEPT = 60, 5
HEADS = ("ridge", "logistic", *classical.CLASSICAL_NAMES)
each_head = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "TREES", 10)


def problem_of(width: int = 12, classes: int = 3) -> Problem:
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % classes
    features = rng.standard_normal((COUNT, 4)) + 1.5 * rng.standard_normal((classes, 4))[labels]
    mixed = features @ rng.standard_normal((4, width)) + 0.3 * rng.standard_normal((COUNT, width))
    raw = (mixed * rng.uniform(0.5, 3, width) + rng.uniform(-2, 2, width)).astype(np.float32)
    fold = (np.arange(COUNT) // classes % 4).astype(np.int8)
    return Problem(standardise_features(raw, (width,)), labels.astype(np.int64), np.arange(COUNT), fold, classes)


def solve(name: str, given: Problem) -> Solution:
    own = {"ridge": linear.solve_ridge, "logistic": linear.solve_logistic}
    return own[name](given) if name in own else classical.solve(name, given)


def raw_of(given: Problem) -> NDArray[np.float32]:
    return given.features.features[np.arange(len(given))]


@pytest.mark.parametrize("width", [12, 90])
def test_the_axes_are_those_of_scikit_learn(width: int) -> None:
    given = problem_of(width)
    small, axes = reduce_with_pca(given, KEPT)
    own = PCA(KEPT, svd_solver="full").fit(given.matrix)
    assert np.allclose(axes.T, own.components_, atol=1e-3)
    assert np.allclose(small.matrix, own.transform(given.matrix), atol=1e-3 * np.abs(small.matrix).max())
    assert (small.width, small.features.columns.tolist()) == (KEPT, list(range(KEPT)))
    assert np.array_equal(small.labels, given.labels)


@pytest.mark.slow
@each_head
@pytest.mark.parametrize("width", [12, 90])
def test_the_head_takes_features_as_they_come_and_answers_as_one_on_the_components(name: str, width: int) -> None:
    given = problem_of(width)
    chosen = choose.choose_head(name, "last", {"last": given, "all": given}, KEPT)
    rows = PCA(KEPT, svd_solver="full").fit_transform(given.matrix).astype(np.float32)
    plain = replace(given, features=replace(standardise_features(rows, (KEPT,)), mean=np.zeros(KEPT, np.float32)))
    plain = replace(plain, features=replace(plain.features, scale=np.ones(KEPT, np.float32)))
    want = solve(name, plain)
    asked = raw_of(given) + np.random.default_rng(1).standard_normal((COUNT, width)).astype(np.float32)
    got = chosen.solution.head(asked)
    turned = (asked - given.features.mean) * given.features.scale @ reduce_with_pca(given, KEPT)[1]
    own = want.head(turned)
    assert chosen.solution.strength == want.strength
    close = 0.1 if name == "forest" else 5e-2  # components in float32 differ in their last bits
    assert np.quantile(np.abs(got - own), 0.98) <= close
    assert np.abs(own - own.mean(axis=0)).mean() > 0.3
    folded = name not in ("knn", "forest")
    assert chosen.solution.head.spec.get("pca") == (None if folded else KEPT)
    assert chosen.solution.head.spec["width"] == width
    assert chosen.columns.tolist() == list(range(width))


def test_all_components_are_a_rotation_which_ridge_does_not_see() -> None:
    given = problem_of()
    whole = choose.choose_head("ridge", "last", {"last": given, "all": given})
    turned = choose.choose_head("ridge", "last", {"last": given, "all": given}, 12)
    assert np.allclose(turned.solution.logits, whole.solution.logits, atol=1e-4)
    one, other = (chosen.solution.head(raw_of(given)) for chosen in (whole, turned))
    assert np.allclose(one, other, atol=1e-4)


def test_auto_compares_what_is_tried_on_the_components() -> None:
    given = problem_of()
    chosen = choose.choose_head("auto", "auto", {"last": given, "all": given}, KEPT)
    small = reduce_with_pca(given, KEPT)[0]
    losses = [linear.solve_ridge(small).loss, linear.solve_ridge(small).loss, linear.solve_logistic(small).loss]
    assert [line["out_of_fold_loss"] for line in chosen.candidates] == pytest.approx(losses)


def test_with_few_components_a_table_larger_than_memory_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem_of()
    monkeypatch.setattr(head, "MAX_FEATURE_BYTES", COUNT * 12 * 4 - 1)
    with pytest.raises(DataError, match="or keep fewer features with pca=64"):
        choose.choose_head("ncm", "last", {"last": given, "all": given})
    chosen = choose.choose_head("ncm", "last", {"last": given, "all": given}, KEPT)
    assert chosen.solution.accuracy(given.labels) > 0.7


def test_more_axes_than_images_differ_along_are_refused() -> None:
    with pytest.raises(DataError, match=r"pca=60 asks for more axes .* there are 59\. Choose pca=59 or less"):
        choose.choose_head("ridge", "last", {"last": problem_of(90), "all": problem_of(90)}, 60)


@pytest.mark.parametrize("kind", [Probe, EarlyFeatures])
def test_a_number_of_axes_that_cannot_be_is_refused(kind: type) -> None:
    assert kind(pca=0).pca == 0
    with pytest.raises(UsageError, match=r"'pca' must be 1 or more.* Got -1"):
        kind(pca=-1)
