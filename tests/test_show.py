"""What a person reads at the end."""

from __future__ import annotations

from typing import Any

import pytest

from graft.cli import explain, format

PLAIN: dict[str, Any] = {
    **dict.fromkeys(("leaks", "alike", "disputed", "misnamed"), 0),
    **dict.fromkeys(("alike_names", "conflicts", "suspects", "few", "missing", "untested"), ()),
    **{"columns": "", "ignored": {}, "train": 80, "test": 20},
}
HEIC = "HEIC is not read here: pip install 'graft-vision[heic]'"


@pytest.mark.parametrize(("count", "told"), [(11, False), (12, True)])
def test_a_good_part_of_the_data_lost_is_said_with_care(
    capsys: pytest.CaptureFixture[str], count: int, told: bool
) -> None:
    data = PLAIN | {"faults": {"a.jpg": "truncated"} | {f"{at}.heic": HEIC for at in range(count - 1)}}
    line = f"{count} of {100 + count} images cannot be used, {count - 1} of them because: {HEIC}"
    assert format.list_cautions({"data": data}) == [line] * told
    format.print_findings(data)
    said = capsys.readouterr().out
    assert f"{count} images that cannot be used" in said
    assert f"and {count - 5} more (HEIC is not read here)" in said  # what is wrong, not what helps


def test_an_unknown_image_is_explained_as_what_it_is_like(capsys: pytest.CaptureFixture[str]) -> None:
    """`graft predict` answers 'unknown', and so must `graft explain`."""
    plain = {"fault": "", "explained": "tulip", "probabilities": {"tulip": 0.995}, "drawing": "why/a.png"}
    explain.print_explained([plain | {"image": "a.jpg", "unknown": True}, plain | {"image": "b.jpg", "unknown": False}])
    assert capsys.readouterr().out.splitlines() == [
        "      -  (unknown) like tulip  a.jpg  drawn in why/a.png",
        "  99.5%  tulip                 b.jpg  drawn in why/a.png",
    ]


@pytest.mark.parametrize(("count", "said"), [(1, "1 test image has a"), (2, "2 test images have a")])
def test_leaks_are_counted_in_english(count: int, said: str) -> None:
    assert format.list_cautions({"data": PLAIN | {"faults": {}, "leaks": count}})[0].startswith(said)
