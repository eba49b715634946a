"""The numbers by which epochs are compared, against scikit-learn's and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as theirs

from graft.errors import UsageError
from graft.metrics import ranking
from graft.metrics.calibration import fit_temperature

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 60).astype(np.int32)
SAID = RNG.normal(size=(60, 3)) + 1.5 * np.eye(3)[LABELS]
SEVERAL = (RNG.random((60, 3)) < 0.4).astype(np.uint8)
EACH = RNG.normal(size=(60, 3)) + 1.5 * (SEVERAL - 0.5)
CHANCES = np.exp(SAID) / np.exp(SAID).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("metric", "want"),
    [
        ("loss", fit_temperature(SAID, LABELS)[1]),
        ("accuracy", theirs.accuracy_score(LABELS, SAID.argmax(1))),
        ("balanced-accuracy", theirs.balanced_accuracy_score(LABELS, SAID.argmax(1))),
        ("macro-f1", theirs.f1_score(LABELS, SAID.argmax(1), average="macro")),
        ("micro-f1", theirs.f1_score(LABELS, SAID.argmax(1), average="micro")),
        ("auc", theirs.roc_auc_score(LABELS, CHANCES, multi_class="ovr")),
        ("map", np.mean([theirs.average_precision_score(at == LABELS, CHANCES[:, at]) for at in range(3)])),
    ],
)
def test_of_one_label(metric: str, want: float) -> None:
    scores = ranking.compute_scores(SAID, LABELS, metric)
    assert scores[metric] == pytest.approx(want, abs=1e-9)
    assert scores.keys() >= {"loss", "accuracy"}
    assert all(type(value) is float for value in scores.values())  # a checkpoint holds nothing else


@pytest.mark.parametrize(
    ("metric", "want"),
    [
        ("accuracy", ((EACH > 0) == SEVERAL).mean()),
        ("macro-f1", theirs.f1_score(SEVERAL, EACH > 0, average="macro")),
        ("micro-f1", theirs.f1_score(SEVERAL, EACH > 0, average="micro")),
        ("auc", theirs.roc_auc_score(SEVERAL, EACH)),
        ("map", theirs.average_precision_score(SEVERAL, EACH)),
    ],
)
def test_of_several_labels(metric: str, want: float) -> None:
    assert ranking.compute_scores(EACH, SEVERAL, metric)[metric] == pytest.approx(want, abs=1e-9)


def test_a_class_that_is_everywhere_or_nowhere_says_nothing() -> None:
    labels = np.concatenate([SEVERAL, np.ones((60, 1), np.uint8), np.zeros((60, 1), np.uint8)], axis=1)
    said = np.concatenate([EACH, RNG.normal(size=(60, 2))], axis=1)
    assert ranking.compute_scores(said, labels, "auc")["auc"] == pytest.approx(theirs.roc_auc_score(SEVERAL, EACH))


def test_higher_is_better_for_all() -> None:
    assert ranking.score_to_maximise({"loss": 0.2}, "loss") > ranking.score_to_maximise({"loss": 0.3}, "loss")
    assert ranking.score_to_maximise({"accuracy": 0.3}, "accuracy") > ranking.score_to_maximise(
        {"accuracy": 0.2}, "accuracy"
    )


def test_a_metric_of_one_label_is_refused_for_several() -> None:
    ranking.check_metric("balanced-accuracy", "multiclass")
    with pytest.raises(UsageError, match="'balanced-accuracy' is for one label an image"):
        ranking.check_metric("balanced-accuracy", "multilabel")
