"""What gives a class away is told: size, border or mean colour; what does not is not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.tree import DecisionTreeClassifier

from graft.data.image_stats import ImageStats
from graft.jobs.check.check import MAX_DEPTH, MIN_LEAF_IMAGES, find_shortcuts, predict_with_tree

COUNT = 120
LABELS = (np.arange(COUNT) % 3).astype(np.int32)
FOLDS = (np.arange(COUNT) // 3 % 4).astype(np.int8)


def table() -> NDArray[np.float32]:
    """Images of random sizes and colours."""
    rng = np.random.default_rng(0)
    rows = np.zeros((COUNT, 16), np.float32)
    rows[:, :2] = rng.integers(100, 900, (COUNT, 2))
    rows[:, 6:12] = rng.integers(0, 256, (COUNT, 6))
    return rows


def telling(rows: NDArray[np.float32]) -> list[str]:
    return [each.what for each in find_shortcuts(ImageStats(rows), LABELS, FOLDS) if each.is_suspicious]


def test_what_is_random_tells_nothing() -> None:
    found = list(find_shortcuts(ImageStats(table()), LABELS, FOLDS))
    assert [each.what for each in found] == ["size", "border colour", "mean colour"]
    assert [each.chance for each in found] == pytest.approx([1 / 3] * 3)
    assert all(each.accuracy < 0.55 for each in found)
    assert telling(table()) == []


@pytest.mark.parametrize(("column", "what"), [(0, "size"), (10, "border colour"), (6, "mean colour")])
def test_each_giveaway_is_found(column: int, what: str) -> None:
    rows = table()
    rows[:, column] = 50 + 70 * LABELS + np.random.default_rng(1).normal(0, 5, COUNT)
    assert telling(rows) == [what]


def test_a_few_images_or_one_class_tell_nothing() -> None:
    assert list(find_shortcuts(ImageStats(table()[:29]), LABELS[:29], FOLDS[:29])) == []
    assert list(find_shortcuts(ImageStats(table()), np.zeros(COUNT, np.int32), FOLDS)) == []


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_tree_answers_as_scikit_learns(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = np.sort(rng.integers(0, classes, 400) * rng.integers(0, 2, 400))  # class 0 is the largest
    columns = rng.normal(0, 1, (400, 4)).astype(np.float32)
    columns[:, 2] += labels * rng.normal(0.8, 0.3, 400)
    asked = rng.normal(1, 2, (500, 4)).astype(np.float32)
    tree = DecisionTreeClassifier(
        max_depth=MAX_DEPTH, min_samples_leaf=MIN_LEAF_IMAGES, class_weight="balanced", random_state=0
    )
    want = tree.fit(columns, labels).predict(asked)
    got = predict_with_tree(columns, labels, 1 / np.bincount(labels, minlength=classes), asked, MAX_DEPTH)
    assert len(np.unique(want)) == classes
    assert (got == want).mean() > 0.97  # splits that are equally good are drawn by lot


def test_equal_values_stay_on_one_side() -> None:
    columns = np.repeat(np.float32([1, 2]), 10)[:, None]
    labels = np.r_[np.zeros(10, int), np.ones(10, int)]
    assert predict_with_tree(columns, labels, np.ones(2), np.float32([[1.4], [1.6]]), MAX_DEPTH).tolist() == [0, 1]
    alike = np.zeros((20, 3), np.float32)
    assert set(predict_with_tree(alike, labels, np.float64([1, 3]), alike, MAX_DEPTH)) == {1}
