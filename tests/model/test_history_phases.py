"""What a phase trained, in words."""

from __future__ import annotations

from typing import Any

import pytest

from graft.model.history import describe_phase

PHASE = {"cut": "layer3", "place": 7, "stages": 10, "only": "all", "until": "head", "kept_above": []}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, "from layer3 on, stage 8 of 10"),
        ({"cut": "conv1", "place": 0}, "everything"),
        ({"cut": "conv1", "place": 0, "only": "norms"}, "everything, norms and biases only"),
        ({"only": "adapters"}, "from layer3 on, stage 8 of 10, adapters only"),
        ({"cut": "head", "place": 10}, "the head"),
        ({"until": "layer4", "kept_above": ["layer4"]}, "from layer3 up to layer4, stages 8 to 9 of 10"),
        ({"until": "b", "kept_above": ["b", "c"]}, "from layer3 up to b, stage 8 of 10"),
        ({"cut": "a", "place": 0, "until": "b", "kept_above": ["b"] * 9}, "from a up to b, stage 1 of 10"),
        ({"layers": ["fc2"]}, "the last layer, fc2"),
        ({"layers": ["fc1", "fc2"]}, "the last 2 layers, fc1, fc2"),
        ({"layers": ["a", "b", "c", "d", "e"], "place": 0}, "the last 5 layers, from a on"),
    ],
)
def test_a_phase_in_words(changed: dict[str, Any], says: str) -> None:
    assert describe_phase(PHASE | changed) == says


def test_a_report_written_before_there_was_until_is_read_too() -> None:
    old = {name: value for name, value in PHASE.items() if name not in ("until", "kept_above")}
    assert describe_phase(old) == "from layer3 on, stage 8 of 10"
