"""Weights kept, averaged and interpolated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from graft.torch import optim


def network(value: float) -> nn.Module:
    made = nn.BatchNorm1d(2)
    with torch.no_grad():
        made.weight.fill_(value)
        made.bias.fill_(-value)
    return made


NAMES = ("weight", "bias", "num_batches_tracked")


def test_a_snapshot_is_put_back_in_place() -> None:
    made = network(1.0)
    shared = made.weight
    kept = optim.snapshot(made, NAMES)
    with torch.no_grad():
        made.weight.fill_(7.0)
        made.num_batches_tracked.fill_(3)
    optim.restore(made, kept)
    assert made.weight is shared
    assert made.weight.tolist() == [1.0, 1.0]
    assert int(made.num_batches_tracked) == 0


def test_the_mean_of_networks() -> None:
    mean: optim.Weights = {}
    for count, value in enumerate((1.0, 2.0, 6.0)):
        mean = optim.update_mean(mean, network(value), NAMES, count)
    assert mean["weight"].tolist() == pytest.approx([3.0, 3.0])
    assert mean["bias"].tolist() == pytest.approx([-3.0, -3.0])


@pytest.mark.parametrize(("share", "want"), [(0.0, 1.0), (0.25, 1.5), (1.0, 3.0)])
def test_between_two(share: float, want: float) -> None:
    start, end = (optim.snapshot(network(value), NAMES) for value in (1.0, 3.0))
    assert optim.interpolate(start, end, share)["weight"].tolist() == [want, want]


@pytest.mark.parametrize(
    ("best", "share", "name"), [(1.6, 0.3, "0.3 of the epoch"), (3.0, 1.0, "epoch"), (9, 1.0, "mean")]
)
def test_the_best_candidate_is_found_and_left_in_the_network(best: float, share: float, name: str) -> None:
    made = network(0.0)
    start, end, mean = (optim.snapshot(network(value), NAMES) for value in (1.0, 3.0, 9.0))

    def judged() -> optim.ScoredLogits:
        weight = made.weight.detach()[0].item()
        return np.full((1, 1), weight), -abs(weight - best)

    said, mixed = optim.choose_best(made, start, end, mean, judged)
    assert mixed.share == share
    assert mixed.mean is (name == "mean")
    assert mixed.tried[name] == pytest.approx(0, abs=1e-6) == mixed.score
    assert len(mixed.tried) == 12
    assert made.weight.detach().tolist() == pytest.approx([best, best])
    assert float(said[0, 0]) == pytest.approx(best)


def test_without_a_start_there_is_nothing_to_interpolate() -> None:
    made = network(0.0)
    _, mixed = optim.choose_best(made, {}, optim.snapshot(network(2.0), NAMES), {}, lambda: (np.zeros((1, 1)), 0.0))
    assert mixed == optim.BlendResult(1.0, False, 0.0, {"epoch": 0.0})
