"""The program in this process and as one of its own, and a disk that can be filled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from graft.cli import app

NETWORK = ["--backbone", "test_resnet", "--offline", "-q"]
QUICK = ["--strategy", "probe:head=ridge,layers=last"]
WRITERS = {  # what writes a file or a folder called OUT
    "fit": ["fit", "PHOTOS", "-o", "OUT", *NETWORK, *QUICK, "--seed", "1"],
    "update": ["update", "MODEL", "-o", "OUT", "--rename", "disc=dot", "-q"],
    "export": ["export", "MODEL", "-o", "OUT.onnx", "-q"],
    "predict": ["predict", "MODEL", "PHOTOS", "-o", "OUT.csv", "-q"],
    "embed": ["embed", "PHOTOS", "-o", "OUT.npz", *NETWORK],
    "check": ["check", "PHOTOS", "-o", "OUT.html", *NETWORK],
    "explain": ["explain", "MODEL", "PHOTOS/disc", "-o", "OUT", "-q"],
    "report": ["report", "MODEL", "-o", "OUT.html"],
}


def words(job: str, photos: Path, model: Path, out: Path) -> list[str]:
    """The command, with the places filled in."""
    places = {"PHOTOS": photos, "MODEL": model, "OUT": out}
    filled = WRITERS[job]
    for name, place in places.items():
        filled = [word.replace(name, str(place)) for word in filled]
    return filled


def graft(*words: object) -> Result:
    """Run the program in this process."""
    return CliRunner().invoke(app.app, [str(word) for word in words])


def started(before: str, *words: object, **options: Any) -> subprocess.Popen[str]:
    """The program as a process of its own that first executes some Python; Ctrl-C reaches it as from a terminal."""
    code = f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{before}\n"
    command = [sys.executable, "-c", f"{code}\nfrom graft.cli import app as cli\ncli.main()", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, **pipes)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Disk:
    """A file system of its own, which can be filled to the last bytes."""

    def __init__(self, place: Path) -> None:
        self.place, self._filler = place, place / ".filler"

    def leave(self, count: int) -> None:
        """Fill it until so many bytes are free."""
        free = os.statvfs(self.place)
        self._filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - count)))

    def free(self) -> None:
        self._filler.unlink()

    def read_only(self) -> None:
        subprocess.run(["mount", "-o", "remount,ro", self.place], check=True)
