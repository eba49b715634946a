"""Accuracy, wall seconds and forward passes of strategies on data sets, each from an empty cache.

python bench/strategies.py ../shared/data rsscn7_sub --strategies probe tail full [--backbone NAME] [--recipe refit=no]
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from graft.jobs.fit import fit
from graft.training.strategies import STRATEGIES

TRAINED = [name for name in STRATEGIES if name not in ("direct", "probe", "early-features")]


def main() -> None:
    """One row for each data set and strategy; the gain is over the first strategy of the list."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--strategies", nargs="+", default=["probe", "early-features", *TRAINED])
    parser.add_argument("--backbone")
    parser.add_argument("--recipe")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("| data set | strategy | accuracy % (95 %) | gain | seconds | of the first's | forward passes an image |")
    print("|---|---|---|---|---|---|---|")
    for name in options.names:
        first = None
        for strategy in options.strategies:
            trains = strategy.partition(":")[0] in TRAINED
            recipe = options.recipe if trains else None
            report, seconds = timed(
                options.data / name, strategy=strategy, backbone=options.backbone, recipe=recipe, seed=options.seed
            )
            first = first or (report["evaluation"]["accuracy"], seconds)
            print(row(name, strategy, report, seconds, *first), flush=True)


def timed(source: Path, **options: Any) -> tuple[dict, float]:
    """(report, seconds) of a fit with nothing cached."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GRAFT_CACHE"] = cache
        start = time.perf_counter()
        report = fit(source, **options).report
        return report, time.perf_counter() - start


def row(name: str, strategy: str, report: dict, seconds: float, accuracy: float, others: float) -> str:
    """One line of the table."""
    score = report["evaluation"]
    low, high = score["interval"]
    cells = (
        name,
        f"`{strategy}`",
        f"**{100 * score['accuracy']:.1f}** ({100 * low:.1f} to {100 * high:.1f})",
        f"{100 * (score['accuracy'] - accuracy):+.1f}",
        f"{seconds:.0f}",
        f"{seconds / others:.1f}",
        f"{report.get('forward_equivalents', 1.0):.1f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
