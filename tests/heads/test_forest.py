"""A random forest as tensors: each tree ends in scikit-learn's own leaf, and nothing jumps where rounding decides."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from graft.heads import classical
from graft.heads.head import Head, Problem, standardise_features
from graft.heads.nodes import MIN_PROBABILITY, THRESHOLD_BAND
from graft.torch import head
from graft.torch.head import Forest, head_to_module

WIDTH, CLASSES, COUNT = 12, 4, 120


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "TREES", 20)


def problem_of(several: bool = False, classes: int = CLASSES) -> Problem:
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % classes
    raw = (rng.standard_normal((COUNT, WIDTH)) + rng.standard_normal((classes, WIDTH))[labels]).astype(np.float32)
    fold = (np.arange(COUNT) // classes % 4).astype(np.int8)
    drawn = (rng.random((COUNT, classes)) < 0.4).astype(np.uint8)
    drawn[:, 0] = raw[:, 0] > 0
    return Problem(standardise_features(raw, (WIDTH,)), drawn if several else labels, np.arange(COUNT), fold, classes)


def fitted(problem: Problem) -> RandomForestClassifier:
    labels = problem.labels if problem.classes > 1 or not problem.is_multilabel else problem.labels[:, 0]
    return classical._METHODS["forest"].make(1, len(problem)).fit(problem.matrix, labels)


def judge_of(problem: Problem, trees: RandomForestClassifier) -> Forest:
    judge = head_to_module(classical._build_forest_head(problem, trees)).judge
    assert isinstance(judge, Forest)
    return judge


def asked(count: int = 2000) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, WIDTH)).astype(np.float32) * 2


def clear(judge: Forest, x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Rows that lie within the band of no threshold on their way."""
    return (judge.descend(torch.tensor(x), None)[1] >= THRESHOLD_BAND).all(dim=1).numpy()


def test_each_tree_ends_in_the_leaf_of_scikit_learn_also_on_its_thresholds() -> None:
    problem = problem_of()
    trees = fitted(problem)
    judge = judge_of(problem, trees)
    x = asked()
    row = 0
    for tree in trees.estimators_:  # beside and on each threshold, to the last bit
        for feature, threshold in zip(tree.tree_.feature, tree.tree_.threshold, strict=True):
            if feature >= 0 and row + 3 <= len(x):
                near = np.float32(threshold)
                x[row : row + 3, feature] = np.nextafter(near, np.float32(-9)), near, np.nextafter(near, np.float32(9))
                row += 3
    assert row > 1000
    counts = [tree.tree_.node_count for tree in trees.estimators_]
    leaf = np.concatenate([tree.tree_.children_left for tree in trees.estimators_]) < 0
    number = np.cumsum(leaf) - 1  # leaves come first, in their order
    want = number[trees.apply(x) + np.cumsum([0, *counts[:-1]])]
    assert np.array_equal(judge.descend(torch.tensor(x), None)[0].numpy(), want)


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_probabilities_are_those_of_scikit_learn(classes: int) -> None:
    problem = problem_of(classes=classes)
    trees = fitted(problem)
    judge, x = judge_of(problem, trees), asked()
    sure = clear(judge, x)
    got, want = judge(torch.tensor(x)).exp().numpy() - MIN_PROBABILITY, trees.predict_proba(x)
    assert sure.mean() > 0.5
    assert np.abs(got - want)[sure].max() < 1e-6
    assert np.abs(got - want).max() <= 3 * 0.5 / len(trees.estimators_)  # half a vote for each tree in its band


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_probabilities_of_each_label_are_those_of_scikit_learn(classes: int) -> None:
    problem = problem_of(several=True, classes=classes)
    trees = fitted(problem)
    judge, x = judge_of(problem, trees), asked()
    odds = judge(torch.tensor(x)).double().numpy()
    ratio = np.exp(odds)
    got = (ratio * (1 + MIN_PROBABILITY) - MIN_PROBABILITY) / (1 + ratio)
    found = trees.predict_proba(x) if classes > 1 else [trees.predict_proba(x)]
    want = np.stack([each[:, 1] for each in found], axis=1)
    sure = clear(judge, x)
    assert np.abs(got - want)[sure].max() < 1e-5
    assert np.array_equal(
        (odds > 0)[sure & (np.abs(want - 0.5) > 1e-6).all(axis=1)],
        (want > 0.5)[sure & (np.abs(want - 0.5) > 1e-6).all(axis=1)],
    )


def test_a_label_that_all_images_have_and_one_that_none_has() -> None:
    problem = problem_of(several=True)
    labels = problem.labels.copy()
    labels[:, 1], labels[:, 2] = 1, 0
    problem = replace(problem, labels=labels)
    logits = judge_of(problem, fitted(problem))(torch.tensor(asked(50)))
    assert torch.allclose(logits[:, 1], torch.tensor(float(np.log((1 + MIN_PROBABILITY) / MIN_PROBABILITY))))
    assert torch.allclose(logits[:, 2], -logits[:, 1])


def test_across_a_threshold_answers_do_not_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of()
    judge = judge_of(problem, fitted(problem))
    feature, threshold = int(judge.features[judge.roots[0]]), float(judge.thresholds[judge.roots[0]])
    x = torch.zeros(3, WIDTH)
    x[:, feature] = threshold + torch.tensor([-1e-5, 0, 1e-5])
    low, on, high = judge(x).exp()
    assert (low - high).abs().max() < 1e-5 / THRESHOLD_BAND / len(judge.roots) + 1e-6
    assert torch.allclose((low + high) / 2, on, atol=1e-6)
    monkeypatch.setattr(head, "THRESHOLD_BAND", 1e-9)
    low, _, high = judge(x).exp()
    assert (low - high).abs().max() > 0.1 / len(judge.roots)  # so much is a tree's vote worth


def test_a_tree_of_one_leaf_says_what_that_leaf_says() -> None:
    problem = replace(problem_of(), labels=np.zeros(COUNT, np.int64), classes=1)
    judge = judge_of(problem, fitted(problem))
    assert judge.depth == 0
    assert torch.allclose(judge(torch.tensor(asked(3))).exp(), torch.tensor(1 + MIN_PROBABILITY))


@pytest.mark.slow
def test_a_forest_is_rebuilt_from_its_spec_and_tensors() -> None:
    problem = problem_of()
    head = classical.solve("forest", problem).head
    rebuilt = Head(json.loads(json.dumps(head.spec)), head.tensors)
    x = asked(50)
    assert np.array_equal(rebuilt(x), head(x))
    assert head(x).std(axis=0).min() > 0.01


@pytest.mark.slow
def test_the_size_of_a_forest_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "LEAVES", 6)
    monkeypatch.setattr(classical, "DEPTH", 3)
    spec = classical.solve("forest", problem_of()).head.spec
    assert spec["trees"] == 20
    assert spec["leaves"] <= 6 * 20
    assert spec["depth"] <= 3
    assert spec["nodes"] == 2 * spec["leaves"] - 20  # of a binary tree
