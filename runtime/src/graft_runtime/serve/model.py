"""The file that is served, and the newer one that takes its place without a request being lost."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft_runtime.contract import HEAT, ModelError
from graft_runtime.predictor import Predictor, load

EVERY = 1.0  # seconds between two looks at the file
Stamp = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Served:
    """A model at work: `name` is that of its file, without the suffix."""

    name: str
    predictor: Predictor
    outputs: frozenset[str]

    @property
    def sha256(self) -> str:
        """That of the file, as any program tells it."""
        return self.predictor.identity

    @property
    def version(self) -> str:
        """What the Open Inference Protocol knows it by: a new file is a new version."""
        return self.sha256[:12]

    @property
    def about(self) -> dict[str, Any]:
        """What a client may want to know of it, ready for JSON."""
        card, export = self.predictor.card, self.predictor.export
        return {
            "name": self.name,
            "sha256": self.sha256,
            "classes": list(card.classes),
            "task": card.task,
            "thresholds": list(card.thresholds),
            "precision": export.precision,
            "unknown": bool(export.strays),
            "sets": bool(card.sets),
            "heat": HEAT in self.outputs,
            "licences": card.licences,
        }


class Model:
    """`served` is the model of the moment: a request keeps the one that it began with."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads
        self._stamp = _stamp(path)
        self.served = opened(path, threads)

    async def watch(self, told: Callable[[str, str], None], every: float = EVERY) -> None:
        """Take whatever new file lies there once it is whole; `told` hears of it: (digest, '') or ('', what is wrong).

        A file that cannot be used changes nothing, and is not tried again before it changes.
        """
        while True:
            await asyncio.sleep(every)
            stamp = _stamp(self.path)
            if stamp is None or stamp == self._stamp:
                continue
            await asyncio.sleep(every / 4)
            if stamp != _stamp(self.path):  # still being written
                continue
            self._stamp = stamp
            try:
                self.served = await asyncio.to_thread(opened, self.path, self.threads)
            except ModelError as error:
                told("", str(error))
            else:
                told(self.served.sha256, "")


def opened(path: Path, threads: int | None = None) -> Served:
    """The model in a file that `graft export` wrote, warmed up. Raises ModelError."""
    predictor = load(path, threads=threads)
    try:
        predictor.probe()
    except ModelError as error:
        raise ModelError(f"{path} is no classifier that can be used: {error}.") from error
    outputs = frozenset(output.name for output in predictor.session.get_outputs())
    name = path.stem.encode(errors="replace").decode()  # not every name of a file is text
    return Served(name, predictor, outputs)


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:  # for a moment, while it is replaced
        return None
    if stat.S_ISFIFO(found.st_mode):  # it would be read for ever
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
