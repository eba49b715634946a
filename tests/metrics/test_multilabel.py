"""The score of several labels: every number is scikit-learn's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from graft.metrics.calibration import calibration_error
from graft.metrics.evaluation import LabelScore, MultilabelEvaluation, evaluate_multilabel
from graft.metrics.ranking import mean_average_precision

NAMES = ("ant", "bee", "cat", "dog", "eel")
SHARES = (0.5, 0.2, 0.05, 0.0, 1.0)  # no image has a dog, every one an eel
THRESHOLDS = (0.5, 0.4, 0.3, 0.5, 0.9)


def drawn(count: int = 200, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Probabilities in steps of 0.05, so that many are equal, and labels that follow them somewhat."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 5)) < SHARES).astype(np.uint8)
    return np.round((rng.random((count, 5)) * 0.7 + 0.25 * labels) * 20) / 20, labels


CHANCES, LABELS = drawn()
SAID = (CHANCES >= THRESHOLDS).astype(int)


@pytest.fixture(scope="module")
def scored() -> MultilabelEvaluation:
    return evaluate_multilabel(CHANCES, LABELS, NAMES, THRESHOLDS, {"broken.jpg": "truncated"})


def test_every_number_of_the_whole_is_scikit_learns(scored: MultilabelEvaluation) -> None:
    seen = [0, 1, 2, 4]
    precise = metrics.average_precision_score(LABELS[:, seen], CHANCES[:, seen], average="macro")
    assert scored.mean_average_precision == pytest.approx(precise)
    assert scored.micro_f1 == pytest.approx(metrics.f1_score(LABELS, SAID, average="micro", zero_division=0))
    assert scored.macro_f1 == pytest.approx(metrics.f1_score(LABELS[:, seen], SAID[:, seen], average="macro"))
    assert scored.subset_accuracy == pytest.approx(metrics.accuracy_score(LABELS, SAID))
    assert scored.hamming_loss == pytest.approx(metrics.hamming_loss(LABELS, SAID))
    losses = [metrics.log_loss(LABELS[:, at], CHANCES[:, at], labels=[0, 1]) for at in range(5)]
    assert scored.log_loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert scored.brier == pytest.approx(((CHANCES - LABELS) ** 2).mean())
    assert scored.calibration_error == pytest.approx(calibration_error(CHANCES.ravel(), LABELS.ravel() > 0))
    areas = metrics.roc_auc_score(LABELS[:, :3], CHANCES[:, :3])
    assert scored.macro_auc == pytest.approx(areas)
    assert scored.count == 200
    assert scored.faults == {"broken.jpg": "truncated"}


def test_every_number_of_a_label_is_scikit_learns(scored: MultilabelEvaluation) -> None:
    own = metrics.precision_recall_fscore_support(LABELS, SAID, average=None, zero_division=0)
    mine = [(each.precision, each.recall, each.f1, each.count) for each in scored.classes]
    seen = [0, 1, 2, 4]
    np.testing.assert_allclose([mine[at] for at in seen], np.stack(own, axis=1)[seen])
    assert tuple(each.name for each in scored.classes) == NAMES
    assert tuple(each.threshold for each in scored.classes) == THRESHOLDS
    for at in range(3):
        assert scored.classes[at].auc == pytest.approx(metrics.roc_auc_score(LABELS[:, at], CHANCES[:, at]))
        want = metrics.average_precision_score(LABELS[:, at], CHANCES[:, at])
        assert scored.classes[at].average_precision == pytest.approx(want)


def test_what_cannot_be_told_is_none_and_counts_neither_for_nor_against(scored: MultilabelEvaluation) -> None:
    dog, eel = scored.classes[3:]
    assert (dog.auc, dog.average_precision, dog.count) == (None, None, 0)
    assert (dog.precision, dog.recall, dog.f1) == (None, None, None)
    assert (eel.auc, eel.average_precision, eel.count) == (None, 1.0, 200)
    assert [each.name for each in scored.scored_classes()] == ["ant", "bee", "cat", "eel"]
    assert scored.worst_classes(1) == [min(scored.scored_classes(), key=lambda each: each.f1)]


def test_without_thresholds_a_label_is_given_from_one_half_on() -> None:
    assert evaluate_multilabel(CHANCES, LABELS, NAMES) == evaluate_multilabel(CHANCES, LABELS, NAMES, (0.5,) * 5)
    assert evaluate_multilabel(CHANCES, LABELS, NAMES).classes[0].threshold == 0.5


@pytest.mark.slow
def test_the_interval_is_as_wide_as_the_figure_strays_from_one_set_of_images_to_the_next() -> None:
    several = [evaluate_multilabel(*drawn(seed=seed), NAMES) for seed in range(40)]
    strays = np.std([each.mean_average_precision for each in several])
    reach = np.mean([(each.interval[1] - each.interval[0]) / 2 for each in several])
    assert reach == pytest.approx(1.96 * strays, rel=0.4)
    truth = np.mean([each.mean_average_precision for each in several])
    assert np.mean([low <= truth <= high for low, high in (each.interval for each in several)]) >= 0.85
    assert evaluate_multilabel(*drawn(), NAMES).interval == several[0].interval


def test_a_perfect_order_has_a_mean_average_precision_of_one() -> None:
    perfect = evaluate_multilabel(LABELS * 0.8 + 0.1, LABELS, NAMES)
    assert perfect.mean_average_precision == perfect.subset_accuracy == perfect.interval[1] == 1
    assert perfect.hamming_loss == 0


def test_images_without_any_label_are_judged_too() -> None:
    nothing = evaluate_multilabel(CHANCES[:1], np.zeros((1, 5), np.uint8), NAMES, (0.96,) * 5)
    assert (nothing.mean_average_precision, nothing.interval, nothing.macro_f1) == (None, None, None)
    assert (nothing.subset_accuracy, nothing.hamming_loss) == (1, 0)
    assert mean_average_precision(CHANCES[:1], np.zeros((1, 5), np.uint8)) == 0


def test_an_evaluation_is_ready_for_json(scored: MultilabelEvaluation) -> None:
    read = json.loads(json.dumps(scored.as_dict(), allow_nan=False))
    assert read["task"] == "multilabel"
    assert read["macro_f1"] == scored.macro_f1
    assert tuple(LabelScore(**each) for each in read["classes"]) == scored.classes
    assert scored.summary_metrics().items() <= scored.as_dict().items()
