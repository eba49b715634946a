"""A class is added to a classifier: how long that takes after embedding, and how far it is from a fit from scratch.

python bench/update.py ../shared/data [--sets flowers5] [--heads ridge ncm]

Of each data set, the last class is left out of a fit, and then added by an update with 100 of its training images and
all of its test images; a fit from scratch gets the same images in the same parts. All are cached before, and no
report is written. Seconds are those of the processor in brackets, too, as other work may go on. The difference is that
of logits on all test images.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.backbones.backbone import load_backbone
from graft.backbones.features import build_probe_features
from graft.data.dataset import TEST, TRAIN, Dataset
from graft.data.readers.folder import read_folder
from graft.features.embed import Embeddings, embed
from graft.jobs.fit import fit
from graft.jobs.update.update import update
from graft.model.classifier import Classifier

HEADS = ("ridge", "lda", "ncm", "knn", "logistic")
MANY = 100  # training images of the new class
EMBEDDING = ("embed images", "load network", "read images")


def main() -> None:
    """Print a table for bench/README.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=["flowers5"])
    parser.add_argument("--heads", nargs="+", default=HEADS)
    options = parser.parse_args()
    print(
        "| data set | head | training images | update s (CPU) | fit s (CPU) | after embedding: update s, fit s |",
        end="",
    )
    print(" largest difference of a logit |\n|---|---|---|---|---|---|---|", flush=True)
    for name in options.sets:
        for head in options.heads:
            measure(options.data, name, head)


def measure(data: Path, name: str, head: str) -> None:
    """One line of the table."""
    whole = read_folder(data / name)
    embedded = embed(build_probe_features(load_backbone(offline=True)), whole)
    last = len(whole.classes) - 1
    fresh = np.flatnonzero(whole.labels == last)
    fresh = np.r_[fresh[whole.split[fresh] == TRAIN][:MANY], fresh[whole.split[fresh] == TEST]]
    rest = np.flatnonzero(whole.labels != last)
    new = whole.take(fresh)
    new = replace(new, classes=whole.classes[last:], labels=np.zeros(len(new), np.int32))
    strategy = f"probe:head={head},layers=all"
    old = fit(replace(whole.take(rest), classes=whole.classes[:-1]), strategy=strategy, offline=True)
    both = whole.take(np.sort(np.r_[rest, fresh]))
    one, spent = timed(lambda: update(old, add=new, allow_worse=True))
    two, again = timed(lambda: fit(both, strategy=strategy, offline=True))
    far = np.abs(logits(one, embedded, whole) - logits(two, embedded, whole)).max()
    after = [sum(own for what, own in each.report["seconds"].items() if what not in EMBEDDING) for each in (one, two)]
    print(f"| {name} | {head} | {one.report['data']['train']:,} | {spent[0]:.1f} ({spent[1]:.1f}) ", end="")
    print(f"| {again[0]:.1f} ({again[1]:.1f}) | {after[0]:.1f}, {after[1]:.1f} | {far:.1e} |", flush=True)


def logits(classifier: Classifier, embedded: Embeddings, whole: Dataset) -> np.ndarray:
    """Of all test images, the classes in the order of the data set."""
    order = [classifier.classes.index(name) for name in whole.classes]
    return classifier.network.head(embedded[whole.part(TEST)])[:, order]


def timed(job: Callable[[], Classifier]) -> tuple[Classifier, tuple[float, float]]:
    """What the job made, and its seconds by the clock and of the processor."""
    wall, own = time.perf_counter(), time.process_time()
    made = job()
    return made, (time.perf_counter() - wall, time.process_time() - own)


if __name__ == "__main__":
    main()
