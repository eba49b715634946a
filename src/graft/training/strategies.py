"""The ways of transferring: each names a cut, a head and how to train what lies above the cut."""

from __future__ import annotations

from dataclasses import dataclass

from graft.errors import UsageError
from graft.training.heads.choose import check


@dataclass(frozen=True)
class Probe:
    """The whole backbone stays frozen; a head is solved on its features.

    `head` and `layers` are chosen by out-of-fold evidence unless named; `views` adds a mirrored view and random crops
    of each training picture.
    """

    head: str = "auto"
    layers: str = "auto"
    views: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.views <= 64:
            raise UsageError(f"'views' must be from 1 to 64. Got {self.views}.")
        check(self.head, self.layers)  # now, and not after minutes of embedding


STRATEGIES = {"probe": Probe}
