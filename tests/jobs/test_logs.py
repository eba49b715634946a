"""What TensorBoard and MLflow show = what the training said, also when it was interrupted, and they never stop it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from graft.errors import OutputError, UsageError
from graft.jobs import runs
from graft.model.history import Epoch
from graft.torch.checkpoint import TrainingRun

SETTINGS = {"strategy": "full", "seed": 0, "recipe": "epochs=3", "layers": None}
SCORES = {"accuracy": 0.875, "log-loss": 0.25}  # exact in float32, as TensorBoard keeps it


def epoch(number: int, loss: float = 0.5) -> Epoch:
    metrics = {"loss": 0.25 * number, "balanced-accuracy": number / 8}
    return Epoch("all", number, 3, 10 * number, 0.125 / number, loss / number, 1.0, 96, metrics)


def expected(*numbers: int, loss: float = 0.5) -> dict[str, list[tuple[int, float]]]:
    """The curves after these epochs."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for number in numbers:
        shown = {"loss/train": loss / number, "rate": 0.125 / number}
        shown |= {"valid/loss": 0.25 * number, "valid/balanced-accuracy": number / 8}
        for name, value in shown.items():
            curves.setdefault(name, []).append((number, value))
    return curves


def scored(step: int) -> dict[str, list[tuple[int, float]]]:
    return {f"test/{name}": [(step, value)] for name, value in SCORES.items()}


def assert_curves(found: dict[str, list[tuple[int, float]]], wanted: dict[str, list[tuple[int, float]]]) -> None:
    assert found.keys() == wanted.keys()
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6), name


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(each.step, each.value) for each in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "model.run"
    folder.mkdir()
    return folder


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store of MLflow's in a folder; the server and the databases need more than its small client."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    return os.environ["MLFLOW_TRACKING_URI"]


def stored(experiment: str = "0") -> list[Any]:
    from mlflow.tracking import MlflowClient

    return list(MlflowClient().search_runs([experiment]))


def curves(run: Any) -> dict[str, list[tuple[int, float]]]:
    from mlflow.tracking import MlflowClient

    histories = {name: MlflowClient().get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    return {name: [(each.step, each.value) for each in history] for name, history in histories.items()}


# --- the names --------------------------------------------------------------------------------------------------------


def test_another_name_is_told_the_legal_ones(place: Path) -> None:
    with pytest.raises(UsageError, match=r"no log 'wandb'\. Choose from: tensorboard, mlflow"):
        runs.open_logs("tensorboard,wandb", place, SETTINGS)
    assert not list(place.iterdir())


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"pip install 'graft-vision\[{name}\]'"):
        runs.check(name)


def test_no_name_is_no_log(place: Path) -> None:
    assert runs.open_logs("", place, SETTINGS) == []
    assert runs.check(" mlflow, tensorboard,mlflow") == ["mlflow", "tensorboard"]


# --- TensorBoard ------------------------------------------------------------------------------------------------------


def test_tensorboard_shows_what_the_training_said(place: Path) -> None:
    (log,) = runs.open_logs("tensorboard", place, SETTINGS)
    for number in (1, 2, 3):
        log.log(epoch(number))
    assert_curves(shown(place), expected(1, 2, 3))  # before it is closed: this is for watching
    log.close(SCORES)
    assert_curves(shown(place), expected(1, 2, 3) | scored(3))
    assert not log.troubles


def test_tensorboard_shows_a_resumed_run_as_one_that_was_never_interrupted(place: Path) -> None:
    (log,) = runs.open_logs("tensorboard", place, SETTINGS)
    for number in (1, 2, 3):
        log.log(epoch(number, loss=9.0 if number == 3 else 0.5))
    log.close()
    (log,) = runs.open_logs("tensorboard", place, SETTINGS, done=3)  # it is the epoch that says where it goes on
    log.log(epoch(3))
    log.close()
    (log,) = runs.open_logs("tensorboard", place, SETTINGS, done=3)  # and only the scores were missing
    log.close(SCORES)
    assert_curves(shown(place), expected(1, 2, 3) | scored(3))


def test_tensorboard_shows_a_new_run_in_place_of_an_older_one(place: Path) -> None:
    for loss, scores in ((9.0, None), (0.5, SCORES)):
        (log,) = runs.open_logs("tensorboard", place, SETTINGS)
        for number in (1, 2):
            log.log(epoch(number, loss=loss))
        log.close(scores)
    assert_curves(shown(place), expected(1, 2) | scored(2))


def test_a_run_interrupted_before_its_first_epoch_takes_nothing_away(place: Path) -> None:
    (log,) = runs.open_logs("tensorboard", place, SETTINGS)
    log.log(epoch(1))
    log.close(SCORES)
    runs.open_logs("tensorboard", place, SETTINGS)[0].close()
    assert_curves(shown(place), expected(1) | scored(1))


def test_tensorboards_files_are_no_strangers_in_the_run_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model.run"
    with TrainingRun.begin(folder, SETTINGS) as run:
        (log,) = runs.open_logs("tensorboard", folder, SETTINGS)
        log.log(epoch(1))
        log.close()
    with TrainingRun.begin(folder, SETTINGS, resume=True) as run:
        run.finish()
    assert_curves(shown(folder), expected(1))


def test_a_full_disk_ends_the_curves_and_not_the_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    (log,) = runs.open_logs("tensorboard", place, SETTINGS)
    assert isinstance(log, runs.TensorBoard)
    log.log(epoch(1))
    with monkeypatch.context() as patch:
        patch.setattr(log._writer, "add_scalar", full)
        log.log(epoch(2))
        log.log(epoch(3))
        log.close(SCORES)
    assert len(log.troubles) == 1
    assert "from epoch 2 on" in log.troubles[0]
    assert_curves(shown(place), expected(1))
    log._writer.close()


# --- MLflow -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_mlflow_shows_what_the_training_said(place: Path) -> None:
    (log,) = runs.open_logs("mlflow", place, SETTINGS)
    for number in (1, 2, 3):
        log.log(epoch(number))
    (run,) = stored()
    assert run.info.status == "RUNNING"
    log.close(SCORES)
    (run,) = stored()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "model"
    assert run.data.params == {"strategy": "full", "seed": "0", "recipe": "epochs=3", "layers": "None"}
    assert_curves(curves(run), expected(1, 2, 3) | scored(3))
    assert not log.troubles


@pytest.mark.usefixtures("server")
def test_mlflow_shows_a_resumed_run_as_one_that_was_never_interrupted(tmp_path: Path) -> None:
    folder = tmp_path / "model.run"
    with TrainingRun.begin(folder, SETTINGS):
        (log,) = runs.open_logs("mlflow", folder, SETTINGS)
        log.log(epoch(1))
        log.log(epoch(2))
        log.close()
    (run,) = stored()
    assert run.info.status == "KILLED"
    with TrainingRun.begin(folder, SETTINGS, resume=True) as ours:
        (log,) = runs.open_logs("mlflow", folder, SETTINGS, done=1)
        assert stored()[0].info.status == "RUNNING"
        log.log(epoch(2))
        log.log(epoch(3))
        log.close(SCORES)
        ours.finish()
    assert not folder.exists()
    (run,) = stored()
    assert_curves(curves(run), expected(1, 2, 3) | scored(3))


@pytest.mark.usefixtures("server")
def test_mlflows_experiment_is_chosen_as_everywhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flowers")
    for _ in range(2):
        (place / "mlflow.txt").unlink(missing_ok=True)
        (log,) = runs.open_logs("mlflow", place, SETTINGS)
        log.close(SCORES)
    from mlflow.tracking import MlflowClient

    found = MlflowClient().get_experiment_by_name("flowers")
    assert found
    assert len(stored(found.experiment_id)) == 2
    assert not stored()
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", found.experiment_id)
    (place / "mlflow.txt").unlink()
    runs.open_logs("mlflow", place, SETTINGS)[0].close(SCORES)
    assert len(stored(found.experiment_id)) == 3


@pytest.mark.usefixtures("server")
def test_a_server_that_goes_away_gets_everything_when_it_is_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    calls = []

    def away(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise MlflowException("no answer")

    (log,) = runs.open_logs("mlflow", place, SETTINGS)
    assert isinstance(log, runs.MLflow)
    with monkeypatch.context() as patch:
        patch.setattr(log._client, "log_batch", away)
        for number in (1, 2, 3):
            log.log(epoch(number))
    assert len(calls) == 1  # each would take minutes
    assert len(log.troubles) == 1
    assert "At epoch 1: MLflow at file:" in log.troubles[0]
    monkeypatch.setattr(runs, "BATCH", 5)
    log.close(SCORES)
    (run,) = stored()
    assert_curves(curves(run), expected(1, 2, 3) | scored(3))


@pytest.mark.parametrize("place_of_it", ["http://127.0.0.1:9", "sqlite:///mlflow.db"])
@pytest.mark.usefixtures("server")
def test_a_server_that_is_not_there_is_an_error_before_the_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, place_of_it: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place_of_it)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(OutputError, match=f"MLflow at {place_of_it} says: .*Set MLFLOW_TRACKING_URI"):
        runs.open_logs("mlflow", place, SETTINGS)
