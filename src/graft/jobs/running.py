"""A training under way: its run folder, and everybody who wants to hear of each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graft.jobs.logs import Log, open_log
from graft.model import history
from graft.model.history import Epoch

Told = Callable[[Epoch], None]


def unheard(_epoch: Epoch) -> None:
    """Nobody listens."""


@dataclass
class Running:
    """What is open while a training lasts.

    `run` is a graft.torch.checkpoint.Run, a name that would import PyTorch; None where nothing is saved, or trained.
    """

    run: Any
    told: Told
    logs: Sequence[Log] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False

    def hear(self, epoch: Epoch) -> None:
        """Pass an epoch on."""
        for log in self.logs:
            log.log(epoch)
        self.told(epoch)

    def finish(self, scores: Mapping[str, float]) -> None:
        """The classifier stands: what only served to go on may go."""
        self.scores, self.finished = scores, True
        if self.run:
            self.run.finish()

    @property
    def troubles(self) -> list[str]:
        """What went wrong beside the training."""
        return [*(self.run.troubles if self.run else []), *(each for log in self.logs for each in log.troubles)]


@contextmanager
def running(
    output: Path | None, settings: Mapping[str, Any], log: str, told: Told, *, resume: bool, force: bool
) -> Iterator[Running]:
    """Take the run folder beside the output, open the logs, and close both whatever happens."""
    if output is None:
        yield Running(None, told)
        return
    from graft.torch.checkpoint import Run  # only what trains has a run

    with Run.begin(output.with_name(f"{output.name}.run"), settings, resume=resume, force=force) as run:
        now = Running(run, told, open_log(log, run.folder, settings, done=_done(run.folder)))
        try:
            yield now
        finally:
            for each in now.logs:
                each.close(now.scores if now.finished else None)


def _done(folder: Path) -> int:
    """Epochs that were logged before."""
    path = folder / history.FILE
    return len(history.read(path)) if path.exists() else 0
