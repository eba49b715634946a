"""Pictures that need not be there: known by their content, by which all that was worked out of them is in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.images import Content, Images, Raw


@dataclass(frozen=True, eq=False)
class Recalled:
    """A column of names and digests [n, 16]; `at` [n] says where a picture lies in `photos`, -1 where it does not.

    `read` gives the digest (see `Content`) of a picture that is not at hand.
    """

    names: NDArray[Any]  # of numpy's StringDType
    digests: NDArray[np.uint8]
    at: NDArray[np.intp]
    photos: Images | None = None
    root: str = ""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: NDArray[np.integer]) -> Recalled:
        return replace(self, names=self.names[rows], digests=self.digests[rows], at=self.at[rows])

    def name(self, row: int) -> str:
        return str(self.names[row])

    def read(self, row: int) -> Raw:
        if self.photos is None or self.at[row] < 0:
            return Content(self.digests[row].tobytes())
        return self.photos.read(int(self.at[row]))


@dataclass(frozen=True, eq=False)
class Several:
    """Several columns as one; `which` [n] names the column of each picture, `rows` [n] its row there."""

    columns: tuple[Images, ...]
    which: NDArray[np.intp]
    rows: NDArray[np.intp]

    @classmethod
    def of(cls, columns: Sequence[Images]) -> Several:
        """One after the other."""
        lengths = [len(column) for column in columns]
        rows = np.concatenate([np.arange(length) for length in lengths])
        return cls(tuple(columns), np.repeat(np.arange(len(columns)), lengths), rows)

    @property
    def root(self) -> str:
        """The place of the first."""
        return self.columns[0].root

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: NDArray[np.integer]) -> Several:
        return replace(self, which=self.which[rows], rows=self.rows[rows])

    def name(self, row: int) -> str:
        return self.columns[self.which[row]].name(int(self.rows[row]))

    def read(self, row: int) -> Raw:
        return self.columns[self.which[row]].read(int(self.rows[row]))
