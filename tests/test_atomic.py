"""A folder that is replaced: killed after whichever step, its name has the old content or the new, all of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from graft import atomic

# Replaces a folder; kills itself before the step of that number, of all that atomic.py does to the disk.
REPLACE = """
import os, signal, sys
from pathlib import Path
from graft import atomic

place, last, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
steps = 0

def stepped(function):
    def step(*args, **options):
        global steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **options)
    return step

for owner, names in ((Path, ("mkdir", "rename", "unlink")), (os, ("fsync",)), (atomic.shutil, ("rmtree",))):
    for name in names:
        setattr(owner, name, stepped(getattr(owner, name)))
atomic._exchange_names = stepped(atomic._exchange_names) if way == "exchange" else lambda one, other: False
with atomic.atomic_folder(place) as fresh:
    for name in "ab":
        (fresh / name).write_text("new")
print(steps)
"""


def content(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in place.iterdir()}


def filled(place: Path, text: str) -> Path:
    place.mkdir()
    for name in "ab":
        (place / name).write_text(text)
    return place


def replaced(place: Path, last: int, way: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", REPLACE, str(place), str(last), way]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.fault(40)
@pytest.mark.skipif(atomic._find_exchange_call() is None, reason="this system exchanges no names")
def test_killed_before_any_step_there_is_the_old_folder_or_the_new(tmp_path: Path) -> None:
    found = list[str]()
    for last in range(1, 30):
        place = filled(tmp_path / f"{last}", "old")
        done = replaced(place, last, "exchange")
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        (text,) = set(content(place).values())
        assert content(place) == {"a": text, "b": text}
        found.append(text)
        if not done.returncode:
            break
    assert done.returncode == 0, "it was killed each time"
    assert int(done.stdout) == last - 1
    assert found == sorted(found, reverse=True)  # first the old one, from one step on the new
    assert found.count("old") >= 4
    assert found.count("new") >= 2


def test_without_such_a_system_call_the_next_run_brings_the_old_one_back(tmp_path: Path) -> None:
    gone = 0
    for last in range(1, 30):
        place = filled(tmp_path / f"{last}", "old")
        done = replaced(place, last, "two steps")
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        gone += not place.exists()
        atomic.restore_leftover(place, "ab", "ab")
        (text,) = set(content(place).values())
        assert content(place) == {"a": text, "b": text}
        if not done.returncode:
            break
    assert done.returncode == 0, "it was killed each time"
    assert gone == 1  # between the two


def test_whatever_stands_in_the_place_is_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    place, elsewhere = tmp_path / "place", filled(tmp_path / "elsewhere", "mine")
    for stand in (
        lambda: filled(place, "old"),
        lambda: place.write_text("a file"),
        lambda: place.symlink_to(elsewhere),
    ):
        stand()
        with atomic.atomic_folder(place) as fresh:
            (fresh / "a").write_text("new")
        assert content(place) == {"a": "new"}
        assert not place.is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "place"]
        atomic._remove(place)
    assert content(elsewhere) == {"a": "mine", "b": "mine"}


@pytest.mark.skipif(atomic._find_exchange_call() is None, reason="this system exchanges no names")
def test_the_exchange_is_one_call_and_what_it_cannot_do_is_told(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "one", "1"), filled(tmp_path / "other", "2")
    assert atomic._exchange_names(one, other)
    assert (content(one)["a"], content(other)["a"]) == ("2", "1")
    with pytest.raises(FileNotFoundError):
        atomic._exchange_names(one, tmp_path / "nothing")


@pytest.mark.parametrize("error", ["ENOSYS", "EINVAL", "ENOTSUP", "EPERM"])
def test_a_file_system_that_cannot_is_left_to_two_steps(
    error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(one: bytes, other: bytes) -> int:
        atomic.ctypes.set_errno(getattr(atomic.errno, error))
        return -1

    monkeypatch.setattr(atomic, "_find_exchange_call", lambda: refused)
    place = filled(tmp_path / "place", "old")
    with atomic.atomic_folder(place) as fresh:
        (fresh / "a").write_text("new")
    assert content(place) == {"a": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert os.path.lexists(place)


def test_what_a_killed_writer_left_is_swept_and_what_is_being_written_stays(tmp_path: Path) -> None:
    left, other, mine = (tmp_path / name for name in (".a.onnx.0123abcd", ".b.onnx.0123abcd", ".a.onnx.backup1"))
    for path in (left, other, mine):
        path.write_bytes(b"half")
    with atomic.atomic_file(tmp_path / "a.onnx") as file:
        file.write(b"whole")
        atomic.remove_leftovers(tmp_path, {"a.onnx"})  # by another run meanwhile
        assert not left.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, other.name, "a.onnx"]
    assert (tmp_path / "a.onnx").read_bytes() == b"whole"
