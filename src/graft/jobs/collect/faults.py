"""Why a picture did not come: for good, or for now. The reason is short, and the same for the same kind of fault."""

from __future__ import annotations


class Refused(Exception):
    """For good: asking again would bring the same."""

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = f"{reason}: {detail}" if detail else reason
        super().__init__(self.reason)


class Failed(Refused):
    """For now: it may come another time, after `wait` seconds if the server said so; not in this run where `final`."""

    def __init__(self, reason: str, detail: str = "", *, wait: float | None = None, final: bool = False) -> None:
        super().__init__(reason, detail)
        self.wait, self.final = wait, final
