"""JSON between programs: numbers that are numbers, and no nesting without end."""

from __future__ import annotations

import json
import math
from typing import Any

DEPTH = 64  # lists and tables inside each other; what graft writes has seven


def loads(text: str | bytes) -> Any:
    """The value. Raises ValueError for NaN, infinity, 1e999, what is nested too deeply, and what is no JSON."""
    try:
        value = json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {DEPTH} deep") from error
    _check_depth(value)
    return value


def dumps(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """The text, in which null stands for a number that is none, as strict readers refuse NaN."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_nulled(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refused(text[:20])


def _check_depth(value: Any) -> None:
    """Level by level, as a function that calls itself would end where Python's stack does."""
    level = [value]
    for _ in range(DEPTH + 1):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH} deep")


def _nulled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulled(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_nulled(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
