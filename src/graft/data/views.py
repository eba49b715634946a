"""Seeded views of a picture: what view number 3 shows depends on the seed, the picture and the number, nothing else."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

CENTRE, MIRROR = 0, 1  # view 0 is the picture as it will be judged; view 1 the same, mirrored; from 2 on random crops
SCALE = (0.35, 1.0)  # share of the area that a random crop keeps
ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Crop:
    """A rectangle in pixels of the decoded picture, and whether to mirror it."""

    left: int
    top: int
    width: int
    height: int
    flip: bool


def crop(seed: int, digest: bytes, view: int, width: int, height: int) -> Crop:
    """The random resized crop that belongs to (seed, picture, view): the same in every process and order.

    Szegedy et al. 2015's crop: area and aspect ratio uniform (the latter on a log scale), then a uniform place.

    >>> crop(0, b"a picture", 2, 640, 480) == crop(0, b"a picture", 2, 640, 480)
    True
    """
    name = hashlib.blake2b(digest + view.to_bytes(4) + seed.to_bytes(8), digest_size=16).digest()
    random = np.random.default_rng(int.from_bytes(name))
    area = width * height * random.uniform(*SCALE)
    ratio = math.exp(random.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
    wide = min(width, max(1, round(math.sqrt(area * ratio))))
    high = min(height, max(1, round(math.sqrt(area / ratio))))
    left, top = int(random.integers(width - wide + 1)), int(random.integers(height - high + 1))
    return Crop(left, top, wide, high, bool(random.random() < 0.5))
