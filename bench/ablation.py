"""What each part of a training recipe is worth: `full` with its defaults, and with one thing changed at a time.

python bench/ablation.py ../shared/data rsscn7_sub neu_steel6 --seeds 3 --table ablation.csv

Each cell is a whole `fit`, scored on the test images. A cell that is in the table already is not measured again, so
that an interrupted run goes on; without --causes all of CAUSES are measured.
"""

import argparse
import csv
import warnings
from pathlib import Path

import numpy as np
from strategies import timed

CAUSES = {  # what is changed: (recipe, head)
    "nothing": ("", ""),
    "head at the rate of all": ("backbone_rate=1,rate=3e-4", ""),
    "all at the rate of the head": ("backbone_rate=1", ""),
    "rates that fall with depth": ("layer_decay=0.9", ""),
    "a head of random numbers": ("", "linear:init=normal"),
    "a third of the epochs": ("epochs=6", ""),
    "batch of 64": ("batch=64", ""),
    "no smoothing": ("smoothing=0", ""),
    "mixup": ("mixup=0.4", ""),
    "no crops": ("augment=flip", ""),
    "bold crops": ("augment=crop=0.08+flip", ""),
    "no weight decay": ("weight_decay=0", ""),
    "weight decay 0.1": ("weight_decay=0.1", ""),
    "constant rate": ("schedule=constant", ""),
    "no warm-up": ("warmup=0", ""),
    "moving average": ("ema=0.99", ""),
    "batch norm trained": ("batch_norm=train", ""),
    "chosen by accuracy": ("metric=accuracy", ""),
    "no clip": ("clip=0", ""),
    "no refit": ("refit=no", ""),
}


def main() -> None:
    """Measure what the table lacks, then print one line for each cause: the mean over seeds, by data set."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--causes", nargs="+", choices=CAUSES, default=list(CAUSES))
    parser.add_argument("--strategy", default="full")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", type=Path, default=Path("ablation.csv"))
    options = parser.parse_args()
    done = read(options.table)
    for name in options.names:
        for seed in range(options.seeds):
            for cause in options.causes:
                key = (options.strategy, name, cause, str(seed))
                if key not in done:
                    done[key] = measure(options.data / name, options.strategy, cause, seed)
                    with options.table.open("a", newline="") as file:
                        csv.writer(file).writerow([*key, *done[key]])
    print(f"| `{options.strategy}` with | {' | '.join(options.names)} | mean difference |")
    print(f"|---|{'---|' * len(options.names)}---|")
    for cause in options.causes:
        print(row(options, cause, done))


def read(table: Path) -> dict[tuple[str, ...], tuple[float, float]]:
    """(accuracy %, seconds) of each cell that was measured."""
    if not table.exists():
        return {}
    with table.open(newline="") as file:
        return {tuple(cells[:4]): (float(cells[4]), float(cells[5])) for cells in csv.reader(file)}


def measure(source: Path, strategy: str, cause: str, seed: int) -> tuple[float, float]:
    """(accuracy in %, seconds) of a fit with nothing cached."""
    recipe, head = CAUSES[cause]
    report, seconds = timed(source, strategy=strategy, recipe=recipe or None, head=head or None, seed=seed)
    return round(100 * report["evaluation"]["accuracy"], 2), round(seconds, 1)


def row(options: argparse.Namespace, cause: str, done: dict[tuple[str, ...], tuple[float, float]]) -> str:
    """One line of the table; the difference is that to the defaults on the same sets and seeds."""
    found = np.array(
        [[done[options.strategy, name, cause, str(seed)][0] for seed in range(options.seeds)] for name in options.names]
    )
    usual = np.array(
        [
            [done.get((options.strategy, name, "nothing", str(seed)), (np.nan,))[0] for seed in range(options.seeds)]
            for name in options.names
        ]
    )
    cells = [f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})" for values in found]
    return f"| {cause} | {' | '.join(cells)} | {(found - usual).mean():+.1f} |"


if __name__ == "__main__":
    main()
