"""Heads: votes counted by hand, and a small dictionary that rebuilds each kind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from graft.networks.head import Head, NearestNeighbours

SPECS = [
    {"kind": "linear", "width": 6, "classes": 3},
    {"kind": "mlp", "width": 6, "classes": 3, "hidden": [5, 4]},
    {"kind": "knn", "width": 6, "classes": 3, "stored": 9, "neighbours": 4},
]


@pytest.mark.parametrize("neighbours", [1, 4, 99])
def test_nearest_neighbours_vote_as_counted_one_by_one(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    stored, asked = rng.standard_normal((20, 6)), rng.standard_normal((5, 6))
    labels = rng.integers(0, 3, 20)
    head = NearestNeighbours(20, 6, 4, neighbours)
    head.features = torch.nn.functional.normalize(torch.tensor(stored, dtype=torch.float32))
    head.labels = torch.tensor(labels)
    want = np.zeros((5, 4))
    for row, query in enumerate(asked):
        cosines = [float(query @ other / np.linalg.norm(query) / np.linalg.norm(other)) for other in stored]
        for near in sorted(range(20), key=lambda at: -cosines[at])[:neighbours]:
            want[row, labels[near]] += np.exp(cosines[near] / 0.07)
    want = np.log(want / want.sum(axis=1, keepdims=True) + 1e-4)
    got = head(torch.tensor(asked, dtype=torch.float32) * 7)  # the length of a query does not matter
    assert np.allclose(got.numpy(), want, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec["kind"])
def test_a_head_is_rebuilt_from_its_spec_and_tensors(spec: dict[str, Any]) -> None:
    torch.manual_seed(0)
    head = Head(spec)
    for name, buffer in head.named_buffers():
        if not name.endswith("labels"):
            buffer.uniform_(0.5, 2)
    rebuilt = Head(json.loads(json.dumps(head.spec)))
    features = torch.randn(7, 6)
    assert not torch.equal(rebuilt(features), head(features))
    rebuilt.load_state_dict(head.state_dict())
    assert torch.equal(rebuilt(features), head(features))
    assert rebuilt(features).shape == (7, 3)


def test_a_head_standardises_first() -> None:
    head = Head(SPECS[0])
    head.mean, head.scale = torch.arange(6.0), torch.full((6,), 0.25)
    features = torch.randn(3, 6)
    assert torch.allclose(head(features), head.judge((features - torch.arange(6.0)) / 4))


def test_an_mlp_has_a_relu_between_its_layers_and_none_at_the_end() -> None:
    kinds = [type(layer).__name__ for layer in Head(SPECS[1]).judge.children()]
    assert kinds == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="no head of kind 'tree'; there are linear, mlp and knn"):
        Head({"kind": "tree", "width": 6, "classes": 3})
