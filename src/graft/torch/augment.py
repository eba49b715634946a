"""Augmentation of training images, written as a line of text: 'crop+flip+rotate=10+colour=0.2'.

Every draw is a function of (seed, epoch, image, view), so that a run that was killed goes on with the same images.
Crop and mirror are a box on the decoded image, cheap and safe in any thread; the rest works on the square image
that the network will see.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2

from graft.data import augmentation
from graft.data.augmentation import STRENGTHS, CropBox, Step, Strength, parse_augmentation
from graft.errors import UsageError
from graft.training.recipe import Recipe

ImageChange = Callable[[Tensor], Tensor]  # uint8 [3, s, s] to the same

FILL = (124, 116, 104)  # where a turned image has no pixels: the mean of ImageNet, so nearly 0 once normalised
FILL_OPTIONS = {"interpolation": InterpolationMode.BILINEAR, "fill": list(FILL)}


@dataclass(frozen=True)
class Operation(Strength):
    """What a name stands for: how to make the change of some strength, the usual strength and the legal ones."""

    make: Callable[[float], ImageChange] | None = None  # None: a part of the box


MAKERS: dict[str, Callable[[float], ImageChange]] = {
    "flip": lambda _: v2.RandomHorizontalFlip(),  # a part of the box where there is a crop
    "vflip": lambda _: v2.RandomVerticalFlip(),
    "rotate": lambda degrees: v2.RandomRotation((-degrees, degrees), **FILL_OPTIONS),
    "perspective": lambda far: v2.RandomPerspective(far, p=1, **FILL_OPTIONS),
    "distort": lambda k: functools.partial(_distort_randomly, k),
    "blur": lambda sigma: v2.GaussianBlur(2 * math.ceil(2 * sigma) + 1, (0.1, sigma)),
    "colour": lambda s: v2.ColorJitter(s, s, s, s / 4),  # hue a quarter of the rest, as in SimCLR
    "grey": lambda p: v2.RandomGrayscale(p),
    "erase": lambda p: v2.RandomErasing(p, value=FILL),  # pyright: ignore[reportArgumentType]
    "trivial": lambda _: v2.TrivialAugmentWide(**FILL_OPTIONS),
    "rand": lambda bin: v2.RandAugment(2, round(bin), **FILL_OPTIONS),
}
OPERATIONS = {name: Operation(**vars(strength), make=MAKERS.get(name)) for name, strength in STRENGTHS.items()}


@dataclass(frozen=True)
class Augment:
    """A list of random changes; `parse` makes it, `str` gives the text back.

    >>> Augment.parse("light") == Augment.parse("crop=0.35+flip")
    True
    """

    text: str = field(compare=False)
    steps: tuple[Step, ...]

    @classmethod
    def parse(cls, text: str) -> Augment:
        """Parse augmentations joined by '+', presets included; UsageError says what is legal."""
        return cls(text, parse_augmentation(text))

    def __str__(self) -> str:
        return self.text

    def draw_box(self, seed: int, epoch: int, digest: bytes, view: int, width: int, height: int) -> CropBox | None:
        """The part of the decoded image to show, perhaps mirrored; None: the image as it will be evaluated.

        In epoch 0 this is the view of that number as it is stored for a frozen half.
        """
        steps = dict(self.steps)
        least = steps.get("crop")
        if least is None:
            return None  # without a crop, `pixels` does the mirroring
        drawn = augmentation.random_crop(seed, digest, view, width, height, epoch=epoch, min_area=least)
        return drawn if "flip" in steps else replace(drawn, flip=False)

    def change_pixels(self, image: Tensor, seed: int, epoch: int, digest: bytes, view: int) -> Tensor:
        """Everything but the box: uint8 [3, s, s] to the same, in the order of the list.

        Torch's global generator is as before; it is lent out meanwhile, so only one thread at a time may be in here.
        """
        changes = _build_changes(self.steps)
        if not changes:
            return image
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would seed the generators of all GPUs as well.
            torch.default_generator.manual_seed(augmentation.derive_seed(seed, digest, view, epoch, b"pixels") >> 65)
            return functools.reduce(lambda changed, change: change(changed), changes, image)


def distort(image: Tensor, k: float) -> Tensor:
    """Radial lens distortion: barrel for k > 0, pincushion for k < 0, the image itself for 0.

    What stands at distance r from the centre comes from r (1 + k r^2), with r = 1 in the corners: the first term of
    Brown's model (D. C. Brown 1966, Decentering Distortion of Lenses). Beyond the edge the image is reflected.
    """
    height, width = image.shape[1:]
    y, x = torch.meshgrid(_pixel_centres(height), _pixel_centres(width), indexing="ij")
    points = torch.stack([x, y], dim=2)
    squared = points.square().sum(2, keepdim=True) / 2
    grid = points * (1 + k * squared)
    bent = functional.grid_sample(image[None].float(), grid[None], padding_mode="reflection", align_corners=False)
    return bent[0].round().to(torch.uint8)


def _distort_randomly(strength: float, image: Tensor) -> Tensor:
    return distort(image, torch.empty(1).uniform_(-strength, strength).item())


def _pixel_centres(count: int) -> Tensor:
    """The pixels' centres where the image reaches from -1 to 1."""
    return (torch.arange(count) + 0.5) * 2 / count - 1


@functools.cache
def _build_changes(steps: tuple[Step, ...]) -> tuple[ImageChange, ...]:
    names = {name for name, _ in steps}
    made = []
    for name, strength in steps:
        make = OPERATIONS[name].make
        if make and not (name == "flip" and "crop" in names):
            made.append(make(strength or 0.0))
    return tuple(made)


# --- mixup and cutmix -------------------------------------------------------------------------------------------------


STREAM = 1  # default_rng((a, b)) and default_rng((a, b, 0)) are the same: this sets the draws apart from the order's


def mix_batch(
    inputs: Tensor, targets: Tensor, recipe: Recipe, seed: int, epoch: int, step: int
) -> tuple[Tensor, Tensor]:
    """The batch as the recipe's mixup and cutmix make it; one of the two, drawn anew at each step, where both are set.

    `mixup` and `cutmix` are the alpha of Beta(alpha, alpha), from which each step draws the share of the image itself
    (Zhang et al. 2018, Yun et al. 2019). Every draw belongs to (seed, epoch, step). Inputs are images, maps
    [n, c, h, w] or, for mixup only, any activations.
    """
    if recipe.cutmix and inputs.ndim != 4:
        raise UsageError(
            f"'cutmix' needs images or maps [n, channels, height, width] above the cut. Got {list(inputs.shape)}. "
            "Use 'mixup', or a strategy that trains the whole network."
        )
    if not (recipe.mixup or recipe.cutmix):
        return inputs, targets
    random = np.random.default_rng((seed, epoch, step, STREAM))
    cutting = bool(recipe.cutmix) and not (recipe.mixup and random.random() < 0.5)
    alpha = recipe.cutmix if cutting else recipe.mixup
    share = float(random.beta(alpha, alpha))
    if not cutting:
        return mixup(inputs, share), mixup(targets, share)
    left, top, right, bottom = draw_box(inputs.shape[3], inputs.shape[2], share, random)
    kept = 1 - (right - left) * (bottom - top) / (inputs.shape[2] * inputs.shape[3])
    return cutmix(inputs, (left, top, right, bottom)), mixup(targets, kept)


def mixup(batch: Tensor, share: float) -> Tensor:
    """`share` of each row and the rest of the row before it; whole numbers become float."""
    return batch * share + batch.roll(1, 0) * (1 - share)


def cutmix(batch: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Each image [n, c, h, w] with the box (left, top, right, bottom) of the image before it."""
    left, top, right, bottom = box
    mixed = batch.clone()
    mixed[..., top:bottom, left:right] = batch.roll(1, 0)[..., top:bottom, left:right]
    return mixed


def draw_box(width: int, height: int, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """A box of 1 - share of the area around a uniform place, less what lies outside the image."""
    x, y, side = int(random.integers(width)), int(random.integers(height)), math.sqrt(1 - share) / 2
    wide, high = int(side * width), int(side * height)
    return max(x - wide, 0), max(y - high, 0), min(x + wide, width), min(y + high, height)
