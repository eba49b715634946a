"""Mixup and label smoothing where an image may have several labels: with and without, on the same images and seeds.

python bench/several.py ../shared/data/msrc_multilabel
"""

import argparse
import warnings
from pathlib import Path

from graft.jobs.fit import fit

WAYS = ("mixup=0.4,smoothing=0.1", "mixup=0,smoothing=0", "mixup=0.4,smoothing=0", "mixup=0,smoothing=0.1")


def main() -> None:
    """One row for each way; the first is the default for images with one label.

    Without a blend the trained weights count, whatever the held-out images say of them.
    """
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--strategy", default="tail")
    parser.add_argument("--recipe", default="epochs=6,refit=no,blend=none")
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| recipe | mean average precision % of each seed | mean | log-loss of each seed | mean | blend |")
    print("|---|---|---|---|---|---|")
    for way in options.ways:
        print(row(options, way), flush=True)


def row(options: argparse.Namespace, way: str) -> str:
    """One line of the table; the blend is how much of the trained weights was kept, by the held-out images."""
    precisions, losses, shares = [], [], []
    for seed in range(options.seeds):
        recipe = f"{options.recipe},{way}"
        report = fit(options.data, strategy=options.strategy, recipe=recipe, seed=seed, offline=True).report
        precisions.append(100 * report["evaluation"]["mean_average_precision"])
        losses.append(report["evaluation"]["log_loss"])
        shares.append(report["training"]["blend"]["share"])
    count = options.seeds
    cells = (
        f"`{way}`",
        ", ".join(f"{each:.1f}" for each in precisions),
        f"{sum(precisions) / count:.1f}",
        ", ".join(f"{each:.4f}" for each in losses),
        f"{sum(losses) / count:.4f}",
        ", ".join(f"{each:.1f}" for each in shares),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
