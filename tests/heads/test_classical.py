"""One contract for logistic regression and all heads that scikit-learn solves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from graft.heads import classical, linear
from graft.heads.head import Problem, Solution, standardise_features
from graft.metrics.calibration import fit_temperature

COUNT = 60
ONE_STRENGTH = {"logistic": 0.1, "svm": 0.1, "lda": 0.0, "ncm": 0.0, "knn": 5, "mlp": 0.1, "forest": 1}
HEADS = ("logistic", *classical.CLASSICAL_NAMES)
each_head = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "TREES", 10)


def problem_of(apart: float = 2.0, classes: int = 3, width: int = 10, count: int = COUNT, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    features = rng.standard_normal((count, width)) + apart / 2 * rng.standard_normal((classes, width))[labels]
    raw = (features * rng.uniform(0.5, 3, width) + rng.uniform(-2, 2, width)).astype(np.float32)
    fold = (np.arange(count) // classes % 4).astype(np.int8)
    return Problem(standardise_features(raw, (width,)), labels.astype(np.int64), np.arange(count), fold, classes)


def raw_of(problem: Problem) -> NDArray[np.float32]:
    return problem.features.features[np.arange(len(problem))]


def said(solved: Solution, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    return solved.head(raw)


def solve(name: str, problem: Problem) -> Solution:
    return linear.solve_logistic(problem) if name == "logistic" else classical.solve(name, problem)


def strengths(name: str) -> list[float]:
    return list(linear.LOGISTIC_PENALTIES if name == "logistic" else classical._METHODS[name].strengths)


def solve_with_one_strength(name: str, problem: Problem, strength: float | None = None) -> Solution:
    only = [ONE_STRENGTH[name] if strength is None else strength]
    with pytest.MonkeyPatch.context() as patch:
        if name == "logistic":
            patch.setattr(linear, "LOGISTIC_PENALTIES", only)
        else:
            patch.setitem(classical._METHODS, name, replace(classical._METHODS[name], strengths=only))
        return solve(name, problem)


@each_head
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_separable_images_are_told_apart(name: str, classes: int) -> None:
    problem = problem_of(apart=9, classes=classes)
    solved = solve(name, problem)
    assert solved.name == name
    assert solved.logits.shape == (COUNT, classes)
    assert solved.accuracy(problem.labels) == 1
    assert solved.loss < 0.2
    assert solved.loss == fit_temperature(solved.logits, problem.labels)[1]
    assert np.array_equal(said(solved, raw_of(problem)).argmax(axis=1), problem.labels)
    assert solved.strength in strengths(name)


@each_head
def test_the_answer_for_an_image_does_not_depend_on_its_own_label(name: str) -> None:
    problem = problem_of()
    before = solve_with_one_strength(name, problem).logits
    fold = problem.folds == 1
    labels = np.where(fold, (problem.labels + 1) % 3, problem.labels)
    after = solve_with_one_strength(name, replace(problem, labels=labels)).logits
    close = 1e-2 if name == "logistic" else 0  # its folds are searched for together, so they end a little elsewhere
    assert np.abs(after[fold] - before[fold]).max() <= close
    assert not np.allclose(after[~fold], before[~fold], atol=0.1)  # the others have learned from it


@each_head
def test_the_answer_for_an_image_does_not_depend_on_the_features_of_its_fold(name: str) -> None:
    problem = problem_of()
    before = solve_with_one_strength(name, problem).logits
    raw = raw_of(problem).copy()
    one, *rest = np.flatnonzero(problem.folds == 1)
    raw[one] += 3
    changed = replace(problem, features=replace(problem.features, features=raw))
    after = solve_with_one_strength(name, changed).logits
    assert np.allclose(after[rest], before[rest], atol=1e-2 if name == "logistic" else 1e-5)
    assert not np.allclose(after[one], before[one])


@pytest.mark.slow
@each_head
def test_the_strength_is_the_one_with_the_lowest_out_of_fold_loss(name: str) -> None:
    problem = problem_of(apart=1)
    solved = solve(name, problem)
    losses = [solve_with_one_strength(name, problem, strength).loss for strength in strengths(name)]
    assert solved.loss == pytest.approx(min(losses), abs=2e-3)  # a warm start ends a little elsewhere


@each_head
def test_a_class_that_a_fold_never_saw_gets_its_lowest_logit(name: str) -> None:
    problem = problem_of(apart=9)
    fold = np.where(problem.labels == 2, 1, problem.folds).astype(np.int8)  # all of class 2 in one fold
    solved = solve(name, replace(problem, folds=fold))
    outside = fold == 1
    assert np.isfinite(solved.logits).all()
    assert (solved.logits[outside, 2] <= solved.logits[outside].min(axis=1) + 1e-6).all()
    rest = ~outside
    assert (solved.logits[rest].argmax(axis=1) == problem.labels[rest]).all()
    assert np.array_equal(said(solved, raw_of(problem)).argmax(axis=1), problem.labels)  # the last fit saw all


@pytest.mark.parametrize("name", classical.CLASSICAL_NAMES)
def test_where_a_fold_leaves_one_class_there_is_no_opinion(name: str) -> None:
    problem = problem_of(apart=9, classes=2)
    fold = problem.labels.astype(np.int8)
    solved = solve(name, replace(problem, folds=fold))
    assert not solved.logits.any()
    assert solved.loss == pytest.approx(np.log(2))


def own_answers(name: str, strength: float, problem: Problem) -> Any:
    """What scikit-learn itself says for every image after a fit on all."""
    x, y, amount = problem.matrix, problem.labels, 1 / (strength * len(problem)) if strength else 0
    if name == "logistic":
        return LogisticRegression(C=amount, tol=1e-3, max_iter=300).fit(x, y).decision_function(x)
    if name == "svm":
        return LinearSVC(C=amount, random_state=0, tol=1e-3).fit(x, y).decision_function(x)
    if name == "mlp":
        return np.log(MLPClassifier((256,), alpha=strength, max_iter=60, random_state=0).fit(x, y).predict_proba(x))
    near = KNeighborsClassifier(int(strength), metric="cosine", weights=lambda far: np.exp(-far / 0.07))
    return np.log(near.fit(x, y).predict_proba(x) + 1e-4)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("name", ["logistic", "svm", "mlp", "knn"])
def test_the_head_says_of_raw_features_what_scikit_learn_says_of_standardised_ones(name: str) -> None:
    problem = problem_of(apart=1)
    solved = solve_with_one_strength(name, problem)
    got, want = said(solved, raw_of(problem)), own_answers(name, ONE_STRENGTH[name], problem)
    shift = (got - want).mean(axis=1, keepdims=True) if name in ("mlp", "logistic") else 0  # what all classes share
    assert np.allclose(got, want + shift, atol=2e-2 if name == "logistic" else 2e-3)  # ours shrinks the bias a little


def test_of_two_classes_the_first_gets_the_opposite_of_the_score() -> None:
    problem = problem_of(apart=1, classes=2)
    got = said(solve_with_one_strength("svm", problem), raw_of(problem))
    score = own_answers("svm", ONE_STRENGTH["svm"], problem)
    assert np.allclose(got, np.stack([-score, score], axis=1), atol=2e-3)


def test_the_nearest_mean_is_scikit_learns() -> None:
    problem = problem_of(apart=1)
    want = NearestCentroid().fit(problem.matrix, problem.labels).predict(problem.matrix)
    assert np.array_equal(said(classical.solve("ncm", problem), raw_of(problem)).argmax(axis=1), want)


def test_linear_discriminants_by_hand() -> None:
    problem = problem_of(apart=1)
    x, y = problem.matrix.astype(np.float64), problem.labels
    means = np.stack([x[y == label].mean(axis=0) for label in range(3)])
    inside = x - means[y]
    cov, (n, d) = inside.T @ inside / len(x), x.shape
    square, trace = float((cov**2).mean()), float(np.trace(cov)) / d  # Chen et al. 2010, equation 23, as scikit-learn
    rho = min(1.0, (square + trace**2) / ((n + 1) * (square - trace**2 / d)))
    cov = (1 - rho) * cov + rho * trace * np.eye(d)
    inverse = np.linalg.inv(cov)
    far = np.einsum("ncd,de,nce->nc", x[:, None] - means, inverse, x[:, None] - means)
    want = np.log(np.bincount(y) / n) - far / 2
    got = said(classical.solve("lda", problem), raw_of(problem))
    assert np.allclose(got - got.mean(axis=1, keepdims=True), want - want.mean(axis=1, keepdims=True), atol=1e-3)


@pytest.mark.parametrize("name", ["logistic", "svm", "ncm", "knn"])
def test_the_rotation_into_fewer_dimensions_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(apart=3, width=90)
    small = solve_with_one_strength(name, problem)
    identity = np.eye(90, dtype=np.float32)
    for module in (classical, linear):
        monkeypatch.setattr(module, "reduce_problem", lambda problem: (problem, identity))
    plain = solve_with_one_strength(name, problem)
    assert np.allclose(small.logits, plain.logits, atol=5e-2)
    assert np.allclose(said(small, raw_of(problem)), said(plain, raw_of(problem)), atol=5e-2)  # as far as SVM converges
    assert small.head.spec == plain.head.spec


@each_head
def test_a_compact_head_answers_on_features_as_they_come(name: str) -> None:
    """With more features than images the saved head has been rotated back: it must know its own images."""
    problem = problem_of(apart=8, width=90)
    solved = solve(name, problem)
    assert np.array_equal(said(solved, raw_of(problem)).argmax(axis=1), problem.labels)
    assert solved.head.spec["width"] == 90
