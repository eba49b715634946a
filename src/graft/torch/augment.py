"""Random changes of the training pictures, as a line of text: 'crop+flip+rotate=10+colour=0.2'.

Every draw is a function of (seed, epoch, picture, view), so that a run that was killed goes on with the same pictures.
Crop and mirror are a box on the decoded picture, cheap and safe in any thread; the rest works on the square picture
that the network will see.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import InterpolationMode, v2

from graft.data import views
from graft.data.strengths import STRENGTHS, Step, Strength, steps
from graft.data.views import Crop

Change = Callable[[Tensor], Tensor]  # uint8 [3, s, s] to the same

FILL = (124, 116, 104)  # where a turned picture has no pixels: the mean of ImageNet, so nearly 0 once normalised
FILLED = {"interpolation": InterpolationMode.BILINEAR, "fill": list(FILL)}


@dataclass(frozen=True)
class Operation(Strength):
    """What a name stands for: how to make the change of some strength, the usual strength and the legal ones."""

    make: Callable[[float], Change] | None = None  # None: a part of the box


MAKERS: dict[str, Callable[[float], Change]] = {
    "flip": lambda _: v2.RandomHorizontalFlip(),  # a part of the box where there is a crop
    "vflip": lambda _: v2.RandomVerticalFlip(),
    "rotate": lambda degrees: v2.RandomRotation((-degrees, degrees), **FILLED),
    "perspective": lambda far: v2.RandomPerspective(far, p=1, **FILLED),
    "distort": lambda k: functools.partial(_distorted, k),
    "blur": lambda sigma: v2.GaussianBlur(2 * math.ceil(2 * sigma) + 1, (0.1, sigma)),
    "colour": lambda s: v2.ColorJitter(s, s, s, s / 4),  # hue a quarter of the rest, as in SimCLR
    "grey": lambda p: v2.RandomGrayscale(p),
    "erase": lambda p: v2.RandomErasing(p, value=FILL),  # pyright: ignore[reportArgumentType]
    "trivial": lambda _: v2.TrivialAugmentWide(**FILLED),
    "rand": lambda bin: v2.RandAugment(2, round(bin), **FILLED),
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
        """A list joined by '+', of which a preset may be a part; UsageError says what is legal."""
        return cls(text, steps(text))

    def __str__(self) -> str:
        return self.text

    def box(self, seed: int, epoch: int, digest: bytes, view: int, width: int, height: int) -> Crop | None:
        """The part of the decoded picture to show, perhaps mirrored; None: the picture as it will be judged.

        In epoch 0 this is the view of that number as it is stored for a frozen half.
        """
        steps = dict(self.steps)
        least = steps.get("crop")
        if least is None:
            return None  # without a crop, `pixels` does the mirroring
        drawn = views.crop(seed, digest, view, width, height, epoch=epoch, least=least)
        return drawn if "flip" in steps else replace(drawn, flip=False)

    def pixels(self, image: Tensor, seed: int, epoch: int, digest: bytes, view: int) -> Tensor:
        """Everything but the box: uint8 [3, s, s] to the same, in the order of the list.

        Torch's global generator is as before; it is lent out meanwhile, so only one thread at a time may be in here.
        """
        changes = _changes(self.steps)
        if not changes:
            return image
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would seed the generators of all GPUs as well.
            torch.default_generator.manual_seed(views.draw(seed, digest, view, epoch, b"pixels") >> 65)
            return functools.reduce(lambda picture, change: change(picture), changes, image)


def barrel(image: Tensor, k: float) -> Tensor:
    """Radial lens distortion: barrel for k > 0, pincushion for k < 0, the picture itself for 0.

    What stands at distance r from the centre comes from r (1 + k r^2), with r = 1 in the corners: the first term of
    Brown's model (D. C. Brown 1966, Decentering Distortion of Lenses). Beyond the edge the picture is reflected.
    """
    height, width = image.shape[1:]
    y, x = torch.meshgrid(_centres(height), _centres(width), indexing="ij")
    points = torch.stack([x, y], dim=2)
    squared = points.square().sum(2, keepdim=True) / 2
    grid = points * (1 + k * squared)
    bent = functional.grid_sample(image[None].float(), grid[None], padding_mode="reflection", align_corners=False)
    return bent[0].round().to(torch.uint8)


def _distorted(strength: float, image: Tensor) -> Tensor:
    return barrel(image, torch.empty(1).uniform_(-strength, strength).item())


def _centres(count: int) -> Tensor:
    """The pixels' centres where the picture reaches from -1 to 1."""
    return (torch.arange(count) + 0.5) * 2 / count - 1


@functools.cache
def _changes(steps: tuple[Step, ...]) -> tuple[Change, ...]:
    names = {name for name, _ in steps}
    made = []
    for name, strength in steps:
        make = OPERATIONS[name].make
        if make and not (name == "flip" and "crop" in names):
            made.append(make(strength or 0.0))
    return tuple(made)
