"""Perceptual hashes: 64 bits that stay nearly the same when a picture is saved again, resized or slightly cropped.

The signs of the 64 lowest frequencies (DCT) of the picture's brightness; pHash (Zauner 2010) with the sign instead of
the median. The mirror image changes the sign of the odd frequencies across, so its hash needs no second look.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIDE = 32  # pixels of the thumbnail that is hashed
BITS = 64
_KEPT = 8  # frequencies each way, without the constant
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# The orthonormal DCT-II as a matrix; scipy.fft, which has it too, takes half a second to import.
_ANGLES = np.pi / SIDE * np.outer(np.arange(1, _KEPT + 1), np.arange(SIDE) + 0.5)
_WAVES = np.float32(np.sqrt(2 / SIDE) * np.cos(_ANGLES))
_ODD = np.packbits(np.tile(np.arange(1, _KEPT + 1) % 2, _KEPT).astype(bool)).view(np.uint64)[0]


def perceptual(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hashes [n] of pictures that were shrunk to uint8 [n, SIDE, SIDE, 3]."""
    red, green, blue = (thumbnails[..., at] * weight for at, weight in enumerate(LUMA))
    waves = _WAVES @ (red + green + blue) @ _WAVES.T
    return np.packbits((waves > 0).reshape(-1, BITS), axis=1).view(np.uint64).ravel()


def mirrored(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hashes of the mirror images."""
    return hashes ^ _ODD


def differing(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits of two columns of hashes differ, 0 to 64, the second as it is or mirrored: whichever is nearer."""
    return np.minimum(np.bitwise_count(one ^ other), np.bitwise_count(one ^ mirrored(other)))
