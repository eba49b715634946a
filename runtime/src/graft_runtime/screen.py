"""An answer as a person reads it on a terminal.

Behind a percentage stand names of classes alone; what the program itself has to say stands behind a dash.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

MANY = 12  # names in one line
FEW = 5  # in the repr of an object


def answer(prediction: Mapping[str, Any]) -> str:
    """What is said of one image, `Prediction.as_dict`: how likely, and what; or why there is no class to be named."""
    if prediction["fault"]:
        return f"    -    not judged, {prediction['fault']}"
    if prediction["unknown"]:
        return "    -    (unknown)"
    said = prediction["labels"] if prediction["among"] is None else prediction["among"]
    return f"{prediction['probability']:7.1%}  {listed(said, MANY)}" if said else "    -    (none of the labels)"


def enumerated(parts: Sequence[str]) -> str:
    """As a sentence has it.

    >>> enumerated(["darker", "less sharp", "whiter"])
    'darker, less sharp and whiter'
    """
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Names with commas between, at most so many; one that has a comma of its own stands in quotes."""
    shown = [json.dumps(name, ensure_ascii=False) if "," in name or '"' in name else name for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - len(shown):,} more" if len(shown) < len(names) else "")
