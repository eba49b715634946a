"""Accuracy and seconds of `fit` with all defaults on every data set of a folder.

python bench/accuracy.py ../shared/data [--strategy probe] [NAME ...]
"""

import argparse
import time
import warnings
from pathlib import Path

from graft.jobs.fit import fit


def main() -> None:
    """Print one row for each data set that has a train and a test folder."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--strategy", default="probe")
    options = parser.parse_args()
    found = sorted(path.parent.name for path in options.data.glob("*/train"))
    print(
        "| data set | train + test | classes | accuracy % (95 %) | out of fold % | log-loss | head, layers | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.names or found:
        start = time.perf_counter()
        report = fit(options.data / name, strategy=options.strategy).report
        print(row(name, report, time.perf_counter() - start), flush=True)


def row(name: str, report: dict, seconds: float) -> str:
    """One line of the table."""
    score, data, head = report["evaluation"], report["data"], report["head"]
    low, high = score["interval"]
    cells = (
        name,
        f"{data['train']} + {data['test']}",
        len(report["classes"]),
        f"**{score['accuracy']:.1%}** ({low:.1%} to {high:.1%})".replace("%", ""),
        f"{100 * report['out_of_fold_accuracy']:.1f}",
        f"{score['log_loss']:.3f}",
        f"{head['name']}, {head['layers']}",
        f"{seconds:.1f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
