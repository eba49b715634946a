"""`check` on many small files against a bare parallel decode of the same files, and where its time goes.

python bench/check.py [--many 20000] [--quick]

The files: JPEG of 160 x 120 pixels, 10 classes. The bare decode runs graft's decoder over them, in full size, with as
many threads as check uses, and keeps nothing. Then check, once with an empty cache and once more.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from graft.data.dataset import decode_pixels
from graft.data.readers.folder import read_folder
from graft.features.embed import load_each
from graft.jobs.check.check import check
from graft.progress import no_progress


def main() -> None:
    """Print seconds and images a second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--quick", action="store_true", help="check without a network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRAFT_CACHE"] = f"{folder}/cache"
        root = Path(folder) / "photos"
        paint(root, options.many)
        bare = timed("bare decode", options.many, lambda: decoded(root))
        for what in ("check, nothing cached", "check again"):
            spent = timed(what, options.many, lambda: check(root, offline=True, quick=options.quick))
            print(f"  {bare / spent:.2f} of the speed of the bare decode", flush=True)


def decoded(root: Path) -> None:
    """Decode all files and forget them."""
    for _ in load_each(read_folder(root), lambda raw: decode_pixels(raw, 0).shape, no_progress):
        pass


def timed(what: str, count: int, job: Callable[[], object]) -> float:
    """Seconds of a job, printed."""
    start = time.perf_counter()
    job()
    spent = time.perf_counter() - start
    print(f"{what}: {spent:.1f} s, {count / spent:,.0f} images/s", flush=True)
    return spent


def paint(root: Path, count: int, classes: int = 10) -> None:
    """Images of random blots; each class has a tint of its own."""
    random = np.random.default_rng(0)
    tints = random.integers(0, 100, (classes, 3))
    for number in range(count):
        folder = root / f"class {number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        blots = Image.fromarray((tints[number % classes] + random.integers(0, 156, (6, 8, 3))).astype(np.uint8))
        blots.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)


if __name__ == "__main__":
    main()
