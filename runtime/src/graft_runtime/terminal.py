"""Where text goes out to a terminal, which obeys what it reads: names of files and classes may be anybody's."""

from __future__ import annotations

import re
from typing import Any

# Control characters of ASCII and Latin-1, among them ESC and the CSI of one byte; those that turn the order of letters
# round, so that a name reads as another; separators of lines and paragraphs. Joiners stay: emoji and Persian need them.
_ORDERS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"
ORDERS, BREAKS = re.compile(f"[{_ORDERS}]"), re.compile(f"[{_ORDERS}\t\n]")


def say(*texts: object, end: str = "\n", file: Any = None, flush: bool = False) -> None:
    """`print`, with all that a terminal would obey shown as \\u001b, which is also how JSON writes it."""
    print(*(ORDERS.sub(_escaped, str(text)) for text in texts), end=end, file=file, flush=flush)


def on_one_line(value: Any) -> Any:
    """The same for every text inside a value, and breaks of lines too, so that no name looks like two lines."""
    if isinstance(value, str):
        return BREAKS.sub(_escaped, value)
    if isinstance(value, dict):
        return {on_one_line(key): on_one_line(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(map(on_one_line, value))
    return list(map(on_one_line, value)) if isinstance(value, list) else value


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
