"""Names that may mean one class are pointed out, with how many pictures each has."""

import numpy as np

from graft.data.lookalikes import lookalikes


def test_case_blanks_and_forms_of_letters() -> None:
    classes = ("Cat", "cat", "dog", "red fox", "Red  Fox", "redfox", "ﬁsh", "fish", "é", "e")
    assert lookalikes(classes, np.array([12, 1240, 9, 1, 2, 3, 4, 5, 6, 7])) == [
        "'Cat' (12 pictures) and 'cat' (1,240): the same class?",
        "'red fox' (1 picture), 'Red  Fox' (2) and 'redfox' (3): the same class?",
        "'ﬁsh' (4 pictures) and 'fish' (5): the same class?",
    ]
    assert lookalikes(("cat", "cats", "cat_1"), np.array([1, 2, 3])) == []
