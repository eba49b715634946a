"""What gives a class away is told: size, border or mean colour; what does not is not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.data.looks import Looks
from graft.training.shortcuts import shortcuts

COUNT = 120
LABELS = (np.arange(COUNT) % 3).astype(np.int32)
FOLDS = (np.arange(COUNT) // 3 % 4).astype(np.int8)


def table() -> NDArray[np.float32]:
    """Pictures of random sizes and colours."""
    rng = np.random.default_rng(0)
    rows = np.zeros((COUNT, 16), np.float32)
    rows[:, :2] = rng.integers(100, 900, (COUNT, 2))
    rows[:, 6:12] = rng.integers(0, 256, (COUNT, 6))
    return rows


def telling(rows: NDArray[np.float32]) -> list[str]:
    return [each.what for each in shortcuts(Looks(rows), LABELS, FOLDS) if each.telling]


def test_what_is_random_tells_nothing() -> None:
    found = list(shortcuts(Looks(table()), LABELS, FOLDS))
    assert [each.what for each in found] == ["size", "border colour", "mean colour"]
    assert [each.chance for each in found] == pytest.approx([1 / 3] * 3)
    assert all(each.accuracy < 0.55 for each in found)
    assert telling(table()) == []


@pytest.mark.parametrize(("column", "what"), [(0, "size"), (10, "border colour"), (6, "mean colour")])
def test_each_giveaway_is_found(column: int, what: str) -> None:
    rows = table()
    rows[:, column] = 50 + 70 * LABELS + np.random.default_rng(1).normal(0, 5, COUNT)
    assert telling(rows) == [what]


def test_a_few_pictures_or_one_class_tell_nothing() -> None:
    assert list(shortcuts(Looks(table()[:29]), LABELS[:29], FOLDS[:29])) == []
    assert list(shortcuts(Looks(table()), np.zeros(COUNT, np.int32), FOLDS)) == []
