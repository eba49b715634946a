"""One contract for all heads that take several labels: each label is a question of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from graft.errors import UsageError
from graft.heads import choose, classical, designs, linear
from graft.heads.head import Problem, Solution, standardise_features
from graft.metrics.calibration import fit_temperature

COUNT = 60
ONE_STRENGTH = {"ridge": 0.1, "logistic": 0.1, "svm": 0.1, "lda": 0.0, "ncm": 0.0, "mlp": 0.1, "forest": 1}
HEADS = tuple(ONE_STRENGTH)
each_head = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "TREES", 20)


def problem_of(apart: float = 2.0, classes: int = 3, width: int = 12, seed: int = 0) -> Problem:
    """Images that show each class with a chance of a third, and a direction in the features for each class."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((COUNT, classes)) < 1 / 3).astype(np.uint8)
    features = rng.standard_normal((COUNT, width)) + apart * labels @ rng.standard_normal((classes, width))
    raw = (features * rng.uniform(0.5, 3, width) + rng.uniform(-2, 2, width)).astype(np.float32)
    return Problem(
        standardise_features(raw, (width,)), labels, np.arange(COUNT), (np.arange(COUNT) % 4).astype(np.int8), classes
    )


def solve(name: str, problem: Problem) -> Solution:
    own = {"ridge": linear.solve_ridge, "logistic": linear.solve_logistic}
    return own[name](problem) if name in own else classical.solve(name, problem)


def solve_with_one_strength(name: str, problem: Problem) -> Solution:
    only = [ONE_STRENGTH[name]]
    with pytest.MonkeyPatch.context() as patch:
        if name in ("ridge", "logistic"):
            patch.setattr(linear, {"ridge": "RIDGE_PENALTIES", "logistic": "LOGISTIC_PENALTIES"}[name], np.array(only))
        else:
            patch.setitem(classical._METHODS, name, replace(classical._METHODS[name], strengths=only))
        return solve(name, problem)


def said(solved: Solution, problem: Problem) -> NDArray[np.float32]:
    return solved.head(problem.features.features[np.arange(COUNT)])


@each_head
@pytest.mark.parametrize(("classes", "width"), [(1, 12), (3, 12), (3, 90)])
def test_labels_that_show_are_found(name: str, classes: int, width: int) -> None:
    problem = problem_of(apart=4, classes=classes, width=width)
    solved = solve(name, problem)
    assert solved.name == name
    assert solved.logits.shape == (COUNT, classes)
    assert solved.loss == fit_temperature(solved.logits, problem.labels)[1]
    figures = solved.metrics(problem.labels)
    assert figures["out_of_fold_mean_average_precision"] > 0.97
    assert figures["out_of_fold_accuracy"] == ((solved.logits > 0) == problem.labels).mean() > 0.9
    assert figures["out_of_fold_loss"] == solved.loss < 0.3
    own = said(solved, problem)
    least = 0.97 if name == "forest" else 1  # not every tree has seen every image
    assert ((own > 0) == problem.labels).mean() >= least
    assert own.std(axis=0).min() > 0.1


def own_answers(name: str, problem: Problem) -> Any:
    """What scikit-learn itself says for every image and label after a fit on all."""
    x, y, strength = problem.matrix, problem.labels, ONE_STRENGTH[name]
    amount = 1 / (strength * COUNT) if strength else 0
    if name == "mlp":
        return logit(MLPClassifier((256,), alpha=strength, max_iter=60, random_state=0).fit(x, y).predict_proba(x))
    columns = []
    for there in y.T.astype(int):
        if name == "logistic":
            columns.append(LogisticRegression(C=amount, tol=1e-3, max_iter=300).fit(x, there).decision_function(x))
        elif name == "svm":
            line = LinearSVC(C=amount, random_state=0, tol=1e-3, intercept_scaling=10).fit(x, there)
            columns.append(2 * line.decision_function(x))
        else:
            near, far = (x - mean for mean in NearestCentroid().fit(x, there).centroids_[::-1])
            columns.append(((far**2).sum(axis=1) - (near**2).sum(axis=1)) / 2)
    return np.stack(columns, axis=1)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("name", ["logistic", "svm", "ncm", "mlp"])
def test_the_head_says_of_each_label_what_scikit_learn_says(name: str) -> None:
    problem = problem_of(apart=1)
    got, want = said(solve_with_one_strength(name, problem), problem), own_answers(name, problem)
    assert np.allclose(got, want, atol=3e-2 if name == "logistic" else 2e-3)  # ours shrinks the bias a little


def test_ridge_on_one_label_each_is_ridge_on_several() -> None:
    single = replace(problem_of(), labels=np.arange(COUNT) % 3)
    several = replace(single, labels=single.targets.astype(np.uint8))
    one, other = (solve_with_one_strength("ridge", each) for each in (single, several))
    assert np.array_equal(one.logits, other.logits)
    assert np.array_equal(said(one, single), said(other, several))
    assert one.loss != other.loss


def test_discriminants_of_each_label_are_those_of_two_classes() -> None:
    problem = problem_of()
    found = said(solve_with_one_strength("lda", problem), problem)
    for at in range(3):
        two = said(
            solve_with_one_strength("lda", replace(problem, labels=problem.labels[:, at].astype(int), classes=2)),
            problem,
        )
        assert np.allclose(found[:, at], two[:, 1] - two[:, 0], atol=1e-4)


@each_head
def test_the_answer_for_an_image_does_not_depend_on_its_own_labels(name: str) -> None:
    problem = problem_of()
    before = solve_with_one_strength(name, problem).logits
    fold = problem.folds == 1
    if name == "ridge":
        fold = np.arange(COUNT) == 7  # it leaves out one unit at a time
    labels = np.where(fold[:, None], 1 - problem.labels, problem.labels)
    after = solve_with_one_strength(name, replace(problem, labels=labels)).logits
    close = {"logistic": 1e-2, "ridge": 1e-5}.get(name, 0)
    assert np.abs(after[fold] - before[fold]).max() <= close
    assert not np.allclose(after[~fold], before[~fold], atol=1e-2)


@each_head
def test_a_label_that_a_fold_never_saw_or_always_saw_is_no_trouble(name: str) -> None:
    problem = problem_of(apart=9)
    labels = problem.labels.copy()
    labels[:, 1] = problem.folds == 1  # all of it in one fold
    labels[:, 2] = 1
    solved = solve(name, replace(problem, labels=labels))
    assert np.isfinite(solved.logits).all()
    assert np.isfinite(said(solved, problem)).all()
    assert (said(solved, problem)[:, 2] > 0).all()
    assert average_precision_score(labels[:, 0], solved.logits[:, 0]) > 0.97


def test_the_strength_is_the_one_with_the_lowest_binary_loss() -> None:
    problem = problem_of(apart=1, width=40)
    solved = solve("ridge", problem)
    losses = []
    for strength in linear.RIDGE_PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(linear, "RIDGE_PENALTIES", np.array([strength]))
            losses.append(solve("ridge", problem).loss)
    assert solved.loss == pytest.approx(min(losses))
    assert solved.strength == linear.RIDGE_PENALTIES[int(np.argmin(losses))]
    assert max(losses) > min(losses) + 0.01


def test_choosing_passes_several_labels_through_and_names_what_it_compared() -> None:
    problem = problem_of()
    chosen = choose.choose_head("auto", "auto", {"last": problem, "all": problem})
    assert [(line["head"], line["layers"]) for line in chosen.candidates] == [
        *(("ridge", "last"), ("ridge", "all"), ("logistic", "last"))
    ]
    assert chosen.metrics.items() <= min(chosen.candidates, key=lambda line: line["out_of_fold_loss"]).items()
    want = average_precision_score(problem.labels, chosen.solution.logits)
    assert chosen.metrics["out_of_fold_mean_average_precision"] == pytest.approx(want)


def test_a_head_that_takes_one_label_says_which_take_several() -> None:
    with pytest.raises(
        UsageError, match=r"'knn' takes one label .*taken by auto, ridge, logistic, svm, lda, ncm, mlp, forest\."
    ):
        choose.choose_head("knn", "last", {"last": problem_of(), "all": problem_of()})
    designs.check_head("knn", "last")
