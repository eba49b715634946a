"""What it costs to be told of a mistake, or to be shown the help: processor seconds, as ratios to importing the least.

python bench/startup.py

The least is what any program imports that judges images: NumPy, Pillow and ONNX Runtime. Every command runs once before
it is measured, so that its bytecode is there, as it is after the first use of an installed program.
"""

import os
import resource
import statistics
import subprocess
import sys
from tempfile import TemporaryDirectory

TURNS = 7
LEAST = ["-c", "import numpy, PIL.Image, onnxruntime"]
GRAFT = ["-c", "import sys; from graft.cli import app as cli; sys.argv[0] = 'graft'; cli.main()"]
ASKED = [
    "--help",
    "fit --help",
    "fit nowhere -o model",
    "fit . -o model --strategy prbe",
    "fit . -o model --strategy tail --head mlp:hiden=64",
    "fit . -o model --backbone resnt50",
    "fit . -o model --epochs 3",
    "predict nowhere photo.jpg",
]


def main() -> None:
    """One row for each command; the medians of turn and turn about."""
    ways = {"(imports)": LEAST} | {f"graft {words}": [*GRAFT, *words.split()] for words in ASKED}
    spent: dict[str, list[float]] = {name: [] for name in ways}
    with TemporaryDirectory() as bytecode:
        for _ in range(TURNS + 1):
            for name, words in ways.items():
                spent[name].append(seconds(words, bytecode))
    least = statistics.median(spent["(imports)"][1:])
    print("| command | processor seconds | to the imports |")
    print("|---|---|---|")
    for name, times in spent.items():
        middle = statistics.median(times[1:])
        print(f"| `{name}` | {middle:.2f} | {middle / least:.2f} |")


def seconds(words: list[str], bytecode: str) -> float:
    """Of the processor, for a Python process with these arguments."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *words], env=kept | {"PYTHONPYCACHEPREFIX": bytecode}, capture_output=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
