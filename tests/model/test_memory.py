"""What a classifier remembers comes back from its bytes, and images are found again by content."""

from __future__ import annotations

import numpy as np
import pytest

from graft.metrics.unknown import KnownImages
from graft.model.memory import EvaluationRecord, Memory, build_record, dump, parse, shorten_digests

RANDOM = np.random.default_rng(0)
DIGESTS = RANDOM.integers(0, 256, (6, 16), np.uint8)


def answered(classes: int, several: bool = False) -> tuple[EvaluationRecord, np.ndarray, np.ndarray]:
    chances = RANDOM.dirichlet(np.ones(classes), 6)
    labels = RANDOM.integers(0, 2, (6, classes)).astype(np.uint8) if several else RANDOM.integers(0, classes, 6)
    names = ["a.jpg", "日本/é.png", "", "d", 'e"', "f\n"]
    return build_record(DIGESTS, names, labels, chances, np.arange(6, dtype=np.float32)), chances, labels


@pytest.mark.parametrize("several", [False, True])
def test_what_was_dumped_is_parsed_to_the_same(several: bool) -> None:
    known = KnownImages(
        RANDOM.random((4, 3)).astype(np.float16), np.arange(4), ("a", "b", "c", "d"), np.ones(2, np.float32)
    )
    memory = Memory(shorten_digests(DIGESTS), answered(3, several)[0], known)
    again = parse(dump(memory))
    for one, other in ((memory.tested, again.tested), (memory.known, again.known)):
        for (name, mine), theirs in zip(vars(one).items(), vars(other).values(), strict=True):
            assert type(mine) is type(theirs), name
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(memory.trained, again.trained)
    assert dump(again) == dump(memory)
    bare = parse(dump(Memory(shorten_digests(DIGESTS))))
    assert (bare.tested, bare.known) == (None, None)


def test_all_probabilities_are_kept_of_few_classes_and_the_ten_likeliest_of_many() -> None:
    few, chances, labels = answered(3)
    np.testing.assert_allclose(few.chances, chances, rtol=1e-6)
    many, chances, labels = answered(150)
    assert many.chances.shape == (6, 10)
    for row in range(6):
        np.testing.assert_allclose(many.chances[row], np.sort(chances[row])[::-1][:10], rtol=1e-6)
        np.testing.assert_allclose(many.chances[row], chances[row, many.columns[row]], rtol=1e-6)
    np.testing.assert_allclose(many.own, chances[np.arange(6), labels], rtol=1e-6)


def test_images_that_were_trained_on_are_found_by_half_of_their_digest() -> None:
    memory = Memory(shorten_digests(DIGESTS[:3]))
    assert memory.trained.shape == (3, 8)
    np.testing.assert_array_equal(memory.find_trained(DIGESTS), [True] * 3 + [False] * 3)
    assert memory.find_trained(DIGESTS[:0]).shape == (0,)
    np.testing.assert_array_equal(shorten_digests(DIGESTS), shorten_digests(DIGESTS[::-1]))
