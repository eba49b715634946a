"""What a stranger reads in the folder of a classifier, whichever kind it is."""

from __future__ import annotations

from typing import Any

import numpy as np

from graft.model.evaluation import judge
from graft.model.multilabel import judge_labels
from graft.model.readme import text
from graft_runtime.card import Card

CLASSES = ("ant", "b|e")


def card(**entries: Any) -> Card:
    backbone = {"name": "net", "origin": "file", "licence": "MIT"}
    data, made = {"train": 8, "test": 2, "seed": 0}, {"graft": "1", "created": "today"}
    plain = Card(CLASSES, {}, backbone, {"solver": "ridge"}, "probe", 1.0, data=data, provenance=made)
    return Card(**(vars(plain) | entries))


def test_one_label_is_always_answered_and_its_share_of_right_answers_is_told() -> None:
    score = judge(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]), CLASSES)
    found = text(card(), {"evaluation": score.as_dict()})
    assert "Tells 2 classes apart: ant, b|e. It always answers one of them" in found
    assert "**50.0%** of 2 test pictures that it never saw are right" in found
    assert "| b\\|e | - | 0.0% | 1 |" in found


def test_several_labels_are_any_number_and_their_mean_average_precision_is_told() -> None:
    score = judge_labels(np.array([[0.9, 0.4], [0.8, 0.2]]), np.array([[0, 0], [1, 0]]), CLASSES, (0.7, 0.5))
    found = text(card(task="multilabel", thresholds=(0.7, 0.5)), {"evaluation": score.as_dict()})
    assert "Gives a picture any number of 2 labels, or none: ant, b|e." in found
    assert "mean average precision on 2 test pictures that it never saw is\n**50.0%**; the true figure lies" in found
    assert "50.0% of them get exactly the right\nlabels; F1 over all labels is 66.7%." in found
    assert "| ant | 50.0% | 50.0% | 100.0% | 0.70 | 1 |" in found
    assert "| b\\|e | - | - | - | 0.50 | 0 |" in found


def test_a_classifier_that_was_not_scored_says_so() -> None:
    for task in ("multiclass", "multilabel"):
        assert "**not evaluated**" in text(card(task=task), {"evaluation": None})
