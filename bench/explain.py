"""Whether heat maps point at what decides: the answer's probability with the hottest places of an image greyed out.

python bench/explain.py ../shared/data/flowers5 [--share 0.2]

The same number of places is greyed out by heat, at random, and the coldest; each with the mean colour of the image.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from graft.data.readers.source import read_source
from graft.features.embed import prepare_image
from graft.jobs.fit import fit
from graft.model.classifier import Classifier
from graft.model.explain import GRID, saliency_maps


def main() -> None:
    """One row for each data set."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--share", type=float, default=0.2)
    options = parser.parse_args()
    print(f"Mean probability of the answer, {options.share:.0%} of the places greyed out\n")
    print("| data set | images | as it is | hottest | at random | coldest |\n|---|---|---|---|---|---|")
    for source in options.sets:
        judge = fit(source)
        data = read_source(source / "test")
        rows = np.arange(len(data))[:: max(1, len(data) // 200)]
        seen = [prepare_image(judge.network.preprocess, data.read(int(row))) for row in rows]
        found = np.array([judged(judge, image, round(options.share * GRID**2)) for image in seen])
        print(
            f"| {source.name} | {len(rows)} | {' | '.join(f'{value:.3f}' for value in found.mean(axis=0))} |",
            flush=True,
        )


def judged(judge: Classifier, image: NDArray[np.uint8], count: int) -> NDArray[np.float64]:
    """The answer's probability: as it is, without the hottest places, without random ones, without the coldest."""
    answer = int(judge.network(image[None]).argmax())
    places, whole = saliency_maps(judge.network, image[None], [answer])[0].flatten(), torch.from_numpy(image)[None]
    orders = (np.argsort(-places), np.random.default_rng(0).permutation(len(places)), np.argsort(places))
    variants = torch.cat([whole, *(greyed(whole, order[:count]) for order in orders)])
    return judge.calibrate_logits(judge.network(variants.numpy()))[:, answer]


def greyed(whole: torch.Tensor, places: NDArray[np.intp]) -> torch.Tensor:
    """The image with these places in its mean colour."""
    mask = torch.zeros(GRID * GRID)
    mask[torch.from_numpy(places)] = 1
    large = functional.interpolate(mask.view(1, 1, GRID, GRID), whole.shape[2:], mode="nearest")
    mean = whole.float().mean((2, 3), keepdim=True)
    return torch.where(large > 0, mean, whole.float()).round().to(torch.uint8)


if __name__ == "__main__":
    main()
