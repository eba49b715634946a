"""Peak memory of `fit`, each in a process of its own: on few and on many images, or by what is trained.

python bench/memory.py [--many 50000]
GRAFT_WEIGHTS=../shared/weights python bench/memory.py ../shared/data/rsscn7_sub --backbone mobilenetv2_100

With a data set, each strategy trains one epoch in batches of 32 and is not refitted, from an empty cache. `above start`
is the peak less what the process held with the network loaded.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# This process imports no torch: a child's peak begins at the size of the process that started it.
CHILD = """
import json, resource, sys
from graft.jobs.fit import fit
from graft.backbones.catalog import DEFAULT
from graft.backbones.backbone import load_backbone

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

source, options = sys.argv[1], json.loads(sys.argv[2])
load_backbone(options.get("backbone", DEFAULT))
start = peak()
report = fit(source, **options).report
phase = (report.get("phases") or [{"trained_parameters": 0, "share_of_the_work": 0}])[-1]
print(json.dumps({"start": start, "peak": peak(), **report["data"], **phase}))
"""
STRATEGIES = ["probe", "tail:cut=head", "tail", "norm", "lora", "full"]
RECIPE = "epochs=1,batch=32,refit=no"


def main() -> None:
    """The peaks by strategy for a data set; without one, those of few and many images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--many", type=int, default=50_000)
    options = parser.parse_args()
    if options.data:
        by_strategy(options.data, options.backbone, options.strategies)
    else:
        by_count(options.many)


def by_strategy(data: Path, backbone: str, strategies: list[str]) -> None:
    """One row for each strategy."""
    print("| strategy | trained parameters | of the work | peak MiB | above start |\n|---|---|---|---|---|")
    for strategy in strategies:
        recipe = {} if strategy.startswith("probe") else {"recipe": RECIPE}
        found = measured(data, {"backbone": backbone, "strategy": strategy, "report": False} | recipe)
        trained, share = found["trained_parameters"], found["share_of_the_work"]
        cells = f"{trained:,} | {share:.0%} | {found['peak']:,} | {found['peak'] - found['start']:,}"
        print(f"| `{strategy}` | {cells} |", flush=True)


def by_count(many: int) -> None:
    """Few and many images, and the difference."""
    peaks = []
    for count in (500, many):
        with tempfile.TemporaryDirectory() as folder:
            paint(Path(folder), count)
            found = measured(Path(folder), {})
        peaks.append(found["peak"])
        parts = f"{found['train']:,} train, {found['test']:,} test"
        print(f"{count:,} images ({parts}): peak {found['peak']:,} MiB", flush=True)
    print(f"difference: {peaks[1] - peaks[0]:,} MiB")


def measured(data: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What `fit` in a process of its own says, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD, str(data), json.dumps(options)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"GRAFT_CACHE": cache},
        )
    return json.loads(done.stdout)


def paint(root: Path, count: int, classes: int = 10) -> None:
    """Small images of random blots; each class has a tint of its own."""
    random = np.random.default_rng(0)
    tints = random.integers(0, 100, (classes, 3))
    for number in range(count):
        folder = root / f"class {number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        blots = Image.fromarray((tints[number % classes] + random.integers(0, 156, (4, 4, 3))).astype(np.uint8))
        blots.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


if __name__ == "__main__":
    main()
