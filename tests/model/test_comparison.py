"""Which of two classifiers is better: by textbook tests on what both answered, never on what only one saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.metrics import average_precision_score

from graft.errors import DataError, UsageError
from graft.model.memory import Memory, build_record, shorten_digests
from graft.model.scoring import ComparedClassifier, compare, mcnemar

RANDOM = np.random.default_rng(0)
DIGESTS = RANDOM.integers(0, 256, (400, 16), np.uint8)
LABELS = RANDOM.integers(0, 3, 400)
NAMES = np.array([f"{at}.jpg" for at in range(400)])
CLASSES = ("ant", "bee", "cat")


def side(
    name: str, right: np.ndarray, rows: Any = slice(None), trained: Any = slice(0, 0), **entries: Any
) -> ComparedClassifier:
    """A classifier that answers these images right, and others wrong, each with 0.8."""
    said = np.where(right, LABELS, (LABELS + 1) % 3)
    chances = np.full((400, 3), 0.1)
    chances[np.arange(400), said] = 0.8
    kept = build_record(DIGESTS[rows], NAMES[rows].tolist(), LABELS[rows], chances[rows], None)
    facts = {"task": "multiclass", "classes": CLASSES, "thresholds": (), "memory": None} | entries
    return ComparedClassifier(name, **facts | {"memory": Memory(shorten_digests(DIGESTS[trained]), kept)})


ROW = np.arange(400)


def test_who_answers_more_of_the_same_images_right_is_better() -> None:
    good, bad = side("good", ROW >= 40), side("bad", (ROW >= 100) | (ROW < 10))
    found = compare(good, bad)
    assert found.verdict == "better"
    assert (found.only_first, found.only_second, found.shared) == (60, 10, 400)
    assert (found.first, found.second) == (0.9, 0.775)
    assert found.difference == pytest.approx(0.125)
    assert found.p == pytest.approx(2 * binom.cdf(10, 70, 0.5))
    low, high = found.interval
    spread = np.std((ROW >= 40).astype(float) - ((ROW >= 100) | (ROW < 10))) / 20
    assert (low, high) == pytest.approx((0.125 - 1.96 * spread, 0.125 + 1.96 * spread), abs=0.005)
    assert found.log_loss == pytest.approx(-0.125 * np.log(8))
    other = compare(bad, good)
    assert (other.verdict, other.difference, other.p) == ("worse", -found.difference, found.p)


@pytest.mark.slow
def test_equals_cannot_be_told_apart_and_seldom_are() -> None:
    one = side("one", ROW >= 40)
    same = compare(one, side("two", ROW >= 40))
    assert (same.verdict, same.p, same.difference, same.interval) == ("not distinguishable", 1.0, 0.0, (0.0, 0.0))
    verdicts = []
    for seed in range(60):
        random = np.random.default_rng(seed)
        pair = (side(name, random.random(400) < 0.8) for name in "ab")
        verdicts.append(compare(*pair).verdict)
    assert verdicts.count("not distinguishable") >= 54


def test_only_shared_images_count_in_whatever_order_and_training_on_the_others_test_is_told() -> None:
    one = side("one", ROW >= 40, rows=np.arange(299, -1, -1), trained=slice(300, 400))
    two = side("two", ROW >= 60, rows=np.arange(200, 400), trained=slice(0, 50))
    found = compare(one, two)
    assert (found.shared, found.tested, found.trained_on) == (100, (300, 200), (100, 50))
    with pytest.raises(DataError, match="share none of their 100 and 100 test images"):
        compare(side("one", ROW >= 0, rows=slice(0, 100)), side("two", ROW >= 0, rows=slice(100, 200)))


def test_classes_in_another_order_are_the_same_and_other_labels_are_left_out() -> None:
    one = side("one", ROW >= 40)
    turned = side("two", ROW >= 40, classes=("bee", "ant", "cat"))
    assert compare(one, turned).shared == int((LABELS == 2).sum())  # the others are labelled otherwise there
    assert compare(one, turned).other == int((LABELS < 2).sum())
    with pytest.raises(DataError, match="other labels for each"):
        compare(one, side("two", ROW >= 40, classes=("x", "y", "z")))


def test_several_labels_are_compared_by_mean_average_precision() -> None:
    labels = RANDOM.integers(0, 2, (200, 3)).astype(np.uint8)
    sides, areas = [], []
    for noise in (0.3, 3.0):
        chances = np.clip((labels + noise * RANDOM.standard_normal((200, 3))) / 2 + 0.25, 0, 1)
        memory = Memory(
            shorten_digests(DIGESTS[:0]), build_record(DIGESTS[:200], NAMES[:200].tolist(), labels, chances, None)
        )
        sides.append(ComparedClassifier("it", "multilabel", CLASSES, (), memory))
        areas.append(average_precision_score(labels, chances.astype(np.float32), average="macro"))
    found = compare(*sides)
    assert (found.first, found.second) == pytest.approx(areas)
    assert (found.verdict, found.p, found.metric) == ("better", None, "mean_average_precision")
    assert compare(sides[1], sides[1]).verdict == "not distinguishable"
    with pytest.raises(UsageError, match="two kinds of question"):
        compare(sides[0], side("one", ROW >= 0))


def test_who_was_not_tested_cannot_be_compared() -> None:
    bare = ComparedClassifier("bare", "multiclass", CLASSES, (), Memory(shorten_digests(DIGESTS)))
    with pytest.raises(DataError, match="bare remembers no test image"):
        compare(bare, side("one", ROW >= 0))


@pytest.mark.parametrize(("one", "two"), [(0, 0), (5, 0), (1, 9), (30, 30), (12, 25)])
def test_mcnemars_test_by_hand(one: int, two: int) -> None:
    want = min(1.0, 2 * binom.cdf(min(one, two), one + two, 0.5)) if one + two else 1.0
    assert mcnemar(one, two) == pytest.approx(want)
