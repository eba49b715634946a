"""How a new linear head begins where the whole network is trained: at zero, or at random weights.

python bench/start.py ../shared/data caltech5_tiny rsscn7_sub
"""

import argparse
import warnings
from pathlib import Path

from graft.jobs.fit import fit
from graft.torch.head import INITIALISERS

RECIPE = "epochs=3,refit=no"


def main() -> None:
    """One row for each data set and way to begin; the seed decides the weights, the held-out images and each epoch."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--strategy", default="full")
    parser.add_argument("--backbone")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--inits", nargs="+", default=["zero", "normal"], choices=list(INITIALISERS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| data set | head begins at | accuracy % of each seed | mean | log-loss, mean | first epoch's loss, mean |")
    print("|---|---|---|---|---|---|")
    for name in options.names:
        for init in options.inits:
            print(row(options, name, init), flush=True)


def row(options: argparse.Namespace, name: str, init: str) -> str:
    """One line of the table."""
    accuracies, losses, firsts = [], [], []
    for seed in range(options.seeds):
        report = fit(
            options.data / name,
            strategy=options.strategy,
            head=f"linear:init={init},seed={seed}",
            recipe=options.recipe,
            backbone=options.backbone,
            seed=seed,
            offline=True,
        ).report
        accuracies.append(100 * report["evaluation"]["accuracy"])
        losses.append(report["evaluation"]["log_loss"])
        firsts.append(report["training"]["history"][0]["loss"])
    count = options.seeds
    means = f"{sum(accuracies) / count:.1f} | {sum(losses) / count:.3f} | {sum(firsts) / count:.3f}"
    return f"| {name} | {init} | {', '.join(f'{each:.1f}' for each in accuracies)} | {means} |"


if __name__ == "__main__":
    main()
