"""What the child of a fork does with sessions of ONNX Runtime: it leaves its parent's as they are, and opens its own.

Their threads are the parent's. In the child a session cannot be taken down either, as that waits for them.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet


@runtime_checkable
class Opens(Protocol):
    """What keeps sessions."""

    def forked(self) -> None:
        """In the child: forget them, by `left`."""
        ...


_EVERY: WeakSet[Opens] = WeakSet()


def tell(thing: Opens) -> None:
    """Let it know of each fork, for as long as it lives."""
    _EVERY.add(thing)


def left(session: Any) -> None:
    """Never taken down, as if something still used it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))


def _forked() -> None:
    for each in list(_EVERY):
        each.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
