"""Time to fastai's final accuracy: its `fine_tune` against graft, the same network, weights, images; whole processes.

python bench/peers.py ../shared/data/rsscn7_sub --python OTHER/bin/python [--epochs 4]

OTHER is an environment with fastai (and graft, for the network and its weights): fastai is not one of graft's packages.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
STRATEGIES = ("probe", "tail", "lp-ft")  # in the order of their cost


def main() -> None:
    """Print both sides' accuracy and seconds, and the ratio for the cheapest strategy that is as accurate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    command = [options.python, str(HERE / "with_fastai.py"), str(options.photos), "--epochs", str(options.epochs)]
    said, seconds = timed(command)
    theirs = float(said.split()[0])
    print(f"fastai fine_tune({options.epochs}): {theirs:.4f} in {seconds:.0f} s", flush=True)
    for strategy in STRATEGIES:
        with tempfile.TemporaryDirectory() as folder:
            fit = [sys.executable, "-m", "graft", "fit", str(options.photos), "-o", f"{folder}/model"]
            said, ours = timed([*fit, "-s", strategy, "--json", "-q"], GRAFT_CACHE=f"{folder}/cache")
        accuracy = json.loads(said)["evaluation"]["accuracy"]
        print(f"graft {strategy}: {accuracy:.4f} in {ours:.0f} s, {ours / seconds:.2f} of fastai's time", flush=True)
        if accuracy >= theirs:
            break


def timed(command: list[str], **changed: str) -> tuple[str, float]:
    """(standard output, seconds) of a whole process."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | changed)
    return done.stdout, time.perf_counter() - start


if __name__ == "__main__":
    main()
