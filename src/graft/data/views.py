"""Augmentation options, and seeded views of an image: a view depends on seed, image, number and epoch only."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

from graft.data.augmentation import MIN_CROP_AREA

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
