"""Perceptual hashes: 64 bits that stay nearly the same when a picture is saved again, resized or slightly cropped.

The signs of the 64 lowest frequencies (DCT) of the picture's brightness; pHash (Zauner 2010) with the sign instead of
the median. The mirror image changes the sign of the odd frequencies across, so its hash needs no second look.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

SIDE = 32  # pixels of the thumbnail that is hashed
BITS = 64
_KEPT = 8  # frequencies each way, without the constant
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_WAVES = np.asarray(dct(np.eye(SIDE), axis=0, norm="ortho"), np.float32)[1 : _KEPT + 1]
_ODD = np.packbits(np.tile(np.arange(1, _KEPT + 1) % 2, _KEPT).astype(bool)).view(np.uint64)[0]


def perceptual(thumbnail: NDArray[np.uint8]) -> np.uint64:
    """The hash of a picture that was shrunk to uint8 [SIDE, SIDE, 3]."""
    waves = _WAVES @ (thumbnail @ _LUMA) @ _WAVES.T
    return np.packbits(waves > 0).view(np.uint64)[0]


def mirrored(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The hashes of the mirror images."""
    return hashes ^ _ODD


def differing(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """How many bits of two columns of hashes differ, 0 to 64, the second as it is or mirrored: whichever is nearer."""
    return np.minimum(np.bitwise_count(one ^ other), np.bitwise_count(one ^ mirrored(other)))
