"""Print to a terminal with control characters escaped: names of files and classes are untrusted."""

from __future__ import annotations

import re
from typing import Any

# Control characters of ASCII and Latin-1, among them ESC and the CSI of one byte; those that turn the order of letters
# round, so that a name reads as another; separators of lines and paragraphs. Joiners stay: emoji and Persian need them.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
CONTROLS, CONTROLS_AND_BREAKS = re.compile(f"[{_CONTROLS}]"), re.compile(f"[{_CONTROLS}\t\n]")


def say(*texts: object, end: str = "\n", file: Any = None, flush: bool = False) -> None:
    """`print`, with control characters shown as \\u001b, which is also how JSON writes it."""
    print(*(CONTROLS.sub(_escape, str(text)) for text in texts), end=end, file=file, flush=flush)


def escape_breaks(value: Any) -> Any:
    """Escape control characters and line breaks in every text inside a value, so that no name spans lines."""
    if isinstance(value, str):
        return CONTROLS_AND_BREAKS.sub(_escape, value)
    if isinstance(value, dict):
        return {escape_breaks(key): escape_breaks(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(escape_breaks, value))
    return list(map(escape_breaks, value)) if isinstance(value, list) else value


def _escape(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
