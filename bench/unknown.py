"""Images of other data sets as outsiders: how well the classifier of one set calls them unknown.

python bench/unknown.py ../shared/data [--set flowers5] [--backbone NAME] [--scores]

With --scores it compares ways to tell on the same features instead: cosine to the nearest, Mahalanobis, energy.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import oas
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from graft.backbones.graph import normalise_rows
from graft.data import dataset as table
from graft.data.dataset import TEST, Dataset
from graft.data.readers.source import read_source
from graft.jobs.fit import fit
from graft.metrics.unknown import energy_scores, nearest_neighbours
from graft.model.classifier import Classifier
from graft.model.network import iterate_batches
from graft.progress import no_progress
from graft_runtime.decide import UNKNOWN_RATE

OUTSIDERS = ("clothing10", "neu_steel6", "rsscn7_sub", "digits")
Array = NDArray[Any]


def main() -> None:
    """Print one row for each set of outsiders, or for each score and set."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", default="flowers5")
    parser.add_argument("--backbone", default=None)
    parser.add_argument("--strategy", default="probe")
    parser.add_argument("--recipe", default=None)
    parser.add_argument("--scores", action="store_true")
    options = parser.parse_args()
    classifier = fit(
        options.data / options.set, strategy=options.strategy, recipe=options.recipe, backbone=options.backbone
    )
    others = {name: images(options.data, name) for name in OUTSIDERS if name != options.set}
    if options.scores:
        every_score(classifier, read_source(options.data / options.set), others)
    else:
        as_shipped(classifier, others)


def as_shipped(classifier: Classifier, others: dict[str, Dataset]) -> None:
    """What `graft predict` does, at the share that is allowed for."""
    assert classifier.memory
    assert classifier.memory.known
    assert classifier.memory.tested
    inside, limit = classifier.memory.tested.strange, classifier.memory.known.unknown_threshold(UNKNOWN_RATE)
    print(
        f"{len(inside)} test images, {np.mean(inside > limit):.1%} of them called unknown "
        f"({UNKNOWN_RATE:.0%} allowed)\n"
    )
    print("| outsiders | images | AUROC | called unknown % |\n|---|---|---|---|")
    for name, data in others.items():
        near = classifier.run_forward(data).near
        assert near
        found = np.mean(near.scores > limit)
        print(f"| {name} | {len(data)} | {area(inside, near.scores):.4f} | {100 * found:.1f} |", flush=True)


def every_score(classifier: Classifier, data: Dataset, others: dict[str, Dataset]) -> None:
    """The same by other scores, all from the last layer: is the one that was chosen the best?"""
    rows = data.split == TEST
    train, inside = said(classifier, data.take(~rows)), said(classifier, data.take(rows))
    found = {name: said(classifier, each) for name, each in others.items()}
    print(f"| score | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for name, score in scores(*train, data.labels[~rows]).items():
        own = score(*inside)
        areas = [f"{area(own, score(*each)):.4f}" for each in found.values()]
        print(f"| {name} | {' | '.join(areas)} |", flush=True)


def scores(last: Array, logits: Array, labels: Array) -> dict[str, Any]:
    """Ways to tell how strange an image is, from its last features and logits."""
    means = np.stack([last[labels == label].mean(axis=0) for label in np.unique(labels)])
    centre, spread = last.mean(axis=0), last.std(axis=0) + 1e-6
    within, whole = oas(last - means[labels])[0], oas(last - centre)[0]
    inner, outer = np.linalg.inv(within), np.linalg.inv(whole)

    def distance(features: Array, mean: Array, inverse: Array) -> Array:
        apart = features - mean
        return np.einsum("ij,jk,ik->i", apart, inverse, apart, optimize=True)

    def mahalanobis(features: Array, _: Array) -> Array:
        return np.min([distance(features, mean, inner) for mean in means], axis=0)

    def cosine(features: Array, middle: Array | float, scale: Array | float) -> Array:
        return nearest_neighbours(
            normalise_rows((last - middle) / scale).astype(np.float16), (features - middle) / scale
        ).scores

    return {
        "cosine to the five nearest (chosen)": lambda features, _: cosine(features, 0.0, 1.0),
        "the same, features centred": lambda features, _: cosine(features, centre, 1.0),
        "the same, features standardised": lambda features, _: cosine(features, centre, spread),
        "Mahalanobis": mahalanobis,
        "relative Mahalanobis": lambda features, _: mahalanobis(features, _) - distance(features, centre, outer),
        "energy": lambda _, logits: energy_scores(logits, False),
        "1 - probability": lambda _, logits: -classifier_free(logits),
    }


def classifier_free(logits: Array) -> Array:
    """The largest probability, without calibration, which does not change the order by much."""
    return np.exp(logits.max(axis=1) - np.logaddexp.reduce(logits.astype(float), axis=1))


def said(classifier: Classifier, data: Dataset) -> tuple[Array, Array]:
    """(features of the last layer, logits) of each image."""
    parts = [(each.reference, each.logits) for each in iterate_batches(classifier.network, (), data, no_progress, {})]
    last, logits = zip(*parts, strict=True)
    return np.concatenate(last), np.concatenate(logits)


def images(folder: Path, name: str) -> Dataset:
    """All images of a data set, or scikit-learn's digits."""
    if name == "digits":
        return table.from_arrays([np.uint8(each * 255 / 16) for each in load_digits().images])
    return read_source(folder / name)


def area(inside: Array, outside: Array) -> float:
    """How often an outsider is stranger than a test image."""
    truth = np.r_[np.zeros(len(inside)), np.ones(len(outside))]
    return float(roc_auc_score(truth, np.r_[inside, outside]))


if __name__ == "__main__":
    main()
