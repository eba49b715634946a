"""What our resize (whole weights, uint8) costs against timm's own transform (Pillow): pixels, features, accuracy.

python bench/resize.py ../shared/data/flowers5 [more data sets ...]
"""

import sys
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch.nn import functional

from graft.backbones.backbone import load_backbone
from graft.backbones.preprocess import Preprocess
from graft.data.dataset import TRAIN, Dataset, decode_pixels
from graft.data.readers.folder import read_folder
from graft.data.split import assign_folds
from graft.heads import linear
from graft.heads.head import Problem, standardise_features
from graft.torch import engine
from graft.torch.network import FeaturesModule
from graft.torch.restore import backbone_to_module


def main() -> None:
    """One row for each data set."""
    warnings.simplefilter("ignore")
    start = backbone_to_module(load_backbone())
    frozen = FeaturesModule(start.module, start.preprocess, ())
    run = engine.compile(frozen, start.preprocess.size)
    theirs = timm.data.create_transform(224, interpolation="bicubic", crop_pct=0.875, mean=(0,) * 3, std=(1,) * 3)
    floats = InFloat(**vars(start.preprocess))
    print("| data set | pixels that differ | at most by | in floats: at most by | features | accuracy ours | timm's |")
    print("|---|---|---|---|---|---|---|")
    for folder in map(Path, sys.argv[1:]):
        data = read_folder(folder)
        ours = np.stack([start.preprocess.prepare(decoded(data, row)) for row in range(len(data))])
        pillow = np.stack([transformed(theirs, data, row) for row in range(len(data))])
        gap = np.abs(ours.astype(int) - pillow)
        one, two = run(ours), run(pillow)
        relative = np.linalg.norm(one - two, axis=1) / np.linalg.norm(two, axis=1)
        scores = [f"{100 * accuracy(data, each):.1f}" for each in (one, two)]
        far = max(np.abs(floats.prepare(decoded(data, row)) - pillow[row]).max() for row in range(len(data)))
        shares = f"{(gap > 0).mean():.2%} | {gap.max()} of 255 | {far:.0f} of 255"
        print(f"| {folder.name} | {shares} | {np.median(relative):.1e} | {' | '.join(scores)} |", flush=True)


class InFloat(Preprocess):
    """The same, but resized in float arithmetic and rounded once, at the end."""

    def prepare(self, image: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None].float()
        size = self._resized_shape(*image.shape[:2])
        large = functional.interpolate(tensor, size=size, mode=self.interpolation, antialias=True)[0]
        top, left = (round((side - self.size) / 2) for side in size)
        return large[:, top : top + self.size, left : left + self.size].round().clamp(0, 255).numpy()


def decoded(data: Dataset, row: int) -> np.ndarray:
    """The image as `fit` decodes it."""
    return decode_pixels(data.read(row), 512)


def transformed(transform: object, data: Dataset, row: int) -> np.ndarray:
    """The image through timm's transform, back on the scale 0 to 255."""
    image = Image.open(BytesIO(data.read(row))).convert("RGB")
    tensor: torch.Tensor = transform(image)  # pyright: ignore[reportCallIssue]
    return (tensor * 255).round().to(torch.uint8).numpy()


def accuracy(data: Dataset, features: np.ndarray) -> float:
    """Test accuracy of a ridge head."""
    train, test = data.split == TRAIN, data.split != TRAIN
    labels = data.labels[train].astype(np.int64)
    names = np.arange(len(labels) * 16).view(np.uint8)[: len(labels) * 16].reshape(-1, 16)
    units = np.arange(len(labels))
    own = assign_folds(labels, units, names, 4, 0)
    problem = Problem(standardise_features(features[train], [features.shape[1]]), labels, units, own, len(data.classes))
    answers = linear.solve_ridge(problem).head(features[test]).argmax(1)
    return float((answers == data.labels[test]).mean())


if __name__ == "__main__":
    main()
