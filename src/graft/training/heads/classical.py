"""The other heads, mostly by scikit-learn: SVM, LDA, nearest mean and neighbours, a small MLP, a random forest.

All go the same way: for each strength, fit on all folds but one and answer for that one; keep the strength whose
answers have the lowest calibrated log-loss; fit on everything; turn the result into a head. Several labels are
learned each against the rest, or by an MLP or a forest all at once.
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

from graft.backbones.graph import cores
from graft.heads.checks import dense
from graft.heads.head import Head
from graft.heads.nodes import FAR
from graft.model.calibrate import temperature
from graft.model.unknown import unit
from graft.progress import Watch, steps, unwatched
from graft.training.heads.compact import compact, expand
from graft.training.heads.problem import Problem, Solution
from graft.training.heads.ridge import linear_head, standardising

PATIENCE = 2  # strengths without a gain before the path is given up
HIDDEN = (256,)
TREES, LEAVES, DEPTH = 100, 256, 12  # of a forest: the largest holds 25,600 leaves with a number for each class
LOOSE_BIAS = 10  # of an SVM against the rest: it must reach what most pictures say, and liblinear shrinks it

Fitted = Any  # a fitted scikit-learn estimator
Logits = NDArray[np.float64]


@dataclass(frozen=True)
class _Method:
    """How to make an estimator for a strength and n pictures, hear its logits, and turn it into a head.

    Strengths are tried in order, from strong to weak.
    """

    strengths: Sequence[float]
    make: Callable[[float, int], Any]
    head: Callable[[Problem, Fitted], Head]


def _linear(problem: Problem, fitted: Fitted) -> Head:
    """Two classes come with one score: the first class then gets its opposite."""
    weight, bias = np.atleast_2d(fitted.coef_), np.atleast_1d(fitted.intercept_)
    both = len(weight) < problem.classes
    return linear_head(problem, np.r_[-weight, weight] if both else weight, np.r_[-bias, bias] if both else bias)


def _nearest_mean(problem: Problem, fitted: Fitted) -> Head:
    """-|x - m|^2 / 2 differs from x.m - |m|^2 / 2 only by what all classes share."""
    means = fitted.centroids_
    return linear_head(problem, means, -(means**2).sum(axis=1) / 2)


def _mlp(problem: Problem, fitted: Fitted) -> Head:
    spec = {"kind": "mlp", "classes": problem.classes, "hidden": list(HIDDEN)}
    layers, judge = dense(spec, problem.width), {}
    for layer, weight, bias in zip(layers, fitted.coefs_, fitted.intercepts_, strict=True):
        both = layer == max(layers) and weight.shape[1] < problem.classes
        judge[f"{layer}.weight"] = np.c_[-weight, weight].T if both else weight.T
        judge[f"{layer}.bias"] = np.r_[-bias, bias] if both else bias
    return standardising(spec, judge, problem)


class _Lda:
    """Linear discriminants with one covariance for all classes, shrunk as Chen et al. 2010 (OAS) say."""

    def fit(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> _Lda:
        self.classes_, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
        means = np.stack([features[index == label].mean(axis=0) for label in range(len(counts))])
        shrunk = OAS(store_precision=False, assume_centered=True)  # its inverse would take longer than all the rest
        covariance = shrunk.fit(features - means[index]).covariance_
        self.coef_ = np.linalg.solve(covariance, means.T).T
        self.intercept_ = np.log(counts / counts.sum()) - (self.coef_ * means).sum(axis=1) / 2
        return self


class _Neighbours:
    """k nearest neighbours in scikit-learn's manner; remembering is all the fitting there is."""

    def __init__(self, neighbours: int) -> None:
        self.neighbours = neighbours

    def fit(self, features: NDArray[np.float32], labels: NDArray[np.int64]) -> _Neighbours:
        self.features_, self.labels_, self.classes_ = features, labels, np.arange(labels.max() + 1)
        return self


def _neighbours(problem: Problem, fitted: _Neighbours) -> Head:
    spec = {"kind": "knn", "stored": len(fitted.labels_), "neighbours": fitted.neighbours}
    return standardising(spec, {"features": unit(fitted.features_), "labels": fitted.labels_}, problem)


def _forest(problem: Problem, fitted: RandomForestClassifier) -> Head:
    """All trees in one row of nodes, the leaves first."""
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
        "thresholds": np.where(leaf, FAR, _below(np.concatenate([tree.threshold for tree in trees])))[order],
        "sides": place[np.stack([np.where(leaf, itself, left), np.where(leaf, itself, right)], axis=1)][order],
        "leaves": np.concatenate([_shares(problem, fitted, tree.value) for tree in trees])[order[: leaf.sum()]],
    }
    size = {"trees": len(trees), "nodes": len(leaf), "leaves": int(leaf.sum())}
    size |= {"depth": max(tree.max_depth for tree in trees), "several": problem.several}
    return standardising({"kind": "forest"} | size, tensors, problem)


def _shares(problem: Problem, fitted: RandomForestClassifier, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each node [nodes, outputs, classes] says of each class or label [nodes, classes], as scikit-learn has it."""
    shares = counts / counts.sum(axis=2, keepdims=True)
    if not problem.several:
        return shares[:, 0]
    known = [fitted.classes_] if fitted.n_outputs_ == 1 else fitted.classes_  # 0 and 1, or only one of them
    there = [shares[:, at, : len(own)][:, own == 1].sum(axis=1) for at, own in enumerate(known)]
    return np.stack(there, axis=1)


def _below(thresholds: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 at most so large: a float32 is above it just where it is above the threshold."""
    near = thresholds.astype(np.float32)
    return np.where(near > thresholds, np.nextafter(near, np.float32(-np.inf)), near)


_METHODS = {
    "svm": _Method(
        np.logspace(0, -3, 4).tolist(),
        lambda strength, count: LinearSVC(C=1 / (strength * count), random_state=0, tol=1e-3),
        _linear,
    ),
    "lda": _Method([0.0], lambda _strength, _count: _Lda(), _linear),
    "ncm": _Method([0.0], lambda _strength, _count: NearestCentroid(), _nearest_mean),
    "knn": _Method([20, 10, 5, 3, 1], lambda strength, _count: _Neighbours(int(strength)), _neighbours),
    "mlp": _Method(
        [1.0, 0.1, 0.01],
        lambda strength, _count: MLPClassifier(HIDDEN, alpha=strength, max_iter=60, random_state=0),
        _mlp,
    ),
    "forest": _Method(
        [8, 3, 1],  # images that a leaf must hold
        lambda strength, _count: RandomForestClassifier(
            TREES,
            min_samples_leaf=int(strength),
            max_leaf_nodes=LEAVES,
            max_depth=DEPTH,
            random_state=0,
            n_jobs=cores(),
        ),
        _forest,
    ),
}

NAMES = tuple(_METHODS)
TOGETHER = ("mlp", "forest")  # learn several labels at once; the others learn each against the rest
UNTURNED = ("forest",)  # asks for one feature at a time, so that a rotation is another problem


@dataclass(frozen=True)
class _EachAgainstTheRest:
    """Linear heads that tell the pictures with a label from those without, stacked as scikit-learn would."""

    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]


def _fitted(name: str, problem: Problem, rows: NDArray[np.bool_], strength: float) -> Fitted:
    """The estimator of this name, fitted on some rows."""
    features, labels = problem.matrix[rows], problem.labels[rows]
    estimator = partial(_METHODS[name].make, strength, len(labels))
    if not problem.several:
        return estimator().fit(features, labels)
    if name in TOGETHER:
        return estimator().fit(features, labels if problem.classes > 1 else labels[:, 0])
    lines = [_against_the_rest(name, problem, estimator, features, there) for there in labels.T]
    return _EachAgainstTheRest(np.stack([line[0] for line in lines]), np.array([line[1] for line in lines]))


def _against_the_rest(
    name: str,
    problem: Problem,
    estimator: Callable[[], Any],
    features: NDArray[np.float32],
    there: NDArray[np.integer],
) -> tuple[NDArray[np.float64], float]:
    """(weight, bias) by which the second of two classes exceeds the first; all alike have only their prior odds."""
    hits, count = int(there.sum()), len(there)
    if hits in (0, count):
        return np.zeros(features.shape[1]), float(np.log((hits + 0.5) / (count - hits + 0.5)))
    binary = estimator()
    if isinstance(binary, LinearSVC):
        binary.intercept_scaling = LOOSE_BIAS
    head = _METHODS[name].head(replace(problem, classes=2), binary.fit(features, there.astype(np.int64)))
    weight, bias = (head.judge[name].astype(np.float64) for name in ("weight", "bias"))
    return weight[1] - weight[0], float(bias[1] - bias[0])


def solve(name: str, problem: Problem, watch: Watch = unwatched) -> Solution:
    """The head of this name with the strength that its out-of-fold answers speak for."""
    small, axes = (problem, None) if name in UNTURNED else compact(problem)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a path's rough start need not converge to be of use
        with steps(watch, f"{name} head", len(_METHODS[name].strengths) * len(np.unique(small.folds)) + 1) as step:
            strength, logits, loss = _path(name, small, step)
            fitted = _fitted(name, small, np.ones(len(small), bool), strength)
    head = _head(name, small, fitted)
    return Solution(name, float(strength), head if axes is None else expand(head, axes, problem), logits, loss)


def _head(name: str, problem: Problem, fitted: Fitted) -> Head:
    return (_linear if isinstance(fitted, _EachAgainstTheRest) else _METHODS[name].head)(problem, fitted)


def _path(name: str, problem: Problem, step: Callable[[], None]) -> tuple[float, Logits, float]:
    """(strength, out-of-fold logits, log-loss) of the best strength."""
    strengths = _METHODS[name].strengths
    best = (strengths[0], np.zeros((len(problem), problem.classes)), np.inf)
    worse = 0
    for strength in strengths:
        logits = _out_of_fold(name, problem, strength, step)
        loss = temperature(logits, problem.labels)[1]
        worse = 0 if loss < best[2] else worse + 1
        best = min(best, (strength, logits, loss), key=lambda entry: entry[2])
        if worse == PATIENCE:
            break
    return best


def _out_of_fold(name: str, problem: Problem, strength: float, step: Callable[[], None]) -> Logits:
    logits = np.zeros((len(problem), problem.classes))
    for fold in np.unique(problem.folds):
        inside, outside = problem.folds != fold, problem.folds == fold
        labels = problem.labels[inside]
        if not (labels == labels[0]).all():  # else there is nothing to tell apart: these pictures get no opinion
            logits[outside] = _logits(name, problem, _fitted(name, problem, inside, strength), outside)
        step()
    return logits


def _logits(name: str, problem: Problem, fitted: Fitted, rows: NDArray[np.bool_]) -> Logits:
    """What the fitted model says, by the very head that would be saved; classes unknown to it get the lowest logit."""
    known = np.arange(problem.classes) if problem.several else fitted.classes_
    head = _head(name, replace(problem, classes=len(known)), fitted)
    said = head.judged(problem.matrix[rows]).astype(np.float64)
    full = np.full((len(said), problem.classes), said.min(initial=0.0))
    full[:, known] = said
    return full
