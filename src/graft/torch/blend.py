"""Weights by name: kept, put back, averaged over epochs, and interpolated between the start and the best epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Weights = dict[str, Tensor]
Judged = tuple[NDArray[np.float64], float]  # held-out logits, and their score: higher is better

SHARES = tuple(share / 10 for share in range(10))  # of the epoch that counts; the rest is the start


@dataclass(frozen=True)
class Mixed:
    """Which weights won: `share` of the epoch that counts, the rest the start; or the mean of the later epochs.

    `tried` has the score of each candidate.
    """

    share: float
    mean: bool
    score: float
    tried: dict[str, float]


def snapshot(network: nn.Module, names: Sequence[str]) -> Weights:
    """Copies of the named tensors."""
    now = network.state_dict()
    return {name: now[name].detach().clone() for name in names}


@torch.no_grad()
def restore(network: nn.Module, weights: Weights) -> None:
    """Put the tensors back, in place, so that everybody who shares them sees it."""
    now = network.state_dict()
    for name, value in weights.items():
        now[name].copy_(value)


@torch.no_grad()
def averaged(mean: Weights, network: nn.Module, names: Sequence[str], count: int) -> Weights:
    """The mean of `count` networks, with one more taken in."""
    now = snapshot(network, names)
    return between(mean, now, 1 / (count + 1)) if count else now


@torch.no_grad()
def between(start: Weights, end: Weights, share: float) -> Weights:
    """(1 - share) of the start and `share` of the end (Wortsman et al. 2022, WiSE-FT); whole numbers are the end's."""
    return {
        name: torch.lerp(start[name], value, share) if value.is_floating_point() else value
        for name, value in end.items()
    }


def best_of(
    network: nn.Module, start: Weights, best: Weights, mean: Weights, judged: Callable[[], Judged]
) -> tuple[NDArray[np.float64], Mixed]:
    """Try the candidates in the network, leave the winner in it, and say which it is.

    The epoch that counts comes first and wins a tie. With no start there is nothing to interpolate with.
    """
    found: list[tuple[float, str, float, Weights, NDArray[np.float64]]] = []
    for name, share, weights in _candidates(start, best, mean):
        restore(network, weights)
        said, score = judged()
        found.append((score, name, share, weights, said))
    score, name, share, weights, said = max(found, key=lambda each: each[0])
    restore(network, weights)
    return said, Mixed(share, name == "mean", score, {name: score for score, name, *_ in found})


def _candidates(start: Weights, best: Weights, mean: Weights) -> Iterator[tuple[str, float, Weights]]:
    yield "epoch", 1.0, best
    if mean:
        yield "mean", 1.0, mean
    if start:
        for share in reversed(SHARES):
            yield f"{share:.1f} of the epoch", share, between(start, best, share)
