"""Checkpoints of a training run, in a folder, for an exact resume after a crash.

run.json                 what this run is: another one is not taken up by mistake
checkpoint-00000120.pt   all that training carries from step to step, after 120 of them; the two newest are kept
history.csv              one row an epoch
mlflow.txt               which run on the MLflow server this is
events.out.tfevents.*    TensorBoard's curves; these stay when the rest has gone
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from graft import atomic
from graft.errors import ModelError, OutputError, TrainingError, UsageError
from graft.model import history
from graft.model.history import Epoch
from graft.model.storage import IGNORED_FILES

RUN, HISTORY, MLFLOW = "run.json", history.FILE, "mlflow.txt"
CHECKPOINT = re.compile(r"checkpoint-(\d{8,})\.pt")
TENSORBOARD_PREFIX = "events.out.tfevents."  # TensorBoard's choice of name
CHECKPOINT_COUNT = 2  # the newest, and one more for the day when the newest turns out to be damaged
CHECKSUM_BYTES = hashlib.sha256().digest_size  # bytes at the end of a checkpoint: the checksum of all bytes before
PLAIN_TYPES = (str, int, float, bool, type(None))


class TrainingRun:
    """The folder of one training, held by one process. A context manager: leaving it lets the folder go.

    `problems` collects faults of the folder that did not stop the training.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.folder, self._lock = folder, lock
        self.problems: list[str] = []
        self._resume_step: int | None = None  # the step that a resumed run would start from

    @classmethod
    def begin(
        cls, folder: Path, settings: Mapping[str, Any], *, resume: bool = False, force: bool = False
    ) -> TrainingRun:
        """Take the folder for a new run, or with `resume` for the one that was interrupted there.

        `settings` say what the run is; to be resumed they must be the same. A new run begins where an interrupted one
        is only with `force`, and in a folder that holds anything else never.
        """
        if resume and not (folder / RUN).exists():
            raise UsageError(f"There is nothing to resume: {folder} holds no interrupted run. Start without --resume.")
        run = cls(folder, _lock_folder(folder))
        try:
            run._clean_folder()
            given = json.loads(json.dumps(dict(settings)))
            if resume:
                _check_same_settings(folder / RUN, given)
            else:
                run._clear(force)
                run._write_settings(given)
        except BaseException:
            run.close()
            raise
        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def save(self, step: int, state: Mapping[str, Any]) -> bool:
        """Keep tensors, numbers, texts, lists and dicts of them as the checkpoint after `step`.

        False when the disk did not take it: `problems` says why, and the checkpoints before are still there. Raises
        OutputError when it is the first one.
        """
        content = {"step": step, "state": _to_plain(state, "state")}
        try:
            with atomic.atomic_file(self.folder / f"checkpoint-{step:08d}.pt") as file:
                torch.save(content, file)  # pyright: ignore[reportArgumentType]  # it only writes
                file.write(file.digest())
        except OSError as error:
            self._report_failed_save(step, atomic.describe_error(error))
            return False
        self._resume_step = step
        # What stands above this step is damaged, or this run would not have come back to here.
        others = [path for at, path in self._list_checkpoints().items() if at != step]
        below = [path for at, path in self._list_checkpoints().items() if at < step]
        self._remove([path for path in others if path not in below[: CHECKPOINT_COUNT - 1]])
        return True

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state) of the newest checkpoint that is whole, with all tensors on the CPU; None when none was made.

        Raises TrainingError when there are some and all are damaged.
        """
        damaged = []
        for step, path in self._list_checkpoints().items():
            try:
                state = _read_checkpoint(path, step)
            except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
                damaged.append(f"{path} is damaged ({error})")
            else:
                self.problems += [f"{fault}: went on from step {step}." for fault in damaged]
                self._resume_step = step
                return step, state
        if damaged:
            raise TrainingError(
                f"No checkpoint in {self.folder} can be used: {'; '.join(damaged)}. Start again with --force."
            )
        return None

    def append_epoch(self, epoch: Epoch) -> bool:
        """Add a row to the history; False, and one more of the `problems`, when that failed."""
        try:
            history.append(self.folder / HISTORY, epoch)
        except (OSError, TrainingError) as error:
            why = atomic.describe_error(error) if isinstance(error, OSError) else str(error)
            self.problems.append(f"Epoch {epoch.number} is not in {self.folder / HISTORY}: {why}")
            return False
        return True

    def finish(self) -> None:
        """Remove what only served to go on, and the folder when nothing is left in it."""
        self._remove(
            [*self._list_checkpoints().values(), self.folder / HISTORY, self.folder / MLFLOW, self.folder / RUN]
        )
        if all(path.name in IGNORED_FILES for path in self._list_files()):
            shutil.rmtree(self.folder, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Let other processes use the folder."""
        if self._lock.is_locked:
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def _list_checkpoints(self) -> dict[int, Path]:
        """The checkpoints by their step, the newest first."""
        found = {int(name[1]): path for path in self._list_files() if (name := CHECKPOINT.fullmatch(path.name))}
        return dict(sorted(found.items(), reverse=True))

    def _list_files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []

    def _clean_folder(self) -> None:
        """Refuse a folder with anything in it that is not of a run; clear up after a writer that was killed."""
        begun = (self.folder / RUN).is_file()  # without it, a checkpoint or a history is somebody else's
        entries = self._list_files() or ([self.folder] if self.folder.is_file() else [])
        left = [path for path in entries if (name := atomic.LEFTOVER.fullmatch(path.name)) and _is_own_file(name[1])]
        for path in set(entries) - set(left):
            known = _is_own_file(path.name) if begun else path.name.startswith(TENSORBOARD_PREFIX)
            if not path.is_file() or not (known or path.name in IGNORED_FILES) or path == self.folder:
                raise OutputError(f"{path} was not written by graft. Move it away, or choose another --output.")
        self._remove(left)

    def _clear(self, force: bool) -> None:
        """Make room for a new run; run.json is replaced after that: no checkpoint ever stands beside a wrong one."""
        checkpoints = list(self._list_checkpoints().values())
        if checkpoints and not force:
            raise OutputError(
                f"An interrupted run is in {self.folder}: go on with --resume, or start again with --force."
            )
        for path in [*checkpoints, self.folder / HISTORY, self.folder / MLFLOW]:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise OutputError(f"{path} cannot be removed: {atomic.describe_error(error)}.") from error

    def _write_settings(self, settings: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic.atomic_file(self.folder / RUN) as file:
                file.write((json.dumps(settings, indent=2) + "\n").encode())
        except OSError as error:
            raise _unwritable_error(self.folder, error) from error

    def _report_failed_save(self, step: int, why: str) -> None:
        if self._resume_step is None:
            raise OutputError(
                f"No checkpoint could be written to {self.folder}: {why}. Free some space, or choose an --output on "
                f"another disk."
            )
        self.problems.append(
            f"No checkpoint at step {step}: {why} ({self.folder}). Should training stop now, --resume would go on "
            f"from step {self._resume_step}."
        )

    def _remove(self, paths: list[Path]) -> None:
        for path in paths:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:  # what is too much does no harm
                self.problems.append(f"{path} could not be removed: {atomic.describe_error(error)}.")


def _lock_folder(folder: Path) -> FileLock:
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise OutputError(
            f"Another process is training in {folder}. Wait for it, or choose another --output."
        ) from error
    except OSError as error:
        raise _unwritable_error(folder, error) from error
    return lock


def _is_own_file(name: str) -> bool:
    return name in (RUN, HISTORY, MLFLOW) or bool(CHECKPOINT.fullmatch(name)) or name.startswith(TENSORBOARD_PREFIX)


def _unwritable_error(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} cannot be written to: {atomic.describe_error(error)}. Choose another folder with --output."
    )


def _check_same_settings(path: Path, given: dict[str, Any]) -> None:
    """Refuse to go on with a run that was begun otherwise."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        stored: dict[str, Any] = {history.RENAMED.get(str(name), str(name)): value for name, value in read.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Start again with --force.") from error
    lines = [
        f"  {name}: was {_format_setting(stored, name)}, now {_format_setting(given, name)}"
        for name in dict.fromkeys([*stored, *given])
        if _format_setting(stored, name) != _format_setting(given, name)
    ]
    if lines:
        raise UsageError(
            "\n".join([f"The run in {path.parent} cannot be resumed, it is another one:", *lines])
            + "\nGive the same as then, or start again with --force and without --resume."
        )


def _format_setting(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "not set"


def _to_plain(value: Any, where: str) -> Any:
    """What can be loaded again without running code, with each tensor cut out of the larger one it may be a view of.

    A TypeError here is a fault of ours; found when loading, it would be found too late.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
        alone = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if alone else tensor.clone()
    if isinstance(value, Mapping):
        return {_to_plain(key, where): _to_plain(each, f"{where}[{key!r}]") for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_to_plain(each, f"{where}[{at}]") for at, each in enumerate(value))
    if type(value) in PLAIN_TYPES:  # not isinstance: numpy's float64 is a float
        return value
    raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint cannot hold")


def _read_checkpoint(path: Path, step: int) -> dict[str, Any]:
    with path.open("rb") as file:
        left = path.stat().st_size - CHECKSUM_BYTES
        total = hashlib.sha256()
        while left > 0 and (piece := file.read(min(left, 1 << 20))):
            total.update(piece)
            left -= len(piece)
        if total.digest() != file.read():
            raise ValueError("its checksum is wrong")
    content = torch.load(path, map_location="cpu", weights_only=True)  # the bytes after the archive do not disturb it
    if content["step"] != step:
        raise ValueError(f"it holds step {content['step']}")
    return content["state"]
