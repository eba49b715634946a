"""Logits to answers: the softmax of others is the judge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.special import expit, softmax

from graft_runtime.card import COVERAGES, MULTILABEL
from graft_runtime.decide import Answer, build_answers, compute_probabilities, conformal_rank, prediction_set_threshold

LOGITS = np.array([[2.0, 1.0, 0.0], [-5.0, 5.0, 4.0]])


@given(
    logits=arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e4, 1e4)),
    temperature=st.floats(0.05, 20),
)
def test_probabilities_are_the_softmax_of_scaled_logits(logits: NDArray[np.float64], temperature: float) -> None:
    got = compute_probabilities(logits, temperature)
    np.testing.assert_allclose(got, softmax(logits / temperature, axis=1), rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(got.sum(axis=1), 1)


def test_logits_of_half_precision_are_counted_in_double() -> None:
    got = compute_probabilities(LOGITS.astype(np.float16), 0.7)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, softmax(LOGITS / 0.7, axis=1), rtol=1e-12)


def test_no_rows_give_no_answers() -> None:
    assert compute_probabilities(np.zeros((0, 3)), 1.0).shape == (0, 3)
    assert list(build_answers(np.zeros((0, 3)), "abc")) == []


@pytest.mark.parametrize(("cool", "warm"), [(0.5, 1.0), (1.0, 4.0)])
def test_a_higher_temperature_doubts_more_and_never_changes_the_answer(cool: float, warm: float) -> None:
    sure, unsure = compute_probabilities(LOGITS, cool), compute_probabilities(LOGITS, warm)
    assert (sure.max(axis=1) > unsure.max(axis=1)).all()
    np.testing.assert_array_equal(sure.argsort(axis=1), unsure.argsort(axis=1))


def test_an_answer_names_the_likeliest_class_and_keeps_the_order_of_classes() -> None:
    first, second = build_answers(np.array([[0.2, 0.7, 0.1], [0.5, 0.25, 0.25]]), ("zebra", "ant", "mole"))
    assert first == Answer("ant", 0.7, {"zebra": 0.2, "ant": 0.7, "mole": 0.1}, ("ant",))
    assert second == Answer("zebra", 0.5, {"zebra": 0.5, "ant": 0.25, "mole": 0.25}, ("zebra",))
    assert list(first.probabilities) == ["zebra", "ant", "mole"]
    assert {type(value) for value in first.probabilities.values()} == {float}  # JSON knows no numpy


def test_of_two_equal_classes_the_first_is_the_answer() -> None:
    assert next(build_answers(np.array([[0.4, 0.4, 0.2]]), "abc")).label == "a"


def test_a_class_too_few_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(build_answers(np.array([[0.2, 0.7, 0.1]]), ("one", "two")))


# --- several labels ---------------------------------------------------------------------------------------------------


@given(
    logits=arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(-1e4, 1e4)),
    temperature=st.floats(0.05, 20),
)
def test_of_several_labels_each_has_a_probability_of_its_own(logits: NDArray[np.float64], temperature: float) -> None:
    got = compute_probabilities(logits, temperature, MULTILABEL)
    np.testing.assert_allclose(got, expit(logits / temperature), rtol=1e-9, atol=1e-300)


def test_labels_are_those_that_reach_their_thresholds_likeliest_first() -> None:
    chances = np.array([[0.3, 0.6, 0.9], [0.29, 0.59, 0.1], [0.31, 0.1, 0.1]])
    said = list(build_answers(chances, ("zebra", "ant", "mole"), MULTILABEL, (0.3, 0.6, 0.95)))
    assert [each.labels for each in said] == [("ant", "zebra"), (), ("zebra",)]
    assert [(each.label, each.probability) for each in said] == [("mole", 0.9), ("ant", 0.59), ("zebra", 0.31)]


def test_a_label_without_a_threshold_is_given_from_one_half_on() -> None:
    (said,) = build_answers(np.array([[0.5, 0.49, 0.7]]), ("zebra", "ant", "mole"), MULTILABEL)
    assert said.labels == ("mole", "zebra")


# --- calibration by class, prediction sets, unknown -------------------------------------------------------------------


def test_scales_and_shifts_come_after_the_temperature() -> None:
    scales, shifts = (1.0, 2.0, 0.5), (0.0, -1.0, 3.0)
    got = compute_probabilities(LOGITS, 2.0, scales=scales, shifts=shifts)
    np.testing.assert_allclose(got, softmax(LOGITS / 2 * np.array(scales) + np.array(shifts), axis=1))
    each = compute_probabilities(LOGITS, 2.0, MULTILABEL, scales, shifts)
    np.testing.assert_allclose(each, expit(LOGITS / 2 * np.array(scales) + np.array(shifts)))


def test_a_set_holds_what_is_likely_enough_and_always_the_likeliest() -> None:
    sure, torn, none = build_answers(np.array([[0.1, 0.9], [0.4, 0.6], [0.5, 0.5]]), "ab", set_threshold=0.4)
    assert (sure.prediction_set, torn.prediction_set, none.prediction_set) == (("b",), ("b", "a"), ("a", "b"))
    assert next(build_answers(np.array([[0.1, 0.9]]), "ab", set_threshold=0.95)).prediction_set == ("b",)
    assert next(build_answers(np.array([[0.1, 0.9]]), "ab")).prediction_set is None


def test_a_coverage_in_between_is_rounded_up() -> None:
    sets = [1 - at / 100 for at in range(len(COVERAGES))]
    assert prediction_set_threshold(sets, 0.9) == prediction_set_threshold(sets, 0.895) == sets[40]
    assert prediction_set_threshold(sets, 0.995) == sets[-2]
    assert prediction_set_threshold(sets, 0.2) == sets[0]
    for wrong in (0, 1, -0.5, 0.9999):
        with pytest.raises(ValueError, match="no sets of coverage"):
            prediction_set_threshold(sets, wrong)
    with pytest.raises(ValueError, match="no sets"):
        prediction_set_threshold((), 0.9)


def test_the_rank_is_that_of_the_textbook() -> None:
    assert [conformal_rank(count, 0.9) for count in (9, 10, 99, 100)] == [9, 10, 90, 91]


def test_an_unknown_image_has_no_labels_but_a_likeliest_class() -> None:
    chances = np.array([[0.1, 0.9], [0.2, 0.8]])
    known, strange = build_answers(chances, "ab", unknown=np.array([False, True]))
    assert (known.unknown, known.labels) == (False, ("b",))
    assert (strange.unknown, strange.labels, strange.label) == (True, (), "b")
