"""The index says of each key what a dict would say, whatever was added, loaded, forgotten and added again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.features import store
from graft.features.store import ENTRY, Key, StoreIndex

KEYS = st.tuples(st.integers(0, 5).map(lambda number: number.to_bytes(16)), st.integers(0, 2))
STEPS = st.lists(st.tuples(st.sampled_from(["add", "load", "forget"]), st.lists(KEYS, max_size=5)), max_size=12)


def entries(keys: list[Key], first: int) -> np.ndarray:
    written = [(digest, view, first + at) for at, (digest, view) in enumerate(keys)]
    stored = np.array(written, [("digest", "S16"), ("view", "<u4"), ("checksum", "<u4")])
    return np.frombuffer(stored.tobytes(), ENTRY)


@settings(deadline=None)
@given(steps=STEPS)
@pytest.mark.parametrize("fresh", [0, 2, 100])
def test_an_index_is_a_dict(steps: list[tuple[str, list[Key]]], fresh: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "MAX_UNSORTED", fresh)
        mine, want, first = StoreIndex(), dict[Key, int](), 0
        for what, keys in steps:
            if what == "forget":
                for key in [key for key in keys if key in want]:
                    mine.forget(key)
                    want.pop(key, None)
                continue
            if what == "add":
                mine.add(keys, first, range(first, first + len(keys)))
            elif not set(keys) & _lost(mine):
                mine.load(entries(keys, first), np.arange(first, first + len(keys)))
            else:
                continue
            want |= {key: first + at for at, key in enumerate(keys)}
            first += len(keys)
        everything = [(number.to_bytes(16), view) for number in range(6) for view in range(3)]
        assert [mine.find(key) for key in everything] == [
            (want[key],) * 2 if key in want else None for key in everything
        ]
        assert len(mine) == len(want)
        assert mine.places(list(want)).tolist() == list(want.values())
        for lacking in [key for key in everything if key not in want]:
            with pytest.raises(KeyError):
                mine.places([*want, lacking])


def _lost(mine: StoreIndex) -> set[Key]:
    return mine._forgotten  # a store loads before anything can be forgotten


def test_keys_whose_mixed_bits_are_equal_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two keys in 2^64: here all are."""
    monkeypatch.setattr(store, "_hash_keys", lambda one, two, view: np.zeros(len(two), np.uint64))
    keys = [(bytes([number]) + bytes(15), view) for number in range(20) for view in range(3)]
    mine = StoreIndex()
    mine.load(entries(keys, 0), np.arange(len(keys)))
    assert len(mine) == len(keys)
    assert mine.places(keys[::-1]).tolist() == list(range(len(keys)))[::-1]
    assert mine.find((bytes([21]) + bytes(15), 0)) is None


def test_a_million_keys_take_32_bytes_each() -> None:
    assert sum(store._COLUMNS[name].itemsize for name in store._COLUMNS.names or ()) == 32
