"""The score against numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binomtest
from scipy.stats import bootstrap as scipys
from sklearn import metrics
from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

from graft.metrics.calibration import ReliabilityBin, Trust, UnknownClassScore, build_caveats, calibration_error
from graft.metrics.evaluation import ClassScore, Evaluation, evaluate_multiclass
from graft.metrics.intervals import bootstrap_intervals, draw_weights, percentile_interval, wilson_interval
from graft.metrics.ranking import weighted_ranking

NAMES = ("ant", "bee", "cat", "dog")
TRUE = np.array([0, 0, 0, 1, 1, 2])
SAID = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture
def scored() -> Evaluation:
    chances = np.full((6, 4), 0.1)
    chances[np.arange(6), SAID] = 0.7
    return evaluate_multiclass(chances, TRUE, NAMES, {"broken.jpg": "truncated"})


def test_the_whole_by_hand(scored: Evaluation) -> None:
    assert scored.accuracy == pytest.approx(4 / 6)
    assert scored.count == 6
    assert scored.log_loss == pytest.approx(-(4 * np.log(0.7) + 2 * np.log(0.1)) / 6)
    assert scored.calibration_error == pytest.approx(0.7 - 4 / 6)
    assert scored.confusion == ((2, 1, 0, 0), (0, 1, 1, 0), (0, 0, 1, 0), (0, 0, 0, 0))
    assert scored.faults == {"broken.jpg": "truncated"}


def test_each_class_by_hand(scored: Evaluation) -> None:
    want = [(1, 2 / 3, 0.8, 3), (0.5, 0.5, 0.5, 2), (0.5, 1, 2 / 3, 1)]
    for own, name, values in zip(scored.classes, NAMES, want, strict=False):
        assert own.name == name
        assert (own.precision, own.recall, own.f1, own.count) == pytest.approx(values)
    assert scored.classes[3] == ClassScore("dog", None, None, None, 0, None, None)
    assert scored.confused == ((0, 1, 1), (1, 2, 1))


def test_a_class_without_images_counts_neither_for_nor_against(scored: Evaluation) -> None:
    assert [each.name for each in scored.scored_classes()] == ["ant", "bee", "cat"]
    assert scored.macro_f1 == pytest.approx((0.8 + 0.5 + 2 / 3) / 3)
    assert [each.name for each in scored.worst_classes(2)] == ["bee", "cat"]


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
    assert evaluate_multiclass(chances, labels, ("yes", "no")).interval == pytest.approx(interval, abs=6e-5)


def test_a_wrong_answer_given_for_certain_has_a_finite_loss() -> None:
    assert evaluate_multiclass(np.eye(2), np.array([1, 0]), ("yes", "no")).log_loss == pytest.approx(-np.log(1e-15))


def test_an_evaluation_is_ready_for_json(scored: Evaluation) -> None:
    read = json.loads(json.dumps(scored.as_dict()))
    assert read["macro_f1"] == scored.macro_f1
    assert tuple(ClassScore(**each) for each in read["classes"]) == scored.classes


def test_every_number_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 6, 200)  # the seventh class has no image
    chances = np.round(random.dirichlet(np.ones(7), 200), 2) + 0.01  # many are equal
    chances /= chances.sum(axis=1, keepdims=True)
    answers, every, there = chances.argmax(axis=1), np.arange(7), np.arange(6)
    scored = evaluate_multiclass(chances, labels, tuple("abcdefg"))
    precision, recall, f1, counts = precision_recall_fscore_support(labels, answers, labels=every, zero_division=0)
    mine = [(each.precision, each.recall, each.f1, each.count) for each in scored.classes[:6]]
    np.testing.assert_allclose(mine, np.c_[precision, recall, f1, counts][:6])
    np.testing.assert_array_equal(scored.confusion, confusion_matrix(labels, answers, labels=every))
    assert scored.log_loss == pytest.approx(log_loss(labels, chances, labels=every))
    assert scored.brier == pytest.approx(metrics.brier_score_loss(labels, chances, labels=every, scale_by_half=False))
    assert scored.mcc == pytest.approx(metrics.matthews_corrcoef(labels, answers))
    assert scored.balanced_accuracy == pytest.approx(recall[:6].mean())
    assert (scored.macro_precision, scored.macro_f1) == pytest.approx((precision[:6].mean(), f1[:6].mean()))
    assert scored.top_k == pytest.approx(metrics.top_k_accuracy_score(labels, chances, k=5, labels=every), abs=0.02)
    own = labels[:, None] == there
    assert [each.auc for each in scored.classes[:6]] == pytest.approx(
        metrics.roc_auc_score(own, chances[:, :6], average=None)
    )
    assert [each.average_precision for each in scored.classes[:6]] == pytest.approx(
        metrics.average_precision_score(own, chances[:, :6], average=None)
    )
    assert scored.macro_auc == pytest.approx(metrics.roc_auc_score(own, chances[:, :6]))
    assert scored.mean_average_precision == pytest.approx(metrics.average_precision_score(own, chances[:, :6]))


def test_a_ranking_with_weights_is_scikit_learns_with_sample_weights() -> None:
    random = np.random.default_rng(0)
    there = random.random((80, 2)) < 0.3
    scores, weights = np.round(random.random((80, 2)), 1), random.integers(0, 4, (3, 80)).astype(float)
    precise, areas = weighted_ranking(scores, there, weights)
    for draw, at in np.ndindex(3, 2):
        own = {"sample_weight": weights[draw]}
        assert precise[draw, at] == pytest.approx(metrics.average_precision_score(there[:, at], scores[:, at], **own))
        assert areas[draw, at] == pytest.approx(metrics.roc_auc_score(there[:, at], scores[:, at], **own))


def test_no_number_in_the_json_is_nan_whatever_the_test_part_lacks() -> None:
    for labels in (np.array([0]), np.array([0, 0]), np.array([1, 0])):
        score = evaluate_multiclass(np.tile([0.9, 0.1], (len(labels), 1)), labels, ("yes", "no"), {}, None)
        read = json.loads(json.dumps(score.as_dict(), allow_nan=False))
        assert read["mcc"] is None
        assert (read["macro_auc"] is None) == (len(set(labels.tolist())) == 1)
        assert "mcc" not in read["intervals"]
    assert evaluate_multiclass(np.array([[0.9, 0.1]]), np.array([0]), ("yes", "no")).top_k is None


@pytest.mark.slow
def test_with_many_classes_the_confusions_are_told_by_their_cells() -> None:
    random = np.random.default_rng(0)
    labels, chances = random.integers(0, 120, 3000), random.dirichlet(np.ones(120), 3000)
    scored = evaluate_multiclass(chances, labels, tuple(map(str, range(120))))
    whole = confusion_matrix(labels, chances.argmax(axis=1), labels=np.arange(120))
    assert scored.confusion == ()
    assert [n for _, _, n in scored.confused] == sorted((n for _, _, n in scored.confused), reverse=True)
    assert all(whole[true, said] == n for true, said, n in scored.confused)
    assert sum(n for _, _, n in scored.confused) == whole.sum() - whole.trace()


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = np.random.default_rng(3).random(300) ** 2
    want = scipys((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1))
    found = bootstrap_intervals(lambda weights: {"it": weights @ values / 300}, 300, {"it": float(values.mean())})["it"]
    assert found == pytest.approx(tuple(want.confidence_interval), abs=0.004)


@pytest.mark.slow
def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    random, held = np.random.default_rng(0), dict.fromkeys(("macro_f1", "log_loss", "mcc", "macro_auc"), 0)
    names = tuple("abc")

    def drawn(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 3, count)
        logits = random.standard_normal((count, 3)) + 1.5 * np.eye(3)[labels]
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), labels

    truth = evaluate_multiclass(*drawn(20000), names)
    for _ in range(60):
        score = evaluate_multiclass(*drawn(150), names)
        for name in held:
            low, high = score.intervals[name]
            held[name] += low <= getattr(truth, name) <= high
    assert all(count >= 60 * 0.88 for count in held.values()), held


def test_draws_are_always_the_same_and_draw_as_many_as_there_are() -> None:
    one, two = next(draw_weights(40)), next(draw_weights(40))
    np.testing.assert_array_equal(one, two)
    assert (one.sum(axis=1) == 40).all()
    assert sum(len(block) for block in draw_weights(40)) == 1000
    assert sum(len(block) for block in draw_weights(50_000)) == 400


def test_an_interval_lies_around_its_figure_and_within_what_can_be() -> None:
    drawn = np.random.default_rng(0).normal(0.95, 0.05, 1000)
    low, high = percentile_interval(drawn, 0.9, 0.0, 1.0)
    assert low == pytest.approx(0.8, abs=0.01)
    assert high == pytest.approx(1.0, abs=0.01)
    assert percentile_interval(drawn, 1.0, 0.0, 1.0)[1] == 1.0


# --- what to know before believing it ---------------------------------------------------------------------------------


def test_the_reliability_is_counted_by_hand_before_and_after() -> None:
    raw, chances = np.array([[0.99, 0.01], [0.98, 0.02]]), np.array([[0.7, 0.3], [0.69, 0.31]])
    trust = evaluate_multiclass(chances, np.array([0, 1]), ("yes", "no"), raw=raw).trust
    for bins, want in ((trust.before, (14 / 15, 1.0, 2, 0.985, 0.5)), (trust.after, (10 / 15, 11 / 15, 2, 0.695, 0.5))):
        (found,) = (each for each in bins if each.count)
        assert (found.low, found.high, found.count, found.confidence, found.right) == pytest.approx(want)
    assert trust.after[0] == ReliabilityBin(0.0, 1 / 15, 0, None, None)
    assert len(trust.before) == len(trust.after) == 15


def test_the_calibration_error_is_what_the_bins_say() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(500)
    right = random.random(500) < confidence**2
    bins = evaluate_multiclass(np.c_[confidence, 1 - confidence], (~right).astype(int), ("yes", "no")).trust.after
    by_hand = sum(each.count * abs(each.confidence - each.right) for each in bins if each.count) / 500
    sure = np.maximum(confidence, 1 - confidence)
    assert calibration_error(sure, np.where(confidence >= 0.5, right, ~right)) == pytest.approx(by_hand)


def test_what_makes_a_score_doubtful_is_said() -> None:
    few = " ".join(build_caveats(12, {"ant": 12, "bee": 0, "cat": 9}, Trust(seen=3)))
    assert "12 test images are few" in few
    assert "no test image of bee" in few
    assert "fewer than 10 test images of cat" in few
    assert "3 of these images were trained on" in few
    strangers = UnknownClassScore({"shoe": 5, "hat": 1}, 0.5, (0.4, 0.6))
    assert "6 more images" in build_caveats(500, {"ant": 500}, Trust(strangers=strangers))[0]
    assert build_caveats(500, {"ant": 500}, Trust(unlabelled=3)) == ("3 images without a label are not counted",)
    assert build_caveats(500, {"ant": 500}, Trust()) == ()


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 30), (30, 30), (7, 12), (460, 500)])
def test_the_interval_is_scipys(right: int, count: int) -> None:
    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, count) == pytest.approx((interval.low, interval.high), abs=1e-12)
