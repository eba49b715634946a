"""Disks that are full, that are others, and that may not be written to: real ones, and programs of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from programs import NETWORK, QUICK, WRITERS, Disk, contents, graft, words

import graft_runtime
from graft.model import storage
from graft.model.classifier import load


@pytest.mark.slow
@pytest.mark.fault(34)
@pytest.mark.parametrize("left", [0, 4096])
@pytest.mark.parametrize("job", WRITERS)
def test_a_full_disk_keeps_what_was_there(photos: Path, model: Path, disk: Disk, job: str, left: int) -> None:
    command = words(job, photos, model, disk.place / "out")
    first = graft(*command)
    assert first.exit_code == 0, first.stderr
    before = contents(disk.place)
    disk.leave(left)
    done = graft(*command, "--force")
    assert done.exit_code == 6, done.stderr
    assert str(disk.place / "out") in done.stderr
    assert "Traceback" not in done.stderr
    disk.free()
    after = contents(disk.place)
    assert {name: after.get(name) for name in before} == before
    assert after.keys() == before.keys() or job == "predict"  # which keeps the answers that there are
    again = graft(*command, "--force", *["--resume"] * (job == "predict"))  # whose message names it
    assert again.exit_code == 0, again.stderr
    assert contents(disk.place).keys() == before.keys()


@pytest.mark.slow
@pytest.mark.fault(35)
@pytest.mark.parametrize("job", WRITERS)
def test_a_disk_that_is_read_only_is_told_before_any_work(
    photos: Path, model: Path, disk: Disk, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft_runtime.image.decode", lambda *_, **__: pytest.fail("work was done first"))
    disk.read_only()
    done = graft(*words(job, photos, model, disk.place / "out"))
    assert done.exit_code == 6, done.stderr
    assert str(disk.place) in done.stderr
    assert done.stderr.count("\n") == 1
    assert contents(disk.place) == {}


@pytest.mark.slow
@pytest.mark.fault(35)
@pytest.mark.parametrize("job", ["fit", "export", "predict"])
def test_another_disk_gets_the_same_bytes(
    photos: Path, model: Path, disk: Disk, tmp_path: Path, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is on one disk, the output on the other, and the temporary folder of the system on neither."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    for place in (tmp_path / "here", disk.place / "there"):
        place.mkdir()
        for _ in range(2):  # new, then in place of what is there
            done = graft(*words(job, photos, model, place / "out"), "--force")
            assert done.exit_code == 0, done.stderr
    here, there = (contents(place) for place in (tmp_path / "here", disk.place / "there"))
    assert here.keys() == there.keys()
    for name in here.keys() - {"out/model.json", "out/report.json", "out/report.html", "out/README.md"}:  # have a time
        if job != "export":  # which has a time in it
            assert here[name] == there[name], name
    if job == "export":
        disc = photos / "disc/00.png"
        one, other = (graft_runtime.load(place / "out.onnx") for place in (tmp_path / "here", disk.place / "there"))
        assert one.predict(disc) == other.predict(disc)


@pytest.mark.fault(35)
def test_a_folder_that_vanishes_while_training_is_made_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, save = tmp_path / "gone", storage.save
    gone.mkdir()

    def vanish(*given: Any, **options: Any) -> Path:
        shutil.rmtree(gone)
        return save(*given, **options)

    monkeypatch.setattr(storage, "save", vanish)
    done = graft("fit", photos, "-o", gone / "out", *NETWORK, *QUICK, "--no-report")
    assert done.exit_code == 0, done.stderr
    assert load(gone / "out").classes == ("disc", "frame", "stripes")


@pytest.mark.slow
@pytest.mark.fault(39)
def test_training_needs_no_shared_memory(photos: Path, tmp_path: Path) -> None:
    mount = shutil.which("unshare")
    code = "from graft.cli import app as cli; cli.main()"
    shell = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    words = ["fit", photos, "-o", tmp_path / "out", *NETWORK, "--strategy", "full", "--recipe", "epochs=1,batch=8"]
    command = [mount, "-m", "sh", "-c", shell, "sh", sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if not mount or "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("may not mount a disk here")
    assert done.returncode == 0, done.stderr
