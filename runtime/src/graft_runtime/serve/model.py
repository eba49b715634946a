"""The served model, reloaded without losing a request when its file changes."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graft_runtime.contract import HEAT, ModelFileError
from graft_runtime.predictor import Predictor, load

POLL_SECONDS = 1.0  # between two checks of the file
FileStamp = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A loaded model: `name` is that of its file, without the suffix."""

    name: str
    predictor: Predictor
    outputs: frozenset[str]

    @property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return self.predictor.identity

    @property
    def version(self) -> str:
        """The version in the Open Inference Protocol: a new file is a new version."""
        return self.sha256[:12]

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata for clients, ready for JSON."""
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
    """A model file; `served` is the current model: a request keeps the one that it began with."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self.path, self.threads = path, threads
        self._stamp = _file_stamp(path)
        self.served = load_served(path, threads)

    async def watch(self, on_reload: Callable[[str, str], None], every: float = POLL_SECONDS) -> None:
        """Reload the file when it has changed; `on_reload` gets (digest, '') or ('', error).

        A file that cannot be used changes nothing, and is not tried again before it changes.
        """
        while True:
            await asyncio.sleep(every)
            stamp = _file_stamp(self.path)
            if stamp is None or stamp == self._stamp:
                continue
            await asyncio.sleep(every / 4)
            if stamp != _file_stamp(self.path):  # still being written
                continue
            self._stamp = stamp
            try:
                self.served = await asyncio.to_thread(load_served, self.path, self.threads)
            except ModelFileError as error:
                on_reload("", str(error))
            else:
                on_reload(self.served.sha256, "")


def load_served(path: Path, threads: int | None = None) -> ServedModel:
    """Load a file that `graft export` wrote and warm it up. Raises ModelFileError."""
    predictor = load(path, threads=threads)
    try:
        predictor.check_outputs()
    except ModelFileError as error:
        raise ModelFileError(f"{path} is no classifier that can be used: {error}.") from error
    outputs = frozenset(output.name for output in predictor.session.get_outputs())
    name = path.stem.encode(errors="replace").decode()  # not every name of a file is text
    return ServedModel(name, predictor, outputs)


def _file_stamp(path: Path) -> FileStamp | None:
    try:
        found = path.stat()
    except OSError:  # for a moment, while it is replaced
        return None
    if stat.S_ISFIFO(found.st_mode):  # it would be read for ever
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
