"""The score against numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from graft.model.evaluation import Evaluation, OfClass, judge, wilson

NAMES = ("ant", "bee", "cat", "dog")
TRUE = np.array([0, 0, 0, 1, 1, 2])
SAID = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture
def scored() -> Evaluation:
    chances = np.full((6, 4), 0.1)
    chances[np.arange(6), SAID] = 0.7
    return judge(chances, TRUE, NAMES, {"broken.jpg": "truncated"})


def test_the_whole_by_hand(scored: Evaluation) -> None:
    assert scored.accuracy == pytest.approx(4 / 6)
    assert scored.count == 6
    assert scored.log_loss == pytest.approx(-(4 * np.log(0.7) + 2 * np.log(0.1)) / 6)
    assert scored.calibration_error == pytest.approx(0.7 - 4 / 6)
    assert scored.confusion == ((2, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 0), (0, 0, 0, 0))
    assert scored.faults == {"broken.jpg": "truncated"}


def test_each_class_by_hand(scored: Evaluation) -> None:
    want = [(1, 2 / 3, 0.8, 3), (0.5, 0.5, 0.5, 2), (0.5, 1, 2 / 3, 1), (0, 0, 0, 0)]
    for own, name, values in zip(scored.classes, NAMES, want, strict=True):
        assert own.name == name
        assert (own.precision, own.recall, own.f1, own.count) == pytest.approx(values)


def test_a_class_without_pictures_counts_neither_for_nor_against(scored: Evaluation) -> None:
    assert [each.name for each in scored.judged()] == ["ant", "bee", "cat"]
    assert scored.macro_f1 == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert [each.name for each in scored.worst(2)] == ["bee", "cat"]


@pytest.mark.parametrize(
    ("right", "count", "interval"),
    [  # Newcombe 1998, Statistics in Medicine 17, table I: Wilson without continuity correction
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0)),
    ],
)
def test_the_interval_is_wilsons(right: int, count: int, interval: tuple[float, float]) -> None:
    labels = (np.arange(count) >= right).astype(int)
    chances = np.tile([0.8, 0.2], (count, 1))
    assert judge(chances, labels, ("yes", "no")).interval == pytest.approx(interval, abs=6e-5)


def test_a_wrong_answer_given_for_certain_has_a_finite_loss() -> None:
    assert judge(np.eye(2), np.array([1, 0]), ("yes", "no")).log_loss == pytest.approx(-np.log(1e-15))


def test_an_evaluation_is_ready_for_json(scored: Evaluation) -> None:
    read = json.loads(json.dumps(scored.as_dict()))
    assert read["macro_f1"] == scored.macro_f1
    assert tuple(OfClass(**each) for each in read["classes"]) == scored.classes


def test_every_number_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200)  # the fifth class has no picture
    chances = random.dirichlet(np.ones(5), 200)
    answers, every = chances.argmax(axis=1), np.arange(5)
    scored = judge(chances, labels, tuple("abcde"))
    precision, recall, f1, counts = precision_recall_fscore_support(labels, answers, labels=every, zero_division=0)
    mine = [(each.precision, each.recall, each.f1, each.count) for each in scored.classes]
    np.testing.assert_allclose(mine, np.c_[precision, recall, f1, counts])
    np.testing.assert_array_equal(scored.confusion, confusion_matrix(labels, answers, labels=every))
    assert scored.log_loss == pytest.approx(log_loss(labels, chances, labels=every))


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 12), (460, 500)])
def test_the_interval_is_scipys(right: int, count: int) -> None:
    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right, count) == pytest.approx((interval.low, interval.high), abs=1e-12)
