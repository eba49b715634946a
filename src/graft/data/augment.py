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
from graft.data.views import Crop
from graft.errors import UsageError

Change = Callable[[Tensor], Tensor]  # uint8 [3, s, s] to the same

FILL = (124, 116, 104)  # where a turned picture has no pixels: the mean of ImageNet, so nearly 0 once normalised
FILLED = {"interpolation": InterpolationMode.BILINEAR, "fill": list(FILL)}


@dataclass(frozen=True)
class Operation:
    """What a name stands for: how to make the change of some strength, the usual strength and the legal ones."""

    make: Callable[[float], Change] | None  # None: a part of the box
    usual: float | None = None  # None: it has no strength
    least: float = 0
    most: float = 1
    whole: bool = False


OPERATIONS = {
    "crop": Operation(None, views.SCALE[0], 0.05),  # the smallest share of the area
    "flip": Operation(lambda _: v2.RandomHorizontalFlip()),  # a part of the box where there is a crop
    "vflip": Operation(lambda _: v2.RandomVerticalFlip()),
    "rotate": Operation(lambda degrees: v2.RandomRotation((-degrees, degrees), **FILLED), 15, most=180),
    "perspective": Operation(lambda far: v2.RandomPerspective(far, p=1, **FILLED), 0.3),
    "distort": Operation(lambda k: functools.partial(_distorted, k), 0.2, most=0.3),
    "blur": Operation(lambda sigma: v2.GaussianBlur(2 * math.ceil(2 * sigma) + 1, (0.1, sigma)), 1.5, 0.1, 5),
    "colour": Operation(lambda s: v2.ColorJitter(s, s, s, s / 4), 0.3),  # hue a quarter of the rest, as in SimCLR
    "grey": Operation(lambda p: v2.RandomGrayscale(p), 0.2),
    "erase": Operation(lambda p: v2.RandomErasing(p, value=FILL), 0.25),  # pyright: ignore[reportArgumentType]
    "trivial": Operation(lambda _: v2.TrivialAugmentWide(**FILLED)),
    "rand": Operation(lambda bin: v2.RandAugment(2, round(bin), **FILLED), 9, most=30, whole=True),
}

PRESETS = {"none": (), "light": ("crop", "flip"), "strong": ("crop", "flip", "trivial", "erase")}

Step = tuple[str, float | None]  # name and strength


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
        words = [part for word in text.split("+") for part in PRESETS.get(word, (word,))]
        steps = tuple(_step(word) for word in words)
        names = [name for name, _ in steps]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise UsageError(f"Augmentation {text!r} has {twice!r} twice; each change may stand there once.")
        return cls(text, steps)

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


def _step(word: str) -> Step:
    name, equals, text = word.partition("=")
    if name not in OPERATIONS and name not in PRESETS:
        legal = f"{', '.join(PRESETS)}, or a list of {', '.join(OPERATIONS)} joined by '+'"
        raise UsageError(f"There is no augmentation {name!r}. Choose {legal}.")
    operation = OPERATIONS.get(name)
    if operation is None or (equals and operation.usual is None):
        raise UsageError(f"Augmentation {name!r} has no strength. Got {word!r}.")
    return name, _strength(name, operation, text) if equals else operation.usual


def _strength(name: str, operation: Operation, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not operation.least <= value <= operation.most or (operation.whole and value % 1):
        kind = "a whole number" if operation.whole else "a number"
        legal = f"{kind} from {operation.least:g} to {operation.most:g}"
        raise UsageError(f"The strength of augmentation {name!r} must be {legal}. Got {text!r}.")
    return value
