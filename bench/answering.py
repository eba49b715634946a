"""One answer, whole processes: `graft predict model/ photo.jpg` against the barest script that gives one.

python bench/answering.py model/ photo.jpg

The script imports NumPy, Pillow and ONNX Runtime, opens the same network, decodes and resizes the photo, and runs it.
`graft-runtime predict` answers from the exported file. In turns; every program runs once before it is measured.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from graft.jobs.export.export import export

TURNS = 7
BAREST = """
import sys
import numpy as np
import onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1])
image = np.asarray(Image.open(sys.argv[2]).convert("RGB"))[None]
print(session.run(["probabilities"], {"image": image})[0].argmax())
"""


def main() -> None:
    """A row for each program: median seconds, and the ratio to the barest."""
    model, photo = sys.argv[1:]
    with TemporaryDirectory() as folder:
        file = str(Path(folder) / "model.onnx")
        export(model, file)
        ways = {
            "the barest script": [sys.executable, "-c", BAREST, file, photo],
            "`graft-runtime predict model.onnx`": [program("graft-runtime"), "predict", file, photo],
            "`graft predict model/`": [program("graft"), "predict", model, photo],
        }
        spent = measured(ways, folder)
    least = statistics.median(spent["the barest script"])
    print("| program | seconds, median | to the barest |\n|---|---|---|")
    for name, times in spent.items():
        print(f"| {name} | {statistics.median(times):.2f} | {statistics.median(times) / least:.2f} |")


def program(name: str) -> str:
    """As it is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def measured(ways: dict[str, list[str]], folder: str) -> dict[str, list[float]]:
    """The seconds of each, in turns."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(TURNS + 1):
        for name, words in ways.items():
            began = time.perf_counter()
            subprocess.run(words, env=kept | {"PYTHONPYCACHEPREFIX": folder}, capture_output=True, check=True)
            spent[name] += [time.perf_counter() - began] * (turn > 0)
    return spent


if __name__ == "__main__":
    main()
