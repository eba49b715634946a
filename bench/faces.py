"""People by a few photos each, and nobody else: enrolled by the mean of their features, no training.

python bench/faces.py ../shared/data/orl_faces40
GRAFT_WEIGHTS=../shared/weights python bench/faces.py ../shared/data/orl_faces40 \\
  --backbones tf_efficientnet_lite0 mobilenetv2_100 squeezenet1_1 deit_tiny_patch16_224

Ten draws: half of the people are enrolled with 1 or 5 photos, the others are strangers. Each figure is a mean over the
draws, which are the same for every network. EER is the error rate where as many are wrongly refused as wrongly
accepted: of claims ('this is Ann'), and of people at the door, known or strange.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from graft.backbones.catalog import DEFAULT
from graft.jobs.embed import embed

DRAWS, TESTED = 10, 5


def main() -> None:
    """One row for each network and number of photos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--backbones", nargs="+", default=[DEFAULT])
    options = parser.parse_args()
    print("| network | photos a person | who is it: right | claims: EER | strangers: EER |\n|---|---|---|---|---|")
    for backbone in options.backbones:
        table = embed(options.photos, backbone=backbone, all_layers=True)
        features, people = unit(table.features), np.array(table.labels)
        for count in (1, 5):
            found = np.mean([draw(features, people, count, seed) for seed in range(DRAWS)], axis=0)
            print(f"| {backbone} | {count} | {' | '.join(f'{value:.1%}' for value in found)} |", flush=True)


def draw(
    features: NDArray[np.float32], people: NDArray[np.integer], count: int, seed: int
) -> tuple[float, float, float]:
    """(accuracy, EER of claims, EER of strangers) for one choice of people and photos."""
    random = np.random.default_rng(seed)
    everybody = random.permutation(people.max() + 1)
    known, strange = np.split(everybody, [len(everybody) // 2])
    rows = [random.permutation(np.flatnonzero(people == person)) for person in known]
    enrolled = unit(np.stack([features[own[:count]].mean(axis=0) for own in rows]))
    tested = np.concatenate([own[-TESTED:] for own in rows])
    alike = features[tested] @ enrolled.T
    own = people[tested][:, None] == known
    strangers = (features[np.isin(people, strange)] @ enrolled.T).max(axis=1)
    right = float((alike.argmax(axis=1) == own.argmax(axis=1)).mean())
    return right, equal_errors(alike[own], alike[~own]), equal_errors(alike.max(axis=1), strangers)


def unit(rows: NDArray[np.floating]) -> NDArray[np.floating]:
    """Rows of length 1."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def equal_errors(genuine: NDArray[np.floating], others: NDArray[np.floating]) -> float:
    """The error rate at the threshold where both kinds of error are equally frequent."""
    truth = np.r_[np.ones(len(genuine)), np.zeros(len(others))]
    accepted, found, _ = roc_curve(truth, np.r_[genuine, others])
    at = int(np.abs(1 - found - accepted).argmin())
    return float((1 - found[at] + accepted[at]) / 2)


if __name__ == "__main__":
    main()
