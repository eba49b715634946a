"""Peak memory of `fit` on few and on many pictures, each in a process of its own.

python bench/memory.py [--many 50000]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CHILD = """
import resource, sys
from graft.jobs.fit import fit
report = fit(sys.argv[1]).report
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, report["data"]["train"], report["data"]["test"])
"""


def main() -> None:
    """Print both peaks and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=50_000)
    options = parser.parse_args()
    peaks = []
    for count in (500, options.many):
        with tempfile.TemporaryDirectory() as folder:
            paint(Path(folder) / "photos", count)
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", CHILD, f"{folder}/photos"],
                check=True,
                capture_output=True,
                text=True,
                env=os.environ | {"GRAFT_CACHE": f"{folder}/cache"},
            )
        peak, train, test = map(int, done.stdout.split())
        peaks.append(peak)
        print(f"{count:,} pictures ({train:,} train, {test:,} test): peak {peak:,} MiB", flush=True)
    print(f"difference: {peaks[1] - peaks[0]:,} MiB")


def paint(root: Path, count: int, classes: int = 10) -> None:
    """Small pictures of random blots; each class has a tint of its own."""
    random = np.random.default_rng(0)
    tints = random.integers(0, 100, (classes, 3))
    for number in range(count):
        folder = root / f"class {number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        blots = Image.fromarray((tints[number % classes] + random.integers(0, 156, (4, 4, 3))).astype(np.uint8))
        blots.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


if __name__ == "__main__":
    main()
