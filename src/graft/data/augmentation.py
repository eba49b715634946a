"""Augmentation: its text form, as in 'crop+flip+rotate=10', and seeded random crops of an image."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

from graft import spec
from graft.errors import UsageError

MIN_CROP_AREA = 0.35  # share of the area that a random crop keeps at least

Step = tuple[str, float | None]  # name and strength


@dataclass(frozen=True)
class Strength:
    """The default strength of an augmentation, None where it has none, and the legal range."""

    default: float | None = None
    minimum: float = 0
    maximum: float = 1
    is_integer: bool = False


STRENGTHS = {
    "crop": Strength(MIN_CROP_AREA, 0.05),  # the smallest share of the area
    "flip": Strength(),
    "vflip": Strength(),
    "rotate": Strength(15, maximum=180),
    "perspective": Strength(0.3),
    "distort": Strength(0.2, maximum=0.3),
    "blur": Strength(1.5, 0.1, 5),
    "colour": Strength(0.3),
    "grey": Strength(0.2),
    "erase": Strength(0.25),
    "trivial": Strength(),
    "rand": Strength(9, maximum=30, is_integer=True),
}

PRESETS = {"none": (), "light": ("crop", "flip"), "strong": ("crop", "flip", "trivial", "erase")}


def parse_augmentation(text: str) -> tuple[Step, ...]:
    """Parse augmentations joined by '+', presets included; UsageError says what is legal."""
    words = [part for word in text.split("+") for part in PRESETS.get(word, (word,))]
    found = tuple(_parse_step(word) for word in words)
    names = [name for name, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"Augmentation {text!r} has {twice!r} twice; each change may stand there once.")
    return found


def _parse_step(word: str) -> Step:
    name, equals, text = word.partition("=")
    if name not in STRENGTHS and name not in PRESETS:
        legal = f"{', '.join(PRESETS)}, or a list of {', '.join(STRENGTHS)} joined by '+'"
        hint = spec.format_suggestions(name, [*PRESETS, *STRENGTHS])
        raise UsageError(f"There is no augmentation {name!r}.{hint} Choose {legal}.")
    strength = STRENGTHS.get(name)
    if strength is None or (equals and strength.default is None):
        raise UsageError(f"Augmentation {name!r} has no strength. Got {word!r}.")
    return name, _parse_strength(name, strength, text) if equals else strength.default


def _parse_strength(name: str, strength: Strength, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not strength.minimum <= value <= strength.maximum or (strength.is_integer and value % 1):
        kind = "a whole number" if strength.is_integer else "a number"
        legal = f"{kind} from {strength.minimum:g} to {strength.maximum:g}"
        raise UsageError(f"The strength of augmentation {name!r} must be {legal}. Got {text!r}.")
    return value


# --- views ------------------------------------------------------------------------------------------------------------

CENTRE, MIRROR = 0, 1  # view 0 is the image as it will be judged; view 1 the same, mirrored; from 2 on random crops
SCALE = (MIN_CROP_AREA, 1.0)  # share of the area that a random crop keeps
ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class CropBox:
    """A rectangle in pixels of the decoded image, and whether to mirror it."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def random_crop(
    seed: int, digest: bytes, view: int, width: int, height: int, *, epoch: int = 0, min_area: float = SCALE[0]
) -> CropBox:
    """Return the random resized crop of (seed, image, view, epoch): the same in every process and order.

    Szegedy et al. 2015's crop: area and aspect ratio uniform (the latter on a log scale), then a uniform position.
    `min_area` is the smallest share of the area; the views that are stored are those of epoch 0.

    >>> random_crop(0, b"an image", 2, 640, 480) == random_crop(0, b"an image", 2, 640, 480)
    True
    """
    import numpy as np  # here, as the command line reads the text form before anything heavy is loaded

    random = np.random.default_rng(derive_seed(seed, digest, view, epoch))
    area = width * height * random.uniform(min_area, SCALE[1])
    ratio = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    wide = min(width, max(1, round(math.sqrt(area * ratio))))
    high = min(height, max(1, round(math.sqrt(area / ratio))))
    left, top = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
    return CropBox(left, top, wide, high, bool(random.random() < 0.5))


def derive_seed(seed: int, digest: bytes, view: int, epoch: int = 0, purpose: bytes = b"") -> int:
    """Derive a 128-bit seed for a generator by hashing the arguments."""
    # A salt of zeros is no salt: in epoch 0 this is the number under whose crops features have been stored all along.
    name = hashlib.blake2b(
        digest + view.to_bytes(4) + seed.to_bytes(8), digest_size=16, salt=epoch.to_bytes(8), person=purpose
    )
    return int.from_bytes(name.digest())
