"""Many images to a file of answers: how fast against the bare loop, and how much memory.

python bench/batch.py ../shared/data/flowers5 [--images 1000 5000] [--model FOLDER]

The images are hard links to those of the folder, turn and turn about, so that none has to be copied.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft_runtime.image import decode
from graft_runtime.predictor import load

PROGRAM = """
from {package} import cli
try:
    cli.main()
finally:
    status = open("/proc/self/status").read()  # the peak that getrusage tells begins with that of the parent
    print("PEAK", int(status.partition("VmHWM:")[2].split()[0]) / 1024)
"""


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000])
    parser.add_argument("--model", type=Path, help="the classifier that was trained on them, else it is trained")
    options = parser.parse_args()
    files = sorted(options.data.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as place:
        folder, model = options.model or Path(place, "model"), Path(place, "model.onnx")
        export(folder if options.model else fit(options.data, folder, report=False), model)
        bare(model, files[: min(options.images)])
        print("| program | images | seconds | a second | peak MB |\n|---|---|---|---|---|")
        for count in options.images:
            many = linked(files, Path(place, str(count)), count)
            for package, judge in (("graft_runtime", model), ("graft", folder)):
                row(package, judge, many, count)


def linked(files: list[Path], folder: Path, count: int) -> Path:
    """A folder of so many links."""
    folder.mkdir()
    for number in range(count):
        source, link = files[number % len(files)], folder / f"{number:06}.jpg"
        try:
            os.link(source, link)
        except OSError:  # another disk
            link.symlink_to(source.resolve())
    return folder


def bare(model: Path, files: list[Path]) -> None:
    """Decode and run, one image after the other, and nothing else."""
    predictor = load(model)
    began = time.perf_counter()
    for file in files:
        predictor.run(decode(file.read_bytes(), enough=predictor.card.enough)[None])
    seconds = time.perf_counter() - began
    print(f"bare loop, decode and run: {len(files):,} images, {seconds:.1f} s, {len(files) / seconds:.1f} a second\n")


def row(package: str, judge: Path, many: Path, count: int) -> None:
    """One run of a program, as a person starts it."""
    out = many.with_suffix(f".{package}{judge.suffix}.csv")
    began = time.perf_counter()
    command = [sys.executable, "-c", PROGRAM.format(package=package), "predict", judge, many, "-o", out]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    seconds, peak = time.perf_counter() - began, float(done.stdout.split("PEAK")[1])
    name = f"{'graft-runtime' if package == 'graft_runtime' else 'graft'} predict {judge.name}{'/' * judge.is_dir()}"
    print(f"| `{name}` | {count:,} | {seconds:.0f} | {count / seconds:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
