"""What is said of classes: those without images, with few, of unequal size, missing in a part, with odd names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graft.data.classes import check_classes_repeat, find_class_problems, join_names, small_classes
from graft.data.dataset import TEST, TRAIN, Dataset, from_arrays
from graft.errors import DataError


def data(counts: dict[str, int], parts: list[int] | None = None) -> Dataset:
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    made = from_arrays([np.zeros((1, 1, 3), np.uint8)] * len(labels), labels, tuple(counts))
    return made if parts is None else replace(made, split=np.array(parts, np.int8))


def said(table: Dataset) -> dict[str, tuple[str, str]]:
    return {each.kind: (each.severity, each.says) for each in find_class_problems(table)}


def test_a_balanced_set_is_fine() -> None:
    assert said(data({"ant": 20, "bee": 30})) == {}


@pytest.mark.fault(20)
def test_empty_few_and_unequal_classes_are_named() -> None:
    table = data({"ant": 100, "bee": 9, "cat": 0, "dog": 12})
    assert small_classes(table) == ("bee",)
    assert said(table) == {
        "empty class": ("error", "No usable image of cat"),
        "few images": ("warning", "Fewer than 10 images of bee (9)"),
        "imbalance": ("warning", "ant has 11 times as many images as bee: 100 and 9"),
    }


def test_a_class_that_only_one_part_has_is_named() -> None:
    parts = [TRAIN] * 15 + [TEST] * 5 + [TEST] * 20 + [TRAIN] * 20
    found = [(each.severity, each.says) for each in find_class_problems(data({"ant": 20, "bee": 20, "cat": 20}, parts))]
    assert found == [
        ("error", "The training part has no image of bee"),
        ("warning", "The test part has no image of cat"),
    ]


def test_names_that_look_alike_are_pointed_out() -> None:
    assert said(data({"Cat": 12, "cat": 20}))["class names"][1] == "'Cat' (12 images) and 'cat' (20): the same class?"


def test_long_lists_are_cut() -> None:
    assert join_names(["a", "b"]) == "a, b"
    assert join_names([f"{n}" for n in range(11)]) == "0, 1, 2, 3, 4, 5, 6, 7 and 3 more"


def test_images_of_which_nearly_each_has_its_own_class_are_nothing_to_learn_from() -> None:
    with pytest.raises(DataError, match="18 of the 20 images in this source have a class of their own, such as 'id0'"):
        check_classes_repeat(data({f"id{at}": 1 for at in range(18)} | {"ant": 2}))
    check_classes_repeat(data({f"id{at}": 1 for at in range(17)} | {"ant": 3}))
    check_classes_repeat(data({"ant": 1, "bee": 1}))
