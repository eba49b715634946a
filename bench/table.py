"""What a million images cost before and after the network sees them: seconds and peak memory of each step.

python bench/table.py [--rows 1000000] [--folder FOLDER]

Makes as many empty files (once, if FOLDER is kept), and features of four numbers, so that only rows count.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.data.readers.folder import read_folder
from graft.data.split import assign_folds, split_by_content, split_stratified
from graft.features.embed import Embeddings
from graft.features.store import Store
from graft.training.material import Findings, Material, _sort_by_content

CLASSES, WIDTH, BATCH = 1000, 4, 2048


def main() -> None:
    """Print one row for each step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = options.folder or Path(place, "photos")
        if not root.exists():
            lay(root, options.rows)
        print(f"start: peak {peak():,} MiB\n\n| step | seconds | peak MiB |\n|---|---|---|", flush=True)
        steps(root, Path(place, "cache"), np.random.default_rng(0))


def steps(root: Path, cache: Path, rng: np.random.Generator) -> None:
    """All that is done for each row, one after the other."""
    data = timed("read the folder", lambda: read_folder(root))
    timed("take all in another order", lambda: data.take(rng.permutation(len(data))))
    timed("names", data.names)
    timed("counts, parts", lambda: (data.counts(), data.part(0)))
    digests, groups = rng.integers(0, 256, (len(data), 16), np.uint8), np.arange(len(data))
    timed("split: lasting", lambda: split_by_content(data.labels, groups, digests, 0.2, 0))
    timed("split: stratified", lambda: split_stratified(data.labels, groups, digests, 0.15, 0))
    timed("split: 4 folds", lambda: assign_folds(data.labels, groups, digests, 4, 0))
    timed("store: add", lambda: filled(cache, digests))
    store = timed("store: open", lambda: Store(cache, (WIDTH,)))
    timed("store: is each there?", lambda: all((digest.tobytes(), 0) in store for digest in digests))
    embedded = Embeddings(store, 0, np.arange(len(data)), digests, {}, 0, 0.0)
    timed("store: read all", lambda: [embedded[np.arange(at, min(at + BATCH, len(data)))] for at in starts(len(data))])
    ordered = timed("order by content", lambda: _sort_by_content(embedded, data.labels))
    material = Material(data.take(ordered.rows), ordered, groups, Findings({}, {}))
    timed("fingerprint", material.fingerprint)


def filled(cache: Path, digests: NDArray[np.uint8]) -> None:
    """A store with a row for each image."""
    rows = np.zeros((BATCH, WIDTH), np.float32)
    with Store(cache, (WIDTH,)) as store:
        for at in starts(len(digests)):
            keys = [(digest.tobytes(), 0) for digest in digests[at : at + BATCH]]
            store.add(keys, rows[: len(keys)])


def starts(count: int) -> range:
    """Where each batch begins."""
    return range(0, count, BATCH)


def lay(root: Path, count: int) -> None:
    """Empty files, a thousand classes."""
    for number in range(CLASSES):
        (root / f"class {number}").mkdir(parents=True)
    for number in range(count):
        os.close(os.open(root / f"class {number % CLASSES}" / f"{number:07}.jpg", os.O_CREAT | os.O_WRONLY))


def timed(name: str, run: Callable[[], Any]) -> Any:
    """What the step returns, its figures printed: seconds of this process, not of others on the machine."""
    start = time.process_time()
    result = run()
    print(f"| {name} | {time.process_time() - start:.1f} | {peak():,} |", flush=True)
    return result


def peak() -> int:
    """The most memory that this process ever had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
