"""Strict JSON: only finite numbers, and limited nesting."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 64  # lists and tables inside each other; what graft writes has seven


def loads(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError for NaN, infinity, 1e999, too deep nesting, and what is no JSON."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_parse_float)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    _check_depth(value)
    return value


def dumps(value: Any, *, indent: int | None = None, ensure_ascii: bool = True) -> str:
    """Serialise to JSON; numbers that are not finite become null, as strict readers refuse NaN."""
    try:
        return json.dumps(value, indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:
        return json.dumps(_replace_non_finite(value), indent=indent, ensure_ascii=ensure_ascii, allow_nan=False)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _parse_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _check_depth(value: Any) -> None:
    """Raise ValueError beyond MAX_DEPTH; level by level, as recursion is limited by Python's stack."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in inner for each in values]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} deep")


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_non_finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
