"""Classical heads, mostly by scikit-learn: SVM, LDA, nearest class mean, k nearest neighbours, MLP, random forest.

All are fitted alike: for each strength, fit on all folds but one and predict that one; keep the strength of the lowest
calibrated out-of-fold log-loss; fit on everything; convert the estimator into a head. Several labels are learned one
against the rest, or by an MLP or a forest all at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import OAS
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.neighbors import NearestCentroid
from sklearn.neural_network import MLPClassifier
from sklearn.svm import LinearSVC

from graft.backbones.graph import core_count, normalise_rows
from graft.heads.head import Head, Problem, Solution
from graft.heads.linear import build_standardised_head, expand, linear_head, reduce_problem
from graft.heads.nodes import LEAF_THRESHOLD, dense_layers
from graft.metrics.calibration import fit_temperature
from graft.progress import ProgressWrapper, no_progress, track_steps

PATIENCE = 2  # strengths without a gain before the path is given up
HIDDEN = (256,)
TREES, LEAVES, DEPTH = 100, 256, 12  # of a forest: the largest holds 25,600 leaves with a number for each class
INTERCEPT_SCALING = 10  # of a one-vs-rest SVM: liblinear penalises the intercept, which is large for rare labels

Estimator = Any  # a fitted scikit-learn estimator
Logits = NDArray[np.float64]


def solve(name: str, problem: Problem, watch: ProgressWrapper = no_progress) -> Solution:
    """Solve the head of this name, with the strength of the lowest out-of-fold log-loss."""
    small, axes = (problem, None) if name in ROTATION_SENSITIVE else reduce_problem(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a path's rough start need not converge to be of use
        with track_steps(
            watch, f"{name} head", len(_METHODS[name].strengths) * len(np.unique(small.folds)) + 1
        ) as step:
            strength, logits, loss = _search_strength(name, small, step)
            fitted = _fit(name, small, np.ones(len(small), bool), strength)
    head = _build_head(name, small, fitted)
    return Solution(name, float(strength), head if axes is None else expand(head, axes, problem), logits, loss)


def _search_strength(name: str, problem: Problem, step: Callable[[], None]) -> tuple[float, Logits, float]:
    """Return (strength, out-of-fold logits, log-loss) of the best strength."""
    strengths = _METHODS[name].strengths
    best = (strengths[0], np.zeros((len(problem), problem.classes)), np.inf)
    worse = 0
    for strength in strengths:
        logits = _predict_out_of_fold(name, problem, strength, step)
        loss = fit_temperature(logits, problem.labels)[1]
        worse = 0 if loss < best[2] else worse + 1
        best = min(best, (strength, logits, loss), key=lambda entry: entry[2])
        if worse == PATIENCE:
            break
    return best


def _predict_out_of_fold(name: str, problem: Problem, strength: float, step: Callable[[], None]) -> Logits:
    logits = np.zeros((len(problem), problem.classes))
    for fold in np.unique(problem.folds):
        inside, outside = problem.folds != fold, problem.folds == fold
        labels = problem.labels[inside]
        if not (labels == labels[0]).all():  # else there is only one class to learn from: logits stay 0
            logits[outside] = _predict_logits(name, problem, _fit(name, problem, inside, strength), outside)
        step()
    return logits


def _predict_logits(name: str, problem: Problem, fitted: Estimator, rows: NDArray[np.bool_]) -> Logits:
    """Return the logits by the head that would be saved; classes unknown to it get the lowest logit."""
    known = np.arange(problem.classes) if problem.is_multilabel else fitted.classes_
    head = _build_head(name, replace(problem, classes=len(known)), fitted)
    known_logits = head.forward_standardised(problem.matrix[rows]).astype(np.float64)
    full = np.full((len(known_logits), problem.classes), known_logits.min(initial=0.0))
    full[:, known] = known_logits
    return full


def _build_head(name: str, problem: Problem, fitted: Estimator) -> Head:
    return (_build_linear_head if isinstance(fitted, _OneVsRest) else _METHODS[name].head)(problem, fitted)


def _fit(name: str, problem: Problem, rows: NDArray[np.bool_], strength: float) -> Estimator:
    """Fit the estimator of this name on some rows."""
    features, labels = problem.matrix[rows], problem.labels[rows]
    estimator = partial(_METHODS[name].make, strength, len(labels))
    if not problem.is_multilabel:
        return estimator().fit(features, labels)
    if name in NATIVE_MULTILABEL:
        return estimator().fit(features, labels if problem.classes > 1 else labels[:, 0])
    lines = [_fit_one_vs_rest(name, problem, estimator, features, is_positive) for is_positive in labels.T]
    return _OneVsRest(np.stack([line[0] for line in lines]), np.array([line[1] for line in lines]))


def _fit_one_vs_rest(
    name: str,
    problem: Problem,
    estimator: Callable[[], Any],
    features: NDArray[np.float32],
    y_true: NDArray[np.integer],
) -> tuple[NDArray[np.float64], float]:
    """Fit a binary model; return (weight, bias) of its log-odds, the prior odds where all labels are equal."""
    hits, count = int(y_true.sum()), len(y_true)
    if hits in (0, count):
        return np.zeros(features.shape[1]), float(np.log((hits + 0.5) / (count - hits + 0.5)))
    binary = estimator()
    if isinstance(binary, LinearSVC):
        binary.intercept_scaling = INTERCEPT_SCALING
    head = _METHODS[name].head(replace(problem, classes=2), binary.fit(features, y_true.astype(np.int64)))
    weight, bias = (head.body_tensors[name].astype(np.float64) for name in ("weight", "bias"))
    return weight[1] - weight[0], float(bias[1] - bias[0])


# --- The estimators, and their conversion into heads ------------------------------------------------------------------


@dataclass(frozen=True)
class _Method:
    """How to make an estimator for a strength and n images, and how to convert it into a head.

    Strengths are tried in order, from strong to weak.
    """

    strengths: Sequence[float]
    make: Callable[[float, int], Any]
    head: Callable[[Problem, Estimator], Head]


def _build_linear_head(problem: Problem, fitted: Estimator) -> Head:
    """Convert coefficients; of two classes there is one score, and the first class gets its negative."""
    weight, bias = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    both = len(weight) < problem.classes
    return linear_head(problem, np.r_[-weight, weight] if both else weight, np.r_[-bias, bias] if both else bias)


def _build_nearest_mean_head(problem: Problem, fitted: Estimator) -> Head:
    """Convert class means: -|x - m|^2 / 2 differs from x.m - |m|^2 / 2 only by what all classes share."""
    means = fitted.centroids_
    return linear_head(problem, means, -(means**2).sum(axis=1) / 2)


def _build_mlp_head(problem: Problem, fitted: Estimator) -> Head:
    spec = {"kind": "mlp", "classes": problem.classes, "hidden": list(HIDDEN)}
    layers, judge = dense_layers(spec, problem.width), {}
    for layer, weight, bias in zip(layers, fitted.coefs_, fitted.intercepts_, strict=True):
        both = layer == max(layers) and weight.shape[1] < problem.classes
        judge[f"{layer}.weight"] = np.c_[-weight, weight].T if both else weight.T
        judge[f"{layer}.bias"] = np.r_[-bias, bias] if both else bias
    return build_standardised_head(spec, judge, problem)


class _Lda:
    """Linear discriminant analysis with one covariance for all classes, shrunk by OAS (Chen et al. 2010)."""

    def fit(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> _Lda:
        self.classes_, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
        means = np.stack([features[index == label].mean(axis=0) for label in range(len(counts))])
        shrunk = OAS(store_precision=False, assume_centered=True)  # its inverse would take longer than all the rest
        covariance = shrunk.fit(features - means[index]).covariance_
        self.coef_ = np.linalg.solve(covariance, means.T).T
        self.intercept_ = np.log(counts / counts.sum()) - (self.coef_ * means).sum(axis=1) / 2
        return self


class _NeighboursEstimator:
    """k nearest neighbours with scikit-learn's interface; fit only stores the features."""

    def __init__(self, neighbours: int) -> None:
        self.neighbours = neighbours

    def fit(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> _NeighboursEstimator:
        self.features_, self.labels_, self.classes_ = features, labels, np.arange(labels.max() + 1)
        return self


def _build_knn_head(problem: Problem, fitted: _NeighboursEstimator) -> Head:
    spec = {"kind": "knn", "stored": len(fitted.labels_), "neighbours": fitted.neighbours}
    return build_standardised_head(
        spec, {"features": normalise_rows(fitted.features_), "labels": fitted.labels_}, problem
    )


def _build_forest_head(problem: Problem, fitted: RandomForestClassifier) -> Head:
    """Convert a forest: the nodes of all trees in one array, the leaves first."""
    trees = [tree.tree_ for tree in fitted.estimators_]
    first = np.cumsum([0, *(tree.node_count for tree in trees)])
    left = np.concatenate([tree.children_left + at for tree, at in zip(trees, first[:-1], strict=True)])
    right = np.concatenate([tree.children_right + at for tree, at in zip(trees, first[:-1], strict=True)])
    leaf = np.concatenate([tree.children_left for tree in trees]) < 0
    order = np.argsort(~leaf, kind="stable")
    place = np.argsort(order)  # of each node in the new row
    itself = np.arange(len(leaf))
    tensors = {
        "roots": place[first[:-1]],
        "features": np.where(leaf, 0, np.concatenate([tree.feature for tree in trees]))[order],
        "thresholds": np.where(
            leaf, LEAF_THRESHOLD, _round_down_to_float32(np.concatenate([tree.threshold for tree in trees]))
        )[order],
        "sides": place[np.stack([np.where(leaf, itself, left), np.where(leaf, itself, right)], axis=1)][order],
        "leaves": np.concatenate([_leaf_probabilities(problem, fitted, tree.value) for tree in trees])[
            order[: leaf.sum()]
        ],
    }
    size = {"trees": len(trees), "nodes": len(leaf), "leaves": int(leaf.sum())}
    size |= {"depth": max(tree.max_depth for tree in trees), "several": problem.is_multilabel}
    return build_standardised_head({"kind": "forest"} | size, tensors, problem)


def _leaf_probabilities(
    problem: Problem, fitted: RandomForestClassifier, counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the class or label probabilities [nodes, classes] of scikit-learn's node counts."""
    shares = counts / counts.sum(axis=2, keepdims=True)
    if not problem.is_multilabel:
        return shares[:, 0]
    known = [fitted.classes_] if fitted.n_outputs_ == 1 else fitted.classes_  # 0 and 1, or only one of them
    is_positive = [shares[:, at, : len(own)][:, own == 1].sum(axis=1) for at, own in enumerate(known)]
    return np.stack(is_positive, axis=1)


def _round_down_to_float32(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round down to float32: a float32 feature is above the result exactly where it is above the threshold."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


_METHODS = {
    "svm": _Method(
        np.logspace(0, -3, 4).tolist(),
        lambda strength, count: LinearSVC(C=1 / (strength * count), random_state=0, tol=1e-3),
        _build_linear_head,
    ),
    "lda": _Method([0.0], lambda _strength, _count: _Lda(), _build_linear_head),
    "ncm": _Method([0.0], lambda _strength, _count: NearestCentroid(), _build_nearest_mean_head),
    "knn": _Method([20, 10, 5, 3, 1], lambda strength, _count: _NeighboursEstimator(int(strength)), _build_knn_head),
    "mlp": _Method(
        [1.0, 0.1, 0.01],
        lambda strength, _count: MLPClassifier(HIDDEN, alpha=strength, max_iter=60, random_state=0),
        _build_mlp_head,
    ),
    "forest": _Method(
        [8, 3, 1],  # images that a leaf must hold
        lambda strength, _count: RandomForestClassifier(
            TREES,
            min_samples_leaf=int(strength),
            max_leaf_nodes=LEAVES,
            max_depth=DEPTH,
            random_state=0,
            n_jobs=core_count(),
        ),
        _build_forest_head,
    ),
}

CLASSICAL_NAMES = tuple(_METHODS)
NATIVE_MULTILABEL = ("mlp", "forest")  # learn several labels at once; the others learn each against the rest
ROTATION_SENSITIVE = ("forest",)  # splits on one feature at a time, so that a rotation changes the result


@dataclass(frozen=True)
class _OneVsRest:
    """Stacked binary linear models, one for each label, with scikit-learn's attributes."""

    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]
