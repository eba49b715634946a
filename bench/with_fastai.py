"""fastai's `fine_tune` on the default network with its weights, on a data set's own train and test folders.

Needs fastai, which graft does not: pip install fastai. python bench/with_fastai.py ../shared/data/rsscn7_sub --epochs 4
"""

import argparse
import time
import warnings
from pathlib import Path

import torch
from fastai.vision.all import (
    CrossEntropyLossFlat,
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    params,
)
from torch import nn

from graft.backbones.backbone import load_backbone
from graft.torch.restore import backbone_to_module


def main() -> None:
    """Print accuracy on the test part and the seconds from images to there."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    torch.manual_seed(0)
    start = time.perf_counter()
    backbone = backbone_to_module(load_backbone())
    size = backbone.preprocess.size
    numbers = backbone.preprocess.mean, backbone.preprocess.std
    loaders = ImageDataLoaders.from_folder(
        options.photos,
        train="train",
        valid="test",
        item_tfms=Resize(int(size * 1.15)),
        batch_tfms=[*aug_transforms(size=size), Normalize.from_stats(*numbers)],
        bs=16,
        num_workers=0,
    )
    body = backbone.module.requires_grad_(True)
    model = nn.Sequential(body, nn.Linear(1280, len(loaders.vocab)))
    learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy, splitter=halves)
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(options.epochs)
        seconds = time.perf_counter() - start
        print(f"{learner.validate()[1]:.4f} {seconds:.1f}")


def halves(module: nn.Module) -> list:
    """What fine_tune freezes first, and the head."""
    return [params(module[0]), params(module[1])]


if __name__ == "__main__":
    main()
