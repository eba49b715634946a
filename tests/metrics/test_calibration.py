"""Temperature and calibration error against numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import f1_score, log_loss

from graft.metrics.calibration import calibrate, calibration_error, fit_prediction_sets, fit_temperature, fit_thresholds
from graft_runtime.decide import compute_probabilities, prediction_set_threshold


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_known_temperature_is_found_again(true: float, classes: int) -> None:
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((20000, classes)) * 2
    chances = compute_probabilities(honest, 1.0)
    labels = (chances.cumsum(axis=1) < rng.random((20000, 1))).sum(axis=1)  # drawn as the logits say
    found, loss = fit_temperature(honest * true, labels)
    assert found == pytest.approx(true, rel=0.05)
    assert loss == pytest.approx(-np.log(chances[np.arange(20000), labels]).mean(), rel=0.02)


def test_a_set_without_an_error_gets_a_finite_temperature_and_confidence_that_grows_with_its_size() -> None:
    sure: list[float] = []
    for count in (10, 100, 1000):
        labels = np.arange(count) % 3
        found, _ = fit_temperature(np.eye(3)[labels], labels)
        sure.append(float(compute_probabilities(np.eye(3)[:1], found)[0, 0]))
        assert sure[-1] == pytest.approx(1 - 1 / (count + 2), abs=1e-4)  # Platt's target
    assert sure == sorted(sure)


def test_logits_that_say_nothing_lose_the_logarithm_of_the_number_of_classes() -> None:
    labels = np.arange(40) % 4
    assert fit_temperature(np.zeros((40, 4)), labels)[1] == pytest.approx(np.log(4))


def test_the_temperature_scales_with_the_logits() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((200, 3)), rng.integers(0, 3, 200)
    logits[np.arange(200), labels] += 1
    one, ten = fit_temperature(logits, labels), fit_temperature(logits * 10, labels)
    assert ten[0] == pytest.approx(10 * one[0], rel=1e-3)
    assert ten[1] == pytest.approx(one[1], rel=1e-6)


def error(chances: NDArray[np.float64], labels: NDArray[np.integer], bins: int = 15) -> float:
    return calibration_error(chances.max(axis=1), chances.argmax(axis=1) == labels, bins)


def test_calibration_error_by_hand() -> None:
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    labels = np.array([0, 1, 1, 1])
    # bin 13 of 15 is too sure: 0.9 + 0.9 - 1 = 0.8; bin 9, with 0.6 and 0.65, not enough: 1.25 - 2 = -0.75
    assert error(chances, labels) == pytest.approx((0.8 + 0.75) / 4)
    assert error(chances, labels, bins=1) == pytest.approx((3.05 - 3) / 4)


def test_certain_and_right_has_no_calibration_error_certain_and_wrong_has_all() -> None:
    assert error(np.eye(3), np.arange(3)) == 0
    assert error(np.eye(3), np.array([1, 2, 0])) == 1


# --- several labels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_a_known_temperature_is_found_again_for_several_labels(true: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((20000, 3)) * 2 - 1
    labels = (rng.random((20000, 3)) < expit(honest)).astype(np.uint8)
    found, loss = fit_temperature(honest * true, labels)
    assert found == pytest.approx(true, rel=0.05)
    assert loss == pytest.approx(np.mean([log_loss(labels[:, at], expit(honest[:, at])) for at in range(3)]), rel=1e-3)


def test_several_labels_without_an_error_get_platts_confidence() -> None:
    for count in (10, 100, 1000):
        labels = (np.arange(count)[:, None] % (2, 3) == 0).astype(np.uint8)
        found, _ = fit_temperature(labels * 2.0 - 1, labels)
        assert compute_probabilities(np.ones((1, 1)), found, "multilabel")[0, 0] == pytest.approx(
            1 - 1 / (count + 2), abs=1e-4
        )


# --- thresholds -------------------------------------------------------------------------------------------------------


def f1_at(threshold: float, chances: NDArray[np.float64], there: NDArray[np.integer]) -> float:
    return float(f1_score(there, chances >= threshold, zero_division=0.0))


def drawn(count: int, share: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Probabilities in steps of 0.02, so that many are equal, and labels that follow them somewhat."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < share).astype(np.uint8)
    return np.round(np.clip(rng.random((count, 3)) * 0.6 + labels * 0.3, 0, 1) * 50) / 50, labels


@pytest.mark.parametrize("seed", range(4))
def test_a_threshold_is_where_f1_is_highest_and_between_two_probabilities(seed: int) -> None:
    chances, labels = drawn(120, 0.3, seed)
    for at, threshold in enumerate(fit_thresholds(chances, labels)):
        own, there = chances[:, at], labels[:, at]
        assert f1_at(threshold, own, there) == pytest.approx(max(f1_at(each, own, there) for each in np.unique(own)))
        assert threshold not in own


def test_the_fewer_images_a_class_has_the_nearer_it_is_to_the_common_threshold() -> None:
    chances, labels = drawn(400, 0.3)
    for count, trust in ((2, 0.2), (4, 0.4)):
        rare = (np.arange(400) < count).astype(np.uint8)[:, None]
        own = np.where(np.arange(400) < count, 0.96, 0.9)[:, None]  # F1 is highest between the two
        every, known = np.c_[chances, own], np.c_[labels, rare]
        common = fit_thresholds(every.reshape(-1, 1), known.reshape(-1, 1))[0]
        assert abs(common - 0.93) > 0.01
        assert fit_thresholds(every, known)[-1] == pytest.approx(trust * 0.93 + (1 - trust) * common)


def test_a_class_without_an_image_has_the_common_threshold() -> None:
    chances, labels = drawn(200, 0.3)
    labels[:, 1] = 0
    found = fit_thresholds(chances, labels)
    assert found[1] == pytest.approx(fit_thresholds(chances.reshape(-1, 1), labels.reshape(-1, 1))[0])
    assert fit_thresholds(chances, np.zeros_like(labels)) == (0.5, 0.5, 0.5)


def test_a_class_that_every_image_has_is_always_given() -> None:
    chances = np.array([[0.2], [0.1], [0.9]])
    (found,) = fit_thresholds(np.tile(chances, (5, 1)), np.ones((15, 1), np.uint8))
    assert 0 < found < 0.1


# --- a scale and a shift for each class, sets -------------------------------------------------------------------------


def skewed(count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.integer]]:
    """Logits that overrate the first class and are too sure of the last, and labels drawn as they ought to be."""
    rng = np.random.default_rng(seed)
    honest = rng.standard_normal((count, 3)) * 2
    labels = (compute_probabilities(honest, 1.0).cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return honest * [1, 1, 2] + [3, 0, 0], labels


def test_classes_get_scales_of_their_own_only_where_these_prove_better() -> None:
    logits, labels = skewed(3000)
    folds = np.arange(3000) % 5
    own = calibrate(logits, labels, folds)
    assert own.scales
    assert own.losses[1] < own.losses[0]
    honest = compute_probabilities((logits - [3, 0, 0]) / [1, 1, 2], 1.0)
    found = own.predict_probs(logits, "multiclass")
    assert np.abs(found - honest).mean() < 0.02
    assert log_loss(labels, found) < log_loss(labels, compute_probabilities(logits, own.temperature)) - 0.05
    plain = calibrate((logits - [3, 0, 0]) / [1, 1, 2], labels, folds)
    assert (plain.scales, plain.shifts) == ((), ())
    assert plain.temperature == pytest.approx(1, rel=0.1)


def test_few_images_of_each_class_give_no_class_a_scale_of_its_own() -> None:
    logits, labels = skewed(3000)
    folds = np.arange(3000) % 5
    assert len(calibrate(logits[:60], labels[:60], folds[:60]).losses) == 2  # both ways were tried
    few = calibrate(logits[:57], labels[:57], folds[:57])
    assert len(few.losses) == 1
    assert (few.scales, few.shifts) == ((), ())


def test_the_same_for_several_labels() -> None:
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((2000, 2)) * 2
    labels = (rng.random((2000, 2)) < expit(honest)).astype(np.uint8)
    own = calibrate(honest * [1, 3] + [2, 0], labels, np.arange(2000) % 5)
    assert own.scales
    found = own.predict_probs(honest * [1, 3] + [2, 0], "multilabel")
    assert np.abs(found - expit(honest)).mean() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "coverage", [pytest.param(0.8, marks=pytest.mark.slow), 0.9, pytest.param(0.95, marks=pytest.mark.slow)]
)
def test_sets_hold_the_truth_as_often_as_promised(coverage: float) -> None:
    held = []
    for seed in range(12):
        logits, labels = skewed(1200, seed)
        found = calibrate(logits[:400], labels[:400], np.arange(400) % 5)
        chances = found.predict_probs(logits[400:], "multiclass")
        own = chances[np.arange(800), labels[400:]]
        held.append(float((own >= prediction_set_threshold(found.sets, coverage)).mean()))
    assert np.mean(held) == pytest.approx(coverage, abs=0.015)


def test_the_sets_are_order_statistics_of_what_the_right_class_got() -> None:
    chances = np.array([[p, 1 - p] for p in np.linspace(0.01, 0.99, 99)])
    sets = fit_prediction_sets(chances, np.zeros(99, int))
    assert prediction_set_threshold(sets, 0.9) == pytest.approx(0.10)  # the 90th of 99 from above
    assert prediction_set_threshold(sets, 0.5) == pytest.approx(0.50)
    assert prediction_set_threshold(sets, 0.999) == 0.0  # 99 images cannot promise it: all classes
    several = fit_prediction_sets(np.array([[0.9, 0.6, 0.1], [0.8, 0.7, 0.2]]), np.array([[1, 1, 0], [0, 0, 0]]))
    assert several[0] == 0.6  # the least likely of the labels; an image without any is held by every set
