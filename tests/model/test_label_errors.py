"""Wrong labels rank above true ones, and what has nothing to do with the rest is far from it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.data.dataset import from_arrays
from graft.model.label_errors import MIN_PER_CLASS, find_label_errors, find_outliers


def confident(labels: NDArray[np.integer], classes: int, sure: float = 0.9) -> NDArray[np.float64]:
    """Probabilities of a head that is right about these classes, and sure of it."""
    chances = np.full((len(labels), classes), (1 - sure) / (classes - 1))
    chances[np.arange(len(labels)), labels] = sure
    return chances


def test_true_labels_are_not_in_doubt() -> None:
    labels = (np.arange(30) % 3).astype(np.int32)
    found = find_label_errors(confident(labels, 3), labels)
    assert len(found.rows) == 0
    np.testing.assert_allclose(found.error_scores, 0.1)


def test_wrong_labels_come_first_with_what_they_may_be() -> None:
    truth = (np.arange(60) % 3).astype(np.int32)
    chances = confident(truth, 3)
    chances[7] = [0.02, 0.97, 0.01]  # truth[7] == 1: surer of this one
    labels = truth.copy()
    labels[[7, 20]] = 2, 0  # were 1 and 2
    found = find_label_errors(chances, labels)
    assert found.rows.tolist() == [7, 20]
    assert found.suggested_labels.tolist() == [1, 2]
    assert found.error_scores[[7, 20]] == pytest.approx([0.99, 0.95])
    data = from_arrays([np.zeros((1, 1, 3), np.uint8)] * 60, labels, ("ant", "bee", "cat"))
    assert found.name_suggestions(data) == {7: "bee", 20: "cat"}


def test_another_class_must_be_as_likely_as_it_usually_is() -> None:
    truth = (np.arange(60) % 3).astype(np.int32)
    chances = confident(truth, 3)
    labels = truth.copy()
    labels[7], chances[7] = 2, [0.3, 0.4, 0.3]  # unsure: a hard image, not a wrong label
    assert len(find_label_errors(chances, labels).rows) == 0
    assert find_label_errors(chances, labels).error_scores[7] == pytest.approx(0.7)


def test_nobody_can_doubt_a_class_of_a_handful() -> None:
    truth = np.zeros(30, np.int32)
    truth[15:] = 1
    chances = confident(truth, 3)
    labels = truth.copy()
    labels[: MIN_PER_CLASS - 1] = 2
    assert len(find_label_errors(chances, labels).rows) == 0


def test_of_several_labels_one_can_be_missing_or_too_much() -> None:
    truth = (np.arange(60)[:, None] % np.array([2, 3, 5]) == 0).astype(np.uint8)
    chances = np.where(truth > 0, 0.9, 0.1)
    labels = truth.copy()
    labels[6, 0], labels[7, 2] = 0, 1
    found = find_label_errors(chances, labels)
    data = from_arrays([np.zeros((1, 1, 3), np.uint8)] * 60, labels, ("sky", "sea", "tree"))
    assert found.name_suggestions(data) == {6: "sky", 7: "no tree"}


def test_outliers_are_far_from_all_others() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((300, 32)).astype(np.float32)
    assert len(find_outliers(features)) <= 1  # 3 standard deviations are passed by chance, too
    features[17] *= 12
    features[200] *= 6
    assert find_outliers(features)[:2].tolist() == [17, 200]


def test_a_handful_has_no_outliers() -> None:
    assert len(find_outliers(np.eye(49, dtype=np.float32))) == 0
