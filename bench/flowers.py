"""From nothing to a saved, scored classifier: `graft fit` against timm + scikit-learn by hand, whole processes in turn.

python bench/flowers.py ../shared/data/flowers5 [--rounds 3]

Each runs once before it is measured, so that its bytecode is there, as it is after the first use of what is installed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Print wall times, their ratio pair by pair, and both accuracies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pairs, bytecode = [], tempfile.TemporaryDirectory()
    for turn in range(options.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            fit = [sys.executable, "-m", "graft", "fit", str(options.photos), "--json", "-q", "-o"]
            hand = [sys.executable, str(HERE / "handwritten.py"), str(options.photos)]
            ours = timed([*fit, f"{folder}/model"], folder, bytecode.name)
            again = timed([*fit, f"{folder}/again"], folder, bytecode.name)
            theirs = timed([*hand, f"{folder}/head"], folder, bytecode.name)
        if not turn:
            continue
        pairs.append((ours, again, theirs))
        report = json.loads(again[1])
        print(
            f"graft {ours[0]:.1f} s, again with cached features {again[0]:.1f} s "
            f"(after start-up {after_start_up(report['seconds']):.1f} s), by hand {theirs[0]:.1f} s; "
            f"accuracy {report['evaluation']['accuracy']:.4f} against {theirs[1].strip()}",
            flush=True,
        )
    print(f"\nmedian ratio of wall times, graft / by hand: {statistics.median(o[0] / t[0] for o, _, t in pairs):.2f}")
    print(f"the same with cached features: {statistics.median(a[0] / t[0] for _, a, t in pairs):.2f}")


def after_start_up(seconds: dict[str, float]) -> float:
    """What a fit took once everything was imported."""
    return sum(spent for what, spent in seconds.items() if what != "start-up")


def timed(command: list[str], folder: str, bytecode: str) -> tuple[float, str]:
    """(seconds, standard output) of a whole process that may only cache in this folder."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env = kept | {"GRAFT_CACHE": f"{folder}/cache", "PYTHONPYCACHEPREFIX": bytecode}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    main()
