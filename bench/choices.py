"""The measurements behind three defaults: batch size on the CPU, the near-duplicate threshold, the weight of layers.

python bench/choices.py ../shared/data
"""

import statistics
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.backbones import graph as graphs
from graft.backbones.backbone import Backbone, load_backbone
from graft.backbones.features import Features, build_probe_features
from graft.data import duplicates
from graft.data.dataset import TEST, TRAIN
from graft.data.readers.folder import read_folder
from graft.features.embed import embed
from graft.heads import head as problems
from graft.heads import linear
from graft.training.material import Material, prepare_material

SETS = ("flowers5", "clothing10", "rsscn7_sub", "neu_steel6", "orl_faces40", "grocery81", "gtsrb43_sub")
THRESHOLDS = (0.97, 0.9, 0.85, 0.8, 0.7)


def main() -> None:
    """Print three tables."""
    warnings.simplefilter("ignore")
    start = load_backbone()
    batches(start)
    frozen = build_probe_features(start)
    materials = {name: loaded(Path(sys.argv[1]) / name, frozen) for name in SETS}
    thresholds(materials, frozen)
    weights(materials, frozen)


def loaded(folder: Path, frozen: Features) -> Material:
    """The data set with its features, in the state in which `fit` solves the head."""
    data = read_folder(folder)
    return prepare_material(data, embed(frozen, data), 0)


def batches(start: Backbone, rounds: int = 5) -> None:
    """Images per second of the compiled network by batch size, in turns."""
    size = start.preprocess.size
    images = np.random.default_rng(0).integers(0, 256, (128, 3, size, size)).astype(np.uint8)
    runs = {}
    for batch in (1, 2, 4, 8, 16, 32, 64):
        runs[batch] = graphs.open_session(start.graph)
        runs[batch].batch = batch
    rates: dict[int, list[float]] = {batch: [] for batch in runs}
    for _ in range(rounds):
        for batch, run in runs.items():
            begin = time.perf_counter()
            run.run(images, [graphs.TOP])
            rates[batch].append(len(images) / (time.perf_counter() - begin))
    print("| batch | images/s (median) |\n|---|---|")
    for batch, each in rates.items():
        print(f"| {batch} | {statistics.median(each):.0f} |")


def thresholds(materials: dict[str, Material], frozen: Features) -> None:
    """For each cosine: images with a near-duplicate, groups that mix classes, and the honest accuracy it leaves."""
    print("\nEach cell: images in a group / groups of several classes / leave-one-group-out accuracy %\n")
    print(f"| data set | {' | '.join(map(str, THRESHOLDS))} | test % |\n|{'---|' * (len(THRESHOLDS) + 2)}")
    usual = duplicates.DUPLICATE_COSINE
    for name, material in materials.items():
        cells = []
        for duplicates.DUPLICATE_COSINE in THRESHOLDS:
            cells.append(grouped(material, frozen))
        duplicates.DUPLICATE_COSINE = usual
        print(f"| {name} | {' | '.join(cells)} | {tested(material, frozen, None):.1f} |", flush=True)


def grouped(material: Material, frozen: Features) -> str:
    """One cell of the table of thresholds."""
    train = material.train
    groups = duplicates.group_near_duplicates(material.embeddings.select(train), material.embeddings.digests[train])
    sizes = np.bincount(groups)
    mixed = sum(len(set(material.data.labels[train][groups == group])) > 1 for group in np.flatnonzero(sizes > 1))
    problem = replace(material.build_problems(frozen.widths, 1)["all"], groups=groups)
    accuracy = linear.solve_ridge(problem).accuracy(problem.labels)
    return f"{(sizes[groups] > 1).sum()} / {mixed} / {100 * accuracy:.1f}"


def weights(materials: dict[str, Material], frozen: Features) -> None:
    """Test accuracy of ridge on the last layer, on all layers as they come, and on all with equal norm."""
    print("\n| data set | last layer | all layers, unweighted | all layers, equal norm |\n|---|---|---|---|")
    sums = np.zeros(3)
    for name, material in materials.items():
        scores = np.array([tested(material, frozen, how) for how in ("last", "plain", None)])
        sums += scores
        print(f"| {name} | {' | '.join(f'{score:.1f}' for score in scores)} |", flush=True)
    print(f"| **mean** | {' | '.join(f'{score:.1f}' for score in sums / len(materials))} |")


def tested(material: Material, frozen: Features, how: str | None) -> float:
    """Accuracy % on the test images."""
    problem = material.build_problems(frozen.widths, 1)["last" if how == "last" else "all"]
    if how == "plain":
        mean, spread = duplicates.mean_and_std(material.embeddings.select(material.train))
        plain = problems.StandardisedFeatures(problem.features.features, mean, 1 / spread, problem.features.columns)
        problem = replace(problem, features=plain)
    test = np.flatnonzero(material.data.split == TEST)
    features = material.embeddings[test][:, problem.features.columns]
    answers = linear.solve_ridge(problem).head(features).argmax(1)
    assert (material.data.split[material.train] == TRAIN).all()
    return float(100 * (answers == material.data.labels[test]).mean())


if __name__ == "__main__":
    main()
