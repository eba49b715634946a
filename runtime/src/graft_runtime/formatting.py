"""Format predictions and names as text for people.

After a percentage come class names only; words of the program itself come after a dash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MAX_NAMES = 12  # names in one line
MAX_NAMES_IN_REPR = 5  # in the repr of an object


def format_answer(prediction: Mapping[str, Any]) -> str:
    """Format one prediction (`Prediction.as_dict`): probability and labels, or why there are none."""
    if prediction["fault"]:
        return f"    -    not judged, {prediction['fault']}"
    if prediction["unknown"]:
        return "    -    (unknown)"
    names = prediction["labels"] if prediction["prediction_set"] is None else prediction["prediction_set"]
    return (
        f"{prediction['probability']:7.1%}  {join_names(names, MAX_NAMES)}"
        if names
        else "    -    (none of the labels)"
    )


def join_with_and(parts: Sequence[str]) -> str:
    """Join parts with commas and a final "and".

    >>> join_with_and(["darker", "less sharp", "whiter"])
    'darker, less sharp and whiter'
    """
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def join_names(names: Sequence[str], max_names: int | None = None) -> str:
    """Join at most `max_names` names with commas; a name with a comma of its own is quoted."""
    shown = [json.dumps(name, ensure_ascii=False) if "," in name or '"' in name else name for name in names[:max_names]]
    return ", ".join(shown) + (f" and {len(names) - len(shown):,} more" if len(shown) < len(names) else "")
