"""Temperature and calibration error against numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from graft.model.calibrate import temperature
from graft.model.evaluation import calibration_error
from graft_runtime.decide import probabilities


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_a_known_temperature_is_found_again(true: float, classes: int) -> None:
    rng = np.random.default_rng(0)
    honest = rng.standard_normal((20000, classes)) * 2
    chances = probabilities(honest, 1.0)
    labels = (chances.cumsum(axis=1) < rng.random((20000, 1))).sum(axis=1)  # drawn as the logits say
    found, loss = temperature(honest * true, labels)
    assert found == pytest.approx(true, rel=0.05)
    assert loss == pytest.approx(-np.log(chances[np.arange(20000), labels]).mean(), rel=0.02)


def test_a_set_without_an_error_gets_a_finite_temperature_and_confidence_that_grows_with_its_size() -> None:
    sure: list[float] = []
    for count in (10, 100, 1000):
        labels = np.arange(count) % 3
        found, _ = temperature(np.eye(3)[labels], labels)
        sure.append(float(probabilities(np.eye(3)[:1], found)[0, 0]))
        assert sure[-1] == pytest.approx(1 - 1 / (count + 2), abs=1e-4)  # Platt's target
    assert sure == sorted(sure)


def test_logits_that_say_nothing_lose_the_logarithm_of_the_number_of_classes() -> None:
    labels = np.arange(40) % 4
    assert temperature(np.zeros((40, 4)), labels)[1] == pytest.approx(np.log(4))


def test_the_temperature_scales_with_the_logits() -> None:
    rng = np.random.default_rng(1)
    logits, labels = rng.standard_normal((200, 3)), rng.integers(0, 3, 200)
    logits[np.arange(200), labels] += 1
    one, ten = temperature(logits, labels), temperature(logits * 10, labels)
    assert ten[0] == pytest.approx(10 * one[0], rel=1e-3)
    assert ten[1] == pytest.approx(one[1], rel=1e-6)


def test_calibration_error_by_hand() -> None:
    chances = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.35, 0.65]])
    labels = np.array([0, 1, 1, 1])
    # bin 13 of 15 is too sure: 0.9 + 0.9 - 1 = 0.8; bin 9, with 0.6 and 0.65, not enough: 1.25 - 2 = -0.75
    assert calibration_error(chances, labels) == pytest.approx((0.8 + 0.75) / 4)
    assert calibration_error(chances, labels, bins=1) == pytest.approx((3.05 - 3) / 4)


def test_certain_and_right_has_no_calibration_error_certain_and_wrong_has_all() -> None:
    assert calibration_error(np.eye(3), np.arange(3)) == 0
    assert calibration_error(np.eye(3), np.array([1, 2, 0])) == 1
