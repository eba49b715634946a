"""Run folder of a training, and experiment tracking with TensorBoard and MLflow."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graft import spec
from graft.errors import OutputError, UsageError
from graft.model import history
from graft.model.history import Epoch

MLFLOW = "mlflow.txt"  # graft.torch.checkpoint.MLFLOW, which costs an import of torch; a test compares
BATCH = 1000  # the most metrics that MLflow takes in one request
EpochCallback = Callable[[Epoch], None]


def ignore_epoch(_epoch: Epoch) -> None:
    """Do nothing."""


@dataclass
class RunTracker:
    """Run folder, logs and callback of a training in progress.

    `run` is a graft.torch.checkpoint.TrainingRun, not annotated as that imports PyTorch; None where nothing is saved or
    nothing is trained.
    """

    run: Any
    on_epoch: EpochCallback
    logs: Sequence[Log] = ()
    scores: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False

    def log_epoch(self, epoch: Epoch) -> None:
        """Pass an epoch to the logs and the callback."""
        for log in self.logs:
            log.log(epoch)
        self.on_epoch(epoch)

    def finish(self, scores: Mapping[str, float]) -> None:
        """Training succeeded: delete its checkpoints."""
        self.scores, self.finished = scores, True
        if self.run:
            self.run.finish()

    @property
    def troubles(self) -> list[str]:
        """Problems that did not stop the training, such as a log that could not be written."""
        return [*(self.run.problems if self.run else []), *(each for log in self.logs for each in log.troubles)]


@contextmanager
def open_run(
    output: Path | None, settings: Mapping[str, Any], log: str, on_epoch: EpochCallback, *, resume: bool, force: bool
) -> Iterator[RunTracker]:
    """Open the run folder beside the output and the logs; close both in any case."""
    if output is None:
        yield RunTracker(None, on_epoch)
        return
    from graft.torch.checkpoint import TrainingRun  # only what trains has a run

    with TrainingRun.begin(output.with_name(f"{output.name}.run"), settings, resume=resume, force=force) as run:
        tracker = RunTracker(run, on_epoch, open_logs(log, run.folder, settings, done=_count_logged_epochs(run.folder)))
        try:
            yield tracker
        finally:
            for each in tracker.logs:
                each.close(tracker.scores if tracker.finished else None)


def _count_logged_epochs(folder: Path) -> int:
    """Count the epochs that were logged before."""
    path = folder / history.FILE
    return len(history.read(path)) if path.exists() else 0


# --- TensorBoard and MLflow -------------------------------------------------------------------------------------------


class Log(ABC):
    """Experiment log: `log` takes each epoch, `close` the scores of the finished model, or None without a model."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    @abstractmethod
    def log(self, epoch: Epoch) -> None: ...

    @abstractmethod
    def close(self, scores: Mapping[str, float] | None = None) -> None: ...


def check(names: str) -> list[str]:
    """Parse names such as 'tensorboard,mlflow'. UsageError for an unknown one, or one without its package."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        if name not in LOGS:
            raise UsageError(
                f"There is no log {name!r}.{spec.format_suggestions(name, LOGS)} Choose from: {', '.join(LOGS)}."
            )
        if not find_spec(name):
            raise UsageError(f"--log {name} needs its package: pip install 'graft-vision[{name}]'")
    return list(dict.fromkeys(chosen))


def open_logs(names: str, folder: Path, settings: Mapping[str, Any], *, done: int = 0) -> list[Log]:
    """Open the named logs for the run in `folder`; `done` epochs were logged before it was resumed."""
    return [LOGS[name](folder, settings, done) for name in check(names)]


def build_curves(epoch: Epoch) -> dict[str, float]:
    """Return the values of an epoch by the name of their curve."""
    curves = {"loss/train": epoch.loss, "rate": epoch.rate}
    return curves | {f"valid/{name}": value for name, value in sorted(epoch.metrics.items())}


class TensorBoard(Log):
    """Event files in the run folder: `tensorboard --logdir model.run`."""

    def __init__(self, folder: Path, _settings: Mapping[str, Any], done: int) -> None:
        super().__init__()
        self._folder, self._last = folder, done
        self._writer: Any = None
        self._failed = False

    def log(self, epoch: Epoch) -> None:
        self._last = epoch.number
        self._write(build_curves(epoch), epoch.number)

    def close(self, scores: Mapping[str, float] | None = None) -> None:
        self._write({f"test/{name}": value for name, value in (scores or {}).items()}, self._last + 1)
        if self._writer and not self._failed:
            with suppress(OSError):  # everything was flushed before
                self._writer.close()

    def _write(self, curves: Mapping[str, float], first: int) -> None:
        """Add to the curves; TensorBoard drops earlier values of step `first` and later, from any run."""
        if self._failed or not curves:
            return
        from torch.utils.tensorboard import SummaryWriter

        try:
            self._writer = self._writer or SummaryWriter(str(self._folder), purge_step=first)
            for name, value in curves.items():
                self._writer.add_scalar(name, value, self._last)
            self._writer.flush()
        except OSError as error:
            self._failed = True
            self.troubles.append(f"TensorBoard's events are not whole from epoch {self._last} on: {error}.")


class MLflow(Log):
    """Run on the server MLFLOW_TRACKING_URI, in the experiment of MLFLOW_EXPERIMENT_NAME or _ID.

    After a failure all metrics are kept until `close`: MLflow retries a request for minutes before it gives up.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], done: int) -> None:
        super().__init__()
        self._last, self._pending, self._failed = done, list[Any](), False
        with _translate_errors():
            from mlflow.tracking import MlflowClient

            self._client = MlflowClient()
            self._run = self._resume_run(folder / MLFLOW) or self._create_run(folder, settings)
            known = self._client.get_metric_history(self._run, "loss/train")
        # A resumed run does again the epochs since its last checkpoint: those logged before are skipped.
        self._last_known_epoch = max((metric.step for metric in known), default=0)

    def log(self, epoch: Epoch) -> None:
        self._last = epoch.number
        if epoch.number > self._last_known_epoch:
            self._add(build_curves(epoch))
            if not self._failed:
                self._send()

    def close(self, scores: Mapping[str, float] | None = None) -> None:
        self._add({f"test/{name}": value for name, value in (scores or {}).items()})
        self._send("KILLED" if scores is None else "FINISHED")

    def _resume_run(self, kept: Path) -> str | None:
        """Reopen the run on the server that the interrupted training began; None without one."""
        if not kept.exists():
            return None
        run = kept.read_text(encoding="utf-8").strip()
        self._client.update_run(run, status="RUNNING")
        return run

    def _create_run(self, folder: Path, settings: Mapping[str, Any]) -> str:
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
            with _translate_errors():
                while self._pending:
                    self._client.log_batch(self._run, metrics=self._pending[:BATCH])
                    del self._pending[:BATCH]
                if status:
                    self._client.set_terminated(self._run, status)
        except OutputError as error:
            self._failed = True
            self.troubles.append(f"At epoch {self._last}: {error}")


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise errors of MLflow's client, its server or the connection as OutputError."""
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
