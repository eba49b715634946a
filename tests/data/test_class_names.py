"""Names that may mean one class are pointed out, with how many images each has."""

import numpy as np
import pytest

from graft.data.classes import find_similar_names, match_classes
from graft.errors import DataError


def test_case_blanks_and_forms_of_letters() -> None:
    classes = ("Cat", "cat", "dog", "red fox", "Red  Fox", "redfox", "ﬁsh", "fish", "é", "e")
    assert find_similar_names(classes, np.array([12, 1240, 9, 1, 2, 3, 4, 5, 6, 7])) == [
        "'Cat' (12 images) and 'cat' (1,240): the same class?",
        "'red fox' (1 image), 'Red  Fox' (2) and 'redfox' (3): the same class?",
        "'ﬁsh' (4 images) and 'fish' (5): the same class?",
    ]
    assert find_similar_names(("cat", "cats", "cat_1"), np.array([1, 2, 3])) == []


def test_a_classifiers_classes_come_first_and_others_after() -> None:
    assert match_classes("it", ("dog", "shoe", "cat"), ("cat", "dog")) == ("cat", "dog", "shoe")
    assert match_classes("it", (), ("cat", "dog")) == ("cat", "dog")


def test_other_spellings_and_wholly_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"spells classes in another way .* 'Cat' \(there: 'cat'\), 'DOG' "):
        match_classes("it", ("Cat", "DOG", "eel"), ("cat", "dog"))
    with pytest.raises(DataError, match=r"it has no class that the classifier knows. It has 'a', 'b'"):
        match_classes("it", ("a", "b"), ("cat", "dog"))
