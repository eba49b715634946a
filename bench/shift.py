"""The last layer or all layers: which head is better on images like the training ones, and on shifted copies of them?

GRAFT_WEIGHTS=../shared/weights python bench/shift.py ../shared/data [--backbone NAME] [--most 200] [--only TEXT]

On each data set a head is solved on the last layer and one on all layers. Both answer the test images, and copies of
these made grey, to edges, with four levels a channel, blurred, turned by 30 degrees, and with another background. The
rows are rules that choose between the two by out-of-fold answers alone; the figures are means over data sets.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from graft.backbones.backbone import load_backbone
from graft.backbones.features import Features, build_probe_features
from graft.data.dataset import Dataset, decode_pixels
from graft.data.images import InMemoryImages
from graft.data.readers.source import read_source
from graft.features.embed import embed
from graft.heads.choose import ProbeResult, choose_head, paired_z_score
from graft.training.material import prepare_material

SETS = (
    *("caltech5_tiny", "flowers5", "clothing10", "grocery81", "cifar10_sub", "gtsrb43_sub"),
    *("neu_steel6", "rsscn7_sub", "orl_faces40"),
)
SIDE = 256  # pixels; enough for every network here, and copies of photos take less memory
RULES = ("last", "all", "lower loss", "1", "2", "3", "4")  # numbers: all where its lead is so many standard errors
Change = Callable[[Image.Image, Image.Image], Image.Image]


def pasted(image: Image.Image, other: Image.Image) -> Image.Image:
    """The middle of the image on another image."""
    mask, (width, height) = Image.new("L", image.size), image.size
    box = (0.12 * width, 0.12 * height, 0.88 * width, 0.88 * height)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return Image.composite(image, other.resize(image.size), mask)


CHANGES: dict[str, Change] = {
    "grey": lambda image, _: ImageOps.grayscale(image).convert("RGB"),
    "edges": lambda image, _: ImageOps.grayscale(image).filter(ImageFilter.CONTOUR).convert("RGB"),
    "posterised": lambda image, _: ImageOps.posterize(image, 2),
    "blurred": lambda image, _: image.filter(ImageFilter.GaussianBlur(min(image.size) / 60)),
    "turned": lambda image, _: image.rotate(30, Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)),
    "background": pasted,
}


@dataclass(frozen=True)
class Row:
    """What two heads are worth on one data set: shares of right answers, by 'same' and by change."""

    lead: float
    lower: str
    right: dict[str, dict[str, float]]  # of each choice of layers

    def by(self, rule: str) -> dict[str, float]:
        """Those of the head that a rule chooses."""
        chosen = self.lower if rule == "lower loss" else rule
        if rule.isdigit():
            chosen = "all" if self.lead > float(rule) else "last"
        return self.right[chosen]


def main() -> None:
    """Two rows for each data set, then one for each rule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--most", type=int, default=200)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    frozen = build_probe_features(load_backbone(options.backbone, offline=True))
    columns = ("same", *CHANGES)
    print(f"| data set | layers | lead of all, standard errors | {' | '.join(columns)} |")
    print(f"|{'---|' * (len(columns) + 3)}")
    rows = list[Row]()
    for name in (each for each in SETS if options.only in each):
        rows.append(row := compared(frozen, read_source(options.data / name), options.most))
        for layers in ("last", "all"):
            figures = " | ".join(f"{100 * row.right[layers][column]:.1f}" for column in columns)
            print(f"| {name} | {layers} | {row.lead:.1f} | {figures} |", flush=True)
    print(f"\n| rule | {' | '.join(columns)} | mean of the changes | mean of both |\n|{'---|' * (len(columns) + 3)}")
    for rule in RULES:
        mean = {column: float(np.mean([row.by(rule)[column] for row in rows])) for column in columns}
        shifted = float(np.mean([mean[column] for column in CHANGES]))
        figures = " | ".join(f"{100 * mean[column]:.1f}" for column in columns)
        print(f"| {rule} | {figures} | {100 * shifted:.2f} | {50 * (shifted + mean['same']):.2f} |")


def compared(frozen: Features, data: Dataset, most: int) -> Row:
    """Both heads of one data set on its test images and on the changed ones."""
    material = prepare_material(data, embed(frozen, data), 0)
    problems = material.build_problems(frozen.widths, 1)
    heads = {layers: choose_head("auto", layers, problems) for layers in ("last", "all")}
    ridges = {layers: choose_head("ridge", layers, problems).solution for layers in ("last", "all")}
    lower = min(ridges, key=lambda layers: ridges[layers].loss)
    rows = material.test[np.linspace(0, len(material.test) - 1, min(most, len(material.test))).astype(int)]
    images = [small(decode_pixels(material.data.read(row), SIDE)) for row in rows]
    others = [images[at] for at in np.random.default_rng(0).permutation(len(images))]
    sets = {"same": images} | {
        name: [change(image, other) for image, other in zip(images, others, strict=True)]
        for name, change in CHANGES.items()
    }
    right: dict[str, dict[str, float]] = {"last": {}, "all": {}}
    for name, changed in sets.items():
        features = seen(frozen, changed)
        for layers, chosen in heads.items():
            right[layers][name] = accuracy(frozen, chosen, features, material.data.labels[rows])
    return Row(paired_z_score(ridges["all"], ridges["last"], problems["all"]), lower, right)


def small(image: NDArray[np.uint8]) -> Image.Image:
    """At most SIDE pixels along its short side."""
    found = Image.fromarray(image)
    scale = SIDE / min(found.size)
    return ImageOps.scale(found, scale) if scale < 1 else found


def seen(frozen: Features, images: list[Image.Image]) -> NDArray[np.float32]:
    """Features [n, d]."""
    column = InMemoryImages([np.ascontiguousarray(image) for image in images])
    data = Dataset(column, np.zeros(len(images), np.int32), ("a", "b"), np.zeros(len(images), np.int8))
    return embed(frozen, data)[np.arange(len(images))]


def accuracy(
    frozen: Features, chosen: ProbeResult, features: NDArray[np.float32], labels: NDArray[np.integer]
) -> float:
    """Share of right answers."""
    return float((chosen.solution.head(features[:, chosen.columns]).argmax(axis=1) == labels).mean())


if __name__ == "__main__":
    main()
