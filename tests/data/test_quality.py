"""Odd images are named, each for its own reason; ordinary ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from graft.data.image_stats import COLUMN_COUNT, ImageStats
from graft.data.quality import Finding, find_misnamed, find_odd_images, find_unreadable
from graft_runtime.formats import FORMATS

JPEG, PNG = FORMATS.index("JPEG"), FORMATS.index("PNG")


def looks(**rows: list[float]) -> ImageStats:
    """Six ordinary photos with some columns of the table changed: column number, then a value for each."""
    table = np.tile(np.float32([640, 480, JPEG, 1, 0, 0, 90, 80, 70, 60, 50, 40, 1, 2, 3, 4]), (6, 1))
    for name, values in rows.items():
        table[:, int(name[1:])] = values
    return ImageStats(table)


def found(table: ImageStats, names: list[str] | None = None) -> dict[str, Finding]:
    return {each.kind: each for each in find_odd_images(table, names or [f"{row}.jpg" for row in range(6)])}


def test_ordinary_images_are_not_odd() -> None:
    assert found(looks()) == {}
    assert list(find_odd_images(ImageStats(np.zeros((0, COLUMN_COUNT), np.float32)), [])) == []


@pytest.mark.parametrize(
    ("kind", "changed", "cases"),
    [
        ("blank", {"c4": [1, 0, 0, 0, 0, 1]}, [[0], [5]]),
        ("tiny", {"c0": [640, 15, 640, 640, 640, 640], "c1": [480, 480, 480, 59, 480, 480]}, [[1], [3]]),
        ("grey", {"c5": [0, 0, 1, 0, 0, 0]}, [[2]]),
        ("long", {"c0": [1921, 640, 640, 640, 100, 640]}, [[0], [4]]),
        ("huge", {"c0": [60000, 640, 640, 640, 640, 640], "c1": [15000, 480, 480, 480, 480, 480]}, [[0]]),
        ("turned", {"c3": [1, 8, 1, 1, 2, 1]}, [[1], [4]]),
        ("misnamed", {"c2": [JPEG, PNG, JPEG, JPEG, JPEG, JPEG]}, [[1]]),
    ],
)
def test_each_oddity_is_found_where_it_is(kind: str, changed: dict[str, list[float]], cases: list[list[int]]) -> None:
    told = found(looks(**changed))
    assert told[kind].cases.tolist() == cases
    assert len(told[kind].notes) in (0, len(cases))


def test_grey_images_in_a_grey_set_are_not_odd() -> None:
    assert "grey" not in found(looks(c5=[1, 1, 1, 0, 0, 0]))


def test_small_images_among_small_ones_are_not_odd() -> None:
    assert "tiny" not in found(looks(c0=[32] * 6, c1=[32] * 6))


def test_only_endings_that_say_a_format_can_be_wrong() -> None:
    names = ["a.JPEG", "b.png", "c", "d.jpe", "image 4", "e.webp"]
    assert find_misnamed(looks(), names).tolist() == [False, True, False, False, False, True]
    assert not find_misnamed(looks(c2=[-1] * 6), names).any()


@pytest.mark.fault(8)
def test_what_cannot_be_read_keeps_its_reason_and_is_graver_where_it_is_most() -> None:
    (one,) = find_unreadable({3: "truncated", 7: "empty file"}, 10)
    assert (one.severity, one.cases.tolist(), one.notes) == ("warning", [[3], [7]], ["truncated", "empty file"])
    (most,) = find_unreadable({row: "damaged" for row in range(6)}, 10)
    assert most.severity == "error"
    assert list(find_unreadable({}, 10)) == []


def test_sentences_know_one_from_many() -> None:
    assert found(looks(c4=[1, 0, 0, 0, 0, 0]))["blank"].says == (
        "1 image is of a single colour: nothing can be learned from it"
    )
    assert found(looks(c4=[1, 1, 0, 0, 0, 0]))["blank"].says.startswith("2 images are of a single colour")
