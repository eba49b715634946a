"""Where a training can be followed while it runs: TensorBoard's curves in the run folder, or a run on an MLflow server.

Neither may stop a training. What goes wrong after the start is one of the log's `troubles`.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graft import spec
from graft.errors import OutputError, UsageError
from graft.model.history import Epoch

MLFLOW = "mlflow.txt"  # graft.torch.checkpoint.MLFLOW, which costs an import of torch; a test compares
BATCH = 1000  # the most metrics that MLflow takes in one request


class Log(ABC):
    """Epochs go in while they come; `close` adds the scores of the finished model, or None when there is no model."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    @abstractmethod
    def log(self, epoch: Epoch) -> None: ...

    @abstractmethod
    def close(self, scores: Mapping[str, float] | None = None) -> None: ...


def check(names: str) -> list[str]:
    """The names in 'tensorboard,mlflow'; UsageError for another one, or one whose package is not installed."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in LOGS:
            raise UsageError(f"There is no log {name!r}.{spec.meant(name, LOGS)} Choose from: {', '.join(LOGS)}.")
        if not find_spec(name):
            raise UsageError(f"--log {name} needs its package: pip install 'graft-vision[{name}]'")
    return list(dict.fromkeys(chosen))


def open_log(names: str, folder: Path, settings: Mapping[str, Any], *, done: int = 0) -> list[Log]:
    """The logs that the text names, for the run in `folder`; `done` epochs were logged before it was resumed."""
    return [LOGS[name](folder, settings, done) for name in check(names)]


def values(epoch: Epoch) -> dict[str, float]:
    """The curves of an epoch, by name."""
    curves = {"loss/train": epoch.loss, "rate": epoch.rate}
    return curves | {f"valid/{name}": value for name, value in sorted(epoch.metrics.items())}


class TensorBoard(Log):
    """Event files in the run folder: `tensorboard --logdir model.run`."""

    def __init__(self, folder: Path, _settings: Mapping[str, Any], done: int) -> None:
        super().__init__()
        self._folder, self._last = folder, done
        self._writer: Any = None
        self._lost = False

    def log(self, epoch: Epoch) -> None:
        self._last = epoch.number
        self._write(values(epoch), epoch.number)

    def close(self, scores: Mapping[str, float] | None = None) -> None:
        self._write({f"test/{name}": value for name, value in (scores or {}).items()}, self._last + 1)
        if self._writer and not self._lost:
            with suppress(OSError):  # all was flushed
                self._writer.close()

    def _write(self, curves: Mapping[str, float], first: int) -> None:
        """Add to the curves; what was said of `first` and later before, by whatever run, TensorBoard forgets."""
        if self._lost or not curves:
            return
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = self._writer or SummaryWriter(str(self._folder), purge_step=first)
            for name, value in curves.items():
                self._writer.add_scalar(name, value, self._last)
            self._writer.flush()
        except OSError as error:
            self._lost = True
            self.troubles.append(f"TensorBoard's events are not whole from epoch {self._last} on: {error}.")


class MLflow(Log):
    """A run on the server that MLFLOW_TRACKING_URI names, in the experiment of MLFLOW_EXPERIMENT_NAME or _ID.

    After a failure it waits with all that comes until `close`: MLflow tries a request for minutes before it gives up.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], done: int) -> None:
        super().__init__()
        self._last, self._pending, self._lost = done, list[Any](), False
        with _answered():
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient()
            self._run = self._go_on(folder / MLFLOW) or self._start(folder, settings)
            known = self._client.get_metric_history(self._run, "loss/train")
        self._known = max((metric.step for metric in known), default=0)  # a resumed run does some epochs twice

    def log(self, epoch: Epoch) -> None:
        self._last = epoch.number
        if epoch.number > self._known:
            self._add(values(epoch))
            if not self._lost:
                self._send()

    def close(self, scores: Mapping[str, float] | None = None) -> None:
        self._add({f"test/{name}": value for name, value in (scores or {}).items()})
        self._send("KILLED" if scores is None else "FINISHED")

    def _go_on(self, kept: Path) -> str | None:
        """The run on the server that an interrupted run of ours began."""
        if not kept.exists():
            return None
        run = kept.read_text(encoding="utf-8").strip()
        self._client.update_run(run, status="RUNNING")
        return run

    def _start(self, folder: Path, settings: Mapping[str, Any]) -> str:
        from mlflow.entities import Param

        run = self._client.create_run(self._experiment(), run_name=folder.stem).info.run_id
        self._client.log_batch(run, params=[Param(name, str(value)) for name, value in settings.items()])
        (folder / MLFLOW).write_text(run + "\n", encoding="utf-8")
        return run

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
        if not name:
            return os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"  # MLflow's own default
        found = self._client.get_experiment_by_name(name)
        return found.experiment_id if found else self._client.create_experiment(name)

    def _add(self, curves: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._pending += [Metric(name, value, now, self._last) for name, value in curves.items()]

    def _send(self, status: str = "") -> None:
        try:
            with _answered():
                while self._pending:
                    self._client.log_batch(self._run, metrics=self._pending[:BATCH])
                    del self._pending[:BATCH]
                if status:
                    self._client.set_terminated(self._run, status)
        except OutputError as error:
            self._lost = True
            self.troubles.append(f"At epoch {self._last}: {error}")


@contextmanager
def _answered() -> Iterator[None]:
    """What an MLflow server, the way to it, or its client may say no with, as an error of ours."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import get_tracking_uri

    try:
        yield
    except (MlflowException, ImportError, OSError) as error:  # ImportError: a store that this client cannot open
        raise OutputError(
            f"MLflow at {get_tracking_uri()} says: {error}. Set MLFLOW_TRACKING_URI to a server that answers, or leave "
            f"out --log mlflow."
        ) from error


LOGS: dict[str, type[TensorBoard] | type[MLflow]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
