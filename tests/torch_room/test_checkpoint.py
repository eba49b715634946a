"""The run folder: whatever happens to the process or the disk, what comes back is a state that was saved, whole."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graft import atomic
from graft.errors import ModelError, OutputError, TrainingError, UsageError
from graft.model import history
from graft.model.history import Epoch
from graft.torch.checkpoint import CHECKSUM_BYTES, TrainingRun

SETTINGS = {"strategy": "full", "seed": 0, "rate": 1e-3, "classes": ["cat", "dog"], "done": 1}

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from graft.torch.checkpoint import TrainingRun

torch.set_num_threads(1)
for attempt in range(int(sys.argv[2])):
    folder, (reader, writer) = Path(sys.argv[1]) / str(attempt), os.pipe()
    child = os.fork()
    if not child:
        run = TrainingRun.begin(folder, {})
        for step in range(1, 100_000):
            run.save(step, {"numbers": torch.full((20_000,), float(step)), "step": step})
            os.write(writer, step.to_bytes(8))
    first = os.read(reader, 8)
    time.sleep(random.Random(attempt).uniform(0, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writer)
    rest = b"".join(iter(lambda: os.read(reader, 65536), b""))
    print(attempt, int.from_bytes((first + rest)[-8:]))
"""


def state(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    return {
        "network": {"weight": torch.randn(3, 5, generator=generator), "seen": torch.tensor(step)},
        "optimizer": {"state": {0: {"exp_avg": torch.randn(4, generator=generator)}}, "groups": [{"lr": 0.1 * step}]},
        "half": torch.randn(2, generator=generator).bfloat16(),
        "history": [{"loss": float("inf"), "best": True, "note": None, "phase": "head"}],
        "shape": (1, 2),
    }


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(folder: Path, *steps: int) -> Path:
    """A run that saved at these steps and was then stopped."""
    with TrainingRun.begin(folder, SETTINGS) as run:
        assert all([run.save(step, state(step)) for step in steps])
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "model.run"


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False).returncode:
        pytest.skip("may not mount a disk here")
    yield disk
    subprocess.run(["umount", disk], check=True)


# --- saved = loaded ---------------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back_number_for_number(place: Path) -> None:
    interrupted(place, 7)
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:
        found = run.load_latest()
        assert found
        assert found[0] == 7
        assert_same(found[1], state(7))
        assert not run.problems


def test_the_two_newest_are_kept_and_the_newest_is_used(place: Path) -> None:
    interrupted(place, 1, 2, 30, 100_000_000)
    assert names(place) == ["checkpoint-00000030.pt", "checkpoint-100000000.pt", "run.json"]
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:
        assert (run.load_latest() or (0,))[0] == 100_000_000


def test_a_run_without_a_checkpoint_starts_from_the_beginning(place: Path) -> None:
    interrupted(place)
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:
        assert run.load_latest() is None


def test_a_view_does_not_drag_along_what_it_is_a_view_of(place: Path) -> None:
    large = torch.arange(1_000_000.0)
    with TrainingRun.begin(place, {}) as run:
        run.save(1, {"view": large[10:13], "turned": torch.arange(6.0).reshape(2, 3).T})
        _, found = run.load_latest() or (0, {})
    assert (place / "checkpoint-00000001.pt").stat().st_size < 10_000
    assert torch.equal(found["view"], large[10:13])
    assert found["turned"].stride() == (1, 3)


def test_what_could_not_be_loaded_is_refused_when_it_is_saved(place: Path) -> None:
    with TrainingRun.begin(place, {}) as run:
        with pytest.raises(TypeError, match=r"state\['scores'\]\[1\] is a float64, which a checkpoint cannot hold"):
            run.save(1, {"scores": [0.5, np.float64(0.5)]})
        assert names(place) == ["run.json"]


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_cut_off_anywhere_is_never_used(place: Path) -> None:
    interrupted(place, 1, 2)
    newest = place / "checkpoint-00000002.pt"
    content = newest.read_bytes()
    cuts = {
        0,
        1,
        CHECKSUM_BYTES - 1,
        CHECKSUM_BYTES,
        CHECKSUM_BYTES + 1,
        len(content) - CHECKSUM_BYTES,
        len(content) - 1,
        *range(0, len(content), 97),
    }
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:
        for cut in sorted(cuts):
            newest.write_bytes(content[:cut])
            step, found = run.load_latest() or (0, {})
            assert step == 1
            assert_same(found, state(1))
            assert run.problems.pop() == f"{newest} is damaged (its checksum is wrong): went on from step 1."


def test_a_checkpoint_with_one_wrong_bit_is_never_used(place: Path) -> None:
    interrupted(place, 1, 2)
    newest = place / "checkpoint-00000002.pt"
    content = newest.read_bytes()
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:
        for at in range(0, len(content), 89):
            newest.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
            assert (run.load_latest() or (0,))[0] == 1


def test_a_checkpoint_under_the_name_of_another_step_is_not_used(place: Path) -> None:
    interrupted(place, 1, 2)
    shutil.copy(place / "checkpoint-00000001.pt", place / "checkpoint-00000003.pt")
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:
        assert (run.load_latest() or (0,))[0] == 2
        assert "it holds step 1" in run.problems[0]


def test_damaged_ones_above_go_when_the_run_has_gone_on(place: Path) -> None:
    interrupted(place, 10, 20)
    (place / "checkpoint-00000020.pt").write_bytes(b"nothing")
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:
        run.load_latest()
        run.save(15, state(15))
        assert names(place) == ["checkpoint-00000010.pt", "checkpoint-00000015.pt", "run.json"]


def test_when_all_are_damaged_it_says_so(place: Path) -> None:
    interrupted(place, 1, 2)
    for path in place.glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1])
    with (
        TrainingRun.begin(place, SETTINGS, resume=True) as run,
        pytest.raises(TrainingError, match=r"00000002\.pt is damaged .*00000001\.pt is damaged .*again with --force"),
    ):
        run.load_latest()


# --- killed, and a full disk ------------------------------------------------------------------------------------------


@pytest.mark.fault(40)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
def test_a_process_killed_while_it_saves_leaves_a_whole_state_no_older_than_it_reported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, "40"], check=True, capture_output=True, text=True)
    reports = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(reports) == 40
    for attempt, reported in reports:
        with TrainingRun.begin(tmp_path / str(attempt), {}, resume=True) as run:
            step, found = run.load_latest() or (0, {})
            assert not run.problems
        assert step in (reported, reported + 1)
        assert found["step"] == step
        assert torch.equal(found["numbers"], torch.full((20_000,), float(step)))
        assert not list((tmp_path / str(attempt)).glob(".*"))  # what it was writing is swept up


@pytest.mark.fault(34)
@pytest.mark.parametrize("fault", ["open", "write", "fsync", "verify", "rename"])
def test_a_disk_that_does_not_take_it_does_not_stop_the_training(
    place: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with TrainingRun.begin(place, SETTINGS) as run:
        run.save(1, state(1))
        with monkeypatch.context() as patch:
            if fault == "open":
                patch.setattr(Path, "open", full)
            elif fault == "write":
                patch.setattr(atomic.HashingWriter, "check", full)
            elif fault == "fsync":
                patch.setattr(atomic.os, "fsync", full)
            elif fault == "verify":
                patch.setattr(atomic.hashlib, "file_digest", lambda *_: atomic.hashlib.sha256(b"other"))
            else:
                patch.setattr(Path, "replace", full)
            assert run.save(2, state(2)) is False
        assert names(place) == ["checkpoint-00000001.pt", "run.json"]
        assert len(run.problems) == 1
        assert "--resume would go on from step 1" in run.problems[0]
        assert run.save(3, state(3)) is True
        assert (run.load_latest() or (0,))[0] == 3


@pytest.mark.fault(34)
def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    """torch.save meets the end of the disk at every place: in a header, in numbers, in the list of contents."""
    folder = tiny_disk / "model.run"
    missed = []
    with TrainingRun.begin(folder, {}) as run:
        assert run.save(1, {"numbers": torch.full((500,), 1.0)})
        for step in range(2, 200):
            if not run.save(step, {"numbers": torch.full((100 * step,), float(step)), "few": torch.ones(step)}):
                missed.append(step)
            at, found = run.load_latest() or (0, {})
            assert torch.equal(found["numbers"], torch.full((100 * at if at > 1 else 500,), float(at)))
            assert at == (missed[0] - 1 if missed else step)
        assert len(run.problems) == len(missed) > 100
        assert "the disk is full" in run.problems[-1]


@pytest.mark.fault(34)
def test_a_place_that_takes_no_checkpoint_at_all_stops_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TrainingRun.begin(place, SETTINGS) as run:
        monkeypatch.setattr(
            atomic.HashingWriter, "check", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full"))
        )
        with pytest.raises(OutputError, match=r"No checkpoint could be written to .*the disk is full"):
            run.save(1, state(1))


# --- whose folder it is -----------------------------------------------------------------------------------------------


def test_an_interrupted_run_is_not_begun_anew_by_mistake(place: Path) -> None:
    interrupted(place, 5)
    with pytest.raises(OutputError, match="go on with --resume, or start again with --force"):
        TrainingRun.begin(place, SETTINGS)
    with TrainingRun.begin(place, {"seed": 1}, force=True) as run:
        assert run.load_latest() is None
        assert names(place) == ["run.json"]
        assert json.loads((place / "run.json").read_text()) == {"seed": 1}


def test_a_run_stopped_before_its_first_checkpoint_needs_no_force(place: Path) -> None:
    interrupted(place)
    with TrainingRun.begin(place, {"seed": 1}):
        assert json.loads((place / "run.json").read_text()) == {"seed": 1}


def test_another_run_is_not_resumed_and_each_difference_is_named(place: Path) -> None:
    interrupted(place, 5)
    given = {**SETTINGS, "done": "1", "seed": 1, "strategy": "lora", "views": None}
    del given["rate"]
    with pytest.raises(UsageError) as caught:
        TrainingRun.begin(place, given, resume=True)
    lines = str(caught.value).splitlines()[1:-1]
    assert lines == [
        '  strategy: was "full", now "lora"',
        "  seed: was 0, now 1",
        "  rate: was 0.001, now not set",
        '  done: was 1, now "1"',
        "  views: was not set, now null",
    ]
    with TrainingRun.begin(place, SETTINGS | {"classes": ("cat", "dog")}, resume=True) as run:  # JSON has no tuples
        assert run.load_latest()


def test_a_run_that_an_earlier_version_began_is_gone_on_with(place: Path) -> None:
    with TrainingRun.begin(place, SETTINGS | {"pictures": "157c"}) as run:
        run.save(1, {})
    with TrainingRun.begin(place, SETTINGS | {"images": "157c"}, resume=True) as run:
        assert run.load_latest()


def test_where_there_is_nothing_to_resume_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to resume: .*model\.run .*Start without --resume"):
        TrainingRun.begin(tmp_path / "typo" / "model.run", SETTINGS, resume=True)
    assert names(tmp_path) == []


def test_settings_that_cannot_be_read_are_an_error_that_says_so(place: Path) -> None:
    interrupted(place, 1)
    (place / "run.json").write_text("[1]")
    with pytest.raises(ModelError, match=r"run\.json cannot be read"):
        TrainingRun.begin(place, SETTINGS, resume=True)


@pytest.mark.parametrize("how", [{}, {"force": True}, {"resume": True}])
@pytest.mark.parametrize("name", ["notes.txt", "checkpoint-1.pt", "best.pt", ".checkpoint-00000001.pt.xyz"])
def test_a_folder_with_a_file_of_somebody_else_is_left_alone(place: Path, name: str, how: dict[str, bool]) -> None:
    interrupted(place, 1)
    (place / name).write_text("mine")
    before = names(place)
    with pytest.raises(OutputError, match=f"{name} was not written by graft"):
        TrainingRun.begin(place, SETTINGS, **how)
    assert names(place) == before
    (place / name).unlink()
    with TrainingRun.begin(place, SETTINGS, resume=True) as run:  # the lock was let go
        assert run.load_latest()


@pytest.mark.parametrize("name", ["checkpoint-00000001.pt", "history.csv"])
def test_without_run_json_a_checkpoint_is_somebody_elses(place: Path, name: str) -> None:
    place.mkdir()
    (place / name).write_text("mine")
    with pytest.raises(OutputError, match="was not written by graft"):
        TrainingRun.begin(place, SETTINGS, force=True)
    assert (place / name).read_text() == "mine"


def test_a_file_or_a_folder_where_something_of_ours_would_be(place: Path) -> None:
    place.write_text("mine")
    with pytest.raises(OutputError, match="was not written by graft"):
        TrainingRun.begin(place, SETTINGS, force=True)
    assert place.read_text() == "mine"
    place.unlink()
    interrupted(place)
    (place / "checkpoint-00000001.pt").mkdir()
    with pytest.raises(OutputError, match="was not written by graft"):
        TrainingRun.begin(place, SETTINGS, force=True)


@pytest.mark.fault(36)
def test_two_cannot_train_in_one_folder(place: Path) -> None:
    with TrainingRun.begin(place, {}) as run:
        with pytest.raises(OutputError, match="Another process is training in"):
            TrainingRun.begin(place, {}, force=True)
        run.save(1, state(1))  # the refused one has not let the folder go
        with pytest.raises(OutputError, match="Another process is training in"):
            TrainingRun.begin(place, {}, resume=True)
    with TrainingRun.begin(place, {}, resume=True):
        pass
    assert names(place.parent) == ["model.run"]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_finished_run_leaves_nothing(place: Path) -> None:
    with TrainingRun.begin(place, SETTINGS) as run:
        run.save(1, state(1))
        run.append_epoch(Epoch("all", 1, 2, 10, 0.1, 0.5, 1.0, 100))
        (place / ".DS_Store").touch()
        run.finish()
    assert names(place.parent) == []


def test_tensorboards_curves_stay_and_are_no_obstacle(place: Path) -> None:
    with TrainingRun.begin(place, SETTINGS) as run:
        run.save(1, state(1))
        (place / "events.out.tfevents.1.host.1.0").touch()
        run.finish()
    assert names(place) == ["events.out.tfevents.1.host.1.0"]
    with TrainingRun.begin(place, SETTINGS, force=True) as run:
        run.finish()
    assert names(place) == ["events.out.tfevents.1.host.1.0"]


def test_a_history_that_cannot_be_written_does_not_stop_the_training(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs = [Epoch("all", number, 3, number, 0.1, 0.5, 1.0, 100) for number in (1, 2)]
    with TrainingRun.begin(place, SETTINGS) as run:
        assert run.append_epoch(epochs[0]) is True
        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
            assert run.append_epoch(epochs[1]) is False
        assert run.problems == [f"Epoch 2 is not in {place / 'history.csv'}: the disk is full"]
        assert history.read(place / "history.csv") == epochs[:1]
