"""What a person reads at the end."""

from __future__ import annotations

from typing import Any

import pytest

from graft import show

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
    assert show.careful({"data": data}) == [line] * told
    show.findings(data)
    said = capsys.readouterr().out
    assert f"{count} pictures that cannot be used" in said
    assert f"and {count - 5} more (HEIC is not read here)" in said  # what is wrong, not what helps
