"""Accuracy against wall time: strategies of graft, a plain script of fine-tuning, and fastai, each from start to score.

python bench/finetune.py ../shared/data rsscn7_sub gtsrb43_sub --plain ../shared/sketch/plain_finetune/finetune.py \
    --table finetune.csv --picture finetune.svg

Each point is a process of its own with nothing cached, and a whole schedule: with --epochs 3 6 12 whatever trains all
is run three times. Measured is what the process takes, so nothing else should run. What the table has already is not
measured again. fastai is measured where it is installed.
"""

import argparse
import csv
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

Key = tuple[str, str, str]  # data set, way, seed
Point = tuple[float, float]  # seconds, accuracy in %

OURS = ("probe", "tail", "lp-ft", "full")
COLOURS = {"graft": "#1f6feb", "plain": "#d1242f", "fastai": "#8250df"}
WIDTH, HEIGHT, LEFT, TOP = 300, 190, 40, 26  # of a panel, in pixels


def main() -> None:
    """Measure what the table lacks, print all of it, and draw a panel for each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--epochs", nargs="+", type=int, default=[3, 6, 12, 24])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument(
        "--plain", type=Path, help="a script: python SCRIPT DATA EPOCHS, its last line JSON with a curve"
    )
    parser.add_argument("--table", type=Path, default=Path("finetune.csv"))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    done = read(options.table)
    for name in options.names:
        for way, seed in list_ways(options):
            key = (name, way, str(seed))
            if key not in done:
                done[key] = measure(options, options.data / name, way, seed)
                with options.table.open("a", newline="") as file:
                    csv.writer(file).writerow([*key, *done[key]])
    print("| data set | way | seconds | accuracy % of each seed |\n|---|---|---|---|")
    for name in options.names:
        for way in dict.fromkeys(way for way, _ in list_ways(options)):
            found = [done[name, way, str(seed)] for one, seed in list_ways(options) if one == way]
            scores = ", ".join(f"{accuracy:.1f}" for _, accuracy in found)
            print(f"| {name} | `{way}` | {mean(seconds for seconds, _ in found):.0f} | {scores} |")
    if options.picture:
        options.picture.write_text(draw({name: curves(done, name) for name in options.names}))


def list_ways(options: argparse.Namespace) -> list[tuple[str, int]]:
    """(way, seed) of all that is to be measured; the scripts of others have one seed."""
    ours = [way for way in OURS if way in ("probe", "tail")]
    ours += [f"{way} {epochs}" for way in OURS if way not in ours for epochs in options.epochs]
    others = [f"plain {epochs}" for epochs in options.epochs] if options.plain else []
    others += [f"fastai {epochs}" for epochs in options.epochs] if importlib.util.find_spec("fastai") else []
    return [(way, seed) for way in ours for seed in range(options.seeds)] + [(way, 0) for way in others]


def measure(options: argparse.Namespace, source: Path, way: str, seed: int) -> Point:
    """(seconds, accuracy in %) of a process."""
    kind, _, epochs = way.partition(" ")
    with tempfile.TemporaryDirectory() as folder:
        if kind in OURS:
            words = [sys.executable, "-m", "graft", "fit", source, "-o", f"{folder}/model", "--strategy", kind]
            words += ["--seed", seed, "--backbone", options.backbone, "--offline", "--no-report"]
            words += ["--recipe", f"epochs={epochs}"] if epochs else []
        elif kind == "plain":
            words = [sys.executable, options.plain, source, epochs]
        else:
            words = [sys.executable, Path(__file__).with_name("with_fastai.py"), source, "--epochs", epochs]
        start = time.perf_counter()
        environment = {**os.environ, "GRAFT_CACHE": f"{folder}/cache"}
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True, env=environment)
        seconds = time.perf_counter() - start
        if kind in OURS:
            accuracy = 100 * json.loads(Path(folder, "model/report.json").read_text())["evaluation"]["accuracy"]
        else:
            last = done.stdout.strip().splitlines()[-1]
            accuracy = json.loads(last)["curve"][-1][1] if kind == "plain" else 100 * float(last.split()[0])
    return round(seconds, 1), round(accuracy, 2)


def read(table: Path) -> dict[Key, Point]:
    """What was measured before."""
    if not table.exists():
        return {}
    with table.open(newline="") as file:
        return {(cells[0], cells[1], cells[2]): (float(cells[3]), float(cells[4])) for cells in csv.reader(file)}


def curves(done: dict[Key, Point], name: str) -> dict[str, list[Point]]:
    """For each of COLOURS the points of this data set by time: means over the seeds."""
    lines: dict[str, list[Point]] = {each: [] for each in COLOURS}
    for way in dict.fromkeys(way for data, way, _ in done if data == name):
        found = [point for (data, one, _), point in done.items() if (data, one) == (name, way)]
        kind = way.partition(" ")[0]
        lines[kind if kind in COLOURS else "graft"].append((mean(s for s, _ in found), mean(a for _, a in found)))
    return {each: sorted(points) for each, points in lines.items() if points}


def draw(panels: dict[str, dict[str, list[Point]]]) -> str:
    """An SVG with a panel for each data set: what the best so far reaches, over seconds on a logarithmic scale."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {math.ceil(len(panels) / 2) * HEIGHT}" '
        'font-family="sans-serif" font-size="10">'
    ]
    for place, (name, lines) in enumerate(panels.items()):
        parts.append(f'<g transform="translate({place % 2 * WIDTH},{place // 2 * HEIGHT})">')
        parts += draw_panel(name, lines)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"])


def draw_panel(name: str, lines: dict[str, list[Point]]) -> list[str]:
    """One data set."""
    points = [point for line in lines.values() for point in line]
    seconds, accuracies = ([point[axis] for point in points] for axis in (0, 1))
    first, last, low, high = math.log(min(seconds)), math.log(max(seconds)), min(accuracies), max(accuracies)

    def at(seconds: float, accuracy: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - 20) * (math.log(seconds) - first) / max(last - first, 1e-9)
        return x, TOP + (HEIGHT - TOP - 34) * (high - accuracy) / max(high - low, 1e-9)

    parts = [f'<text x="{LEFT}" y="14" font-weight="bold" fill="#888">{name}</text>']
    for each in (low, high):
        y = at(math.exp(first), each)[1] + 3
        parts.append(f'<text x="{LEFT - 6}" y="{y:.0f}" text-anchor="end" fill="#888">{each:.0f} %</text>')
    for each in (first, last):
        x = at(math.exp(each), low)[0]
        parts.append(
            f'<text x="{x:.0f}" y="{HEIGHT - 16}" text-anchor="middle" fill="#888">{math.exp(each):.0f} s</text>'
        )
    for place, (kind, line) in enumerate(lines.items()):
        best, path = -math.inf, ""
        for seconds, accuracy in line:
            x, y = at(seconds, accuracy)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[kind]}"/>')
            if accuracy > best:
                path += f"H{x:.1f}V{y:.1f}" if path else f"M{x:.1f},{y:.1f}"
                best = accuracy
        path += f"H{WIDTH - 20}"
        parts.append(f'<path d="{path}" fill="none" stroke="{COLOURS[kind]}"/>')
        parts.append(
            f'<text x="{WIDTH - 20 - 60 * place}" y="14" text-anchor="end" fill="{COLOURS[kind]}">{kind}</text>'
        )
    return parts


if __name__ == "__main__":
    main()
