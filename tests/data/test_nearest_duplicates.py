"""The nearest near-duplicate: of all, with another label, in another part; by features, by hash, by content."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from graft.data import duplicates
from graft.data.dataset import TEST, TRAIN, UNSPLIT, Dataset, from_arrays
from graft.data.duplicates import (
    NO_PARTNER,
    NearDuplicates,
    count_repeats,
    find_duplicate_problems,
    find_near_duplicates,
    partner_pairs,
)
from graft.data.image_stats import mirror_hashes

COUNT = 40


def features() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((COUNT, 64)).astype(np.float32)


def digests() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (COUNT, 16), np.uint8)


def hashes() -> NDArray[np.uint64]:
    return np.random.default_rng(2).integers(0, 2**64, COUNT, np.uint64)


def labels(**other: int) -> NDArray[np.int32]:
    said = np.zeros(COUNT, np.int32)
    for name, value in other.items():
        said[int(name[1:])] = value
    return said


def twins(
    rows: NDArray[np.float32], said: NDArray[np.int32] | None = None, parts: NDArray[np.int8] | None = None
) -> NearDuplicates:
    return find_near_duplicates(
        rows, digests(), None, labels() if said is None else said, np.zeros(COUNT, np.int8) if parts is None else parts
    )


def data(said: NDArray[np.int32], parts: NDArray[np.int8]) -> Dataset:
    made = from_arrays([np.zeros((1, 1, 3), np.uint8)] * COUNT, said, ("ant", "bee"))
    return replace(made, split=parts)


def test_strangers_have_nobody() -> None:
    lonely = twins(features())
    assert (lonely.nearest == NO_PARTNER).all()
    assert len(set(lonely.groups)) == COUNT
    assert partner_pairs(lonely.nearest).shape == (0, 2)


def test_of_several_the_most_alike_is_the_nearest() -> None:
    rows = features()
    rows[1] = rows[0] + 0.3 * features()[20]
    rows[2] = rows[0] + 0.1 * features()[21]
    assert twins(rows).nearest[:3].tolist() == [2, 0, 0]
    assert partner_pairs(twins(rows).nearest).tolist() == [[0, 1], [0, 2]]


@pytest.mark.parametrize("block", [7, 2048])
def test_labels_and_parts_have_a_nearest_of_their_own(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    rows = features()
    rows[30], rows[35] = rows[0] + 0.1 * rows[20], rows[0] + 0.3 * rows[21]
    parts = np.full(COUNT, TRAIN, np.int8)
    parts[30] = TEST
    told = twins(rows, labels(c35=1), parts)
    assert told.conflicting[[0, 30, 35]].tolist() == [35, 35, 0]
    assert told.leaking[[0, 30, 35]].tolist() == [30, 0, 30]
    assert (np.delete(told.conflicting, [0, 30, 35]) == NO_PARTNER).all()


def test_hashes_speak_for_pairs_whose_features_differ_more() -> None:
    rows, bits = features(), hashes()
    rows[1] = 0.75 * rows[0] + 0.66 * features()[20]  # a cosine of about 0.75
    nothing = np.zeros(COUNT, np.int8)
    bits[1] = bits[0]
    assert find_near_duplicates(rows, digests(), None, labels(), nothing).nearest[0] == NO_PARTNER
    assert find_near_duplicates(rows, digests(), bits, labels(), nothing).nearest[0] == 1
    bits[1] = mirror_hashes(bits[:1])[0]
    assert find_near_duplicates(rows, digests(), bits, labels(), nothing).nearest[0] == 1
    bits[1] = bits[0] ^ np.uint64(0xFFFF)
    assert find_near_duplicates(rows, digests(), bits, labels(), nothing).nearest[0] == NO_PARTNER


@pytest.mark.parametrize("block", [7, 2048])
def test_without_features_only_hashes_that_are_nearly_the_same_make_twins(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", block)
    bits = hashes()
    bits[30], bits[35], bits[39] = bits[0] ^ np.uint64(0b111), mirror_hashes(bits[:1])[0], bits[1] ^ np.uint64(0b11111)
    told = find_near_duplicates(None, digests(), bits, labels(), np.zeros(COUNT, np.int8))
    assert told.nearest[[0, 30, 35, 39]].tolist() == [35, 0, 0, NO_PARTNER]
    assert (find_near_duplicates(None, digests(), None, labels(), np.zeros(COUNT, np.int8)).nearest == NO_PARTNER).all()


def test_equal_hashes_alone_make_no_twins() -> None:
    same = np.full(COUNT, 12345, np.uint64)
    told = find_near_duplicates(features(), digests(), same, labels(), np.zeros(COUNT, np.int8))
    assert (told.nearest == NO_PARTNER).all()


def test_several_labels_differ_if_any_does() -> None:
    rows, said = features(), np.zeros((COUNT, 3), np.uint8)
    rows[1], rows[3] = rows[0], rows[2]
    said[[0, 1], 0] = 1
    said[3, 2] = 1
    told = find_near_duplicates(rows, digests(), None, said, np.zeros(COUNT, np.int8))
    assert told.conflicting[:4].tolist() == [NO_PARTNER, NO_PARTNER, 3, 2]


def test_what_is_told_of_them() -> None:
    rows, names, said = features(), digests(), labels(c1=1, c5=1)
    for one, other in ((1, 0), (3, 2), (5, 4), (7, 6), (9, 8)):
        rows[one] = rows[other]
    for one, other in ((1, 0), (3, 2)):
        names[one] = names[other]
    parts = np.full(COUNT, UNSPLIT, np.int8)
    parts[:] = TRAIN
    parts[9] = TEST
    told = find_near_duplicates(rows, names, None, said, parts)
    assert told.is_copy.tolist() == [row in (1, 3) for row in range(COUNT)]
    findings = {each.kind: each for each in find_duplicate_problems(told, data(said, parts), hashes())}
    assert {kind: each.cases.tolist() for kind, each in findings.items()} == {
        "leak": [[8, 9]],
        "conflict": [[0, 1]],
        "near conflict": [[4, 5]],
        "copy": [[2, 3]],
        "near-duplicate": [[6, 7]],
    }
    assert findings["conflict"].notes == ["same content"]
    assert [findings[kind].severity for kind in ("leak", "conflict", "near conflict")] == ["error", "error", "warning"]


def test_a_content_that_stands_there_three_times_is_a_likely_placeholder() -> None:
    first = np.array([0, 1, 1, 0, 4, 0, 1, 7, 0, 7])
    assert count_repeats(first) == {0: 4, 1: 3}
    assert count_repeats(first[:5]) == {}
