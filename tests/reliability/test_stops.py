"""Programs that are ended at every step that changes a file, by Ctrl-C, by the system: old or new, and no litter."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from programs import WRITERS, graft, words

import graft_runtime
from graft.model.classifier import load

# A process that has imported all there is, and becomes `graft` again and again. Each child dies before its n-th change
# of a file below its place; the first one in the middle of a file, as it may not grow beyond 500 bytes.
NURSERY = """
import json, os, resource, signal, sys
from graft.cli import app as cli
import graft.jobs.check.check, graft.jobs.embed, graft.jobs.explain, graft.jobs.export.export, graft.jobs.fit
import graft.jobs.predict, graft.jobs.report.report, graft.jobs.update.update, onnx

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")

def dying(step, place):
    left = [step]
    def hook(event, given):
        writes = event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(given[0]).startswith(place):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
    if step:
        sys.addaudithook(hook)
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

for step, place, words in json.loads(sys.argv[1]):
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        signal.alarm(60)  # whatever hangs ends
        dying(step, place)
        sys.argv = ["graft", *words]
        try:
            cli.main()
        except SystemExit as ended:
            os._exit(ended.code or 0)  # what libraries do at the end waits for threads that a fork has not
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STEPS = {"fit": (0, 1, 2, 3, 5, 8), "update": (0, 1, 2, 3, 5, 8), "export": (0, 2)}
FILE = (0, 1, 2, 3)  # a file of its own is made, takes its place, and then nothing
WHOLE: dict[str, Callable[[Path], Any]] = {  # raises where half a thing stands in the place
    "": load,
    ".onnx": graft_runtime.load,
    ".csv": lambda path: path.read_text().splitlines()[36],
    ".npz": lambda path: np.load(path)["features"],
    ".html": lambda path: path.read_text().index("</html>"),
    ".png": lambda path: Image.open(path).load(),
}


def check_whole(place: Path, job: str) -> None:
    for path in place.glob("out/*.png" if job == "explain" else "out*"):
        if ".part" not in path.name:  # the answers so far, which --resume goes on with
            WHOLE[path.suffix](path)


@pytest.fixture(scope="module")
def killed(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[Path, int]]:
    """For each job the places in which it replaced what was there, and was killed, with the exit code."""
    root, tasks = tmp_path_factory.mktemp("killed"), []
    for job in WRITERS:
        first = root / job / "0"
        first.mkdir(parents=True)
        done = graft(*words(job, photos, model, first / "out"))
        assert done.exit_code == 0, done.stderr
        for step in STEPS.get(job, FILE):
            place = root / job / str(step)
            if step:
                shutil.copytree(first, place)
            tasks.append((step, str(place), [*words(job, photos, model, place / "out"), "--force"]))
    command = [sys.executable, "-c", NURSERY, json.dumps(tasks)]
    codes = map(int, subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split())
    found: dict[str, dict[Path, int]] = {job: {} for job in WRITERS}
    for (_, place, _), code in zip(tasks, codes, strict=True):
        found[Path(place).parent.name][Path(place)] = code
    return found


@pytest.mark.slow
@pytest.mark.fault(40)
@pytest.mark.parametrize("job", WRITERS)
def test_killed_before_any_change_of_a_file_there_is_the_old_or_the_new(
    photos: Path, model: Path, killed: dict[str, dict[Path, int]], job: str
) -> None:
    middle, begin, *later = killed[job].values()
    assert middle == -signal.SIGXFSZ
    assert begin == -signal.SIGKILL
    assert set(later) <= {-signal.SIGKILL, 0}
    for place in killed[job]:
        check_whole(place, job)
        again = graft(*words(job, photos, model, place / "out"), "--force")
        assert again.exit_code == 0, again.stderr
        check_whole(place, job)
    assert [
        path for place in killed[job] for path in place.rglob("*") if path.name[0] == "." or ".part" in path.name
    ] == []
