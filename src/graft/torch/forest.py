"""A random forest as tensors: the trees side by side, walked level by level with gathers, so that any runtime can."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graft.heads.nodes import BAND, FAR, LEAST


class Forest(nn.Module):
    """The mean of what the trees' leaves say, features [n, d] to logits [n, classes].

    One label an image: the logarithm of each class's probability. `several` labels: the log-odds of each.
    Nodes of all trees stand in one row, the leaves first; a leaf's children are itself. Left is where a feature is at
    most the threshold, as in scikit-learn. But where the feature nearest to its threshold on a tree's way is within
    BAND, the tree answers with a weighted mean of both sides, half and half on the threshold: two runtimes differ in
    the last bits of a feature, and would otherwise now and then take different sides.
    """

    roots: Tensor
    features: Tensor
    thresholds: Tensor
    sides: Tensor
    leaves: Tensor

    def __init__(self, trees: int, nodes: int, leaves: int, depth: int, classes: int, several: bool) -> None:
        super().__init__()
        self.depth, self.several = depth, several
        self.register_buffer("roots", torch.zeros(trees, dtype=torch.int32))
        self.register_buffer("features", torch.zeros(nodes, dtype=torch.int32))
        self.register_buffer("thresholds", torch.full((nodes,), FAR))
        self.register_buffer("sides", torch.zeros(nodes, 2, dtype=torch.int32))  # left, right
        self.register_buffer("leaves", torch.zeros(leaves, classes))  # probabilities

    def forward(self, features: Tensor) -> Tensor:
        leaf, margin, near = self.descend(features, None)
        beyond = self.descend(features, near)[0]
        share = (0.5 + margin / (2 * BAND)).clamp(max=1.0)[..., None]
        said = (share * self.leaves[leaf] + (1 - share) * self.leaves[beyond]).mean(dim=1)
        if self.several:
            return torch.log(said + LEAST) - torch.log(1 - said + LEAST)
        return torch.log(said + LEAST)

    def descend(self, features: Tensor, turned: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Of each image and tree [n, trees] the leaf, the least distance from a threshold on the way, and its node.

        At a node that is `turned` the way goes to the other side.
        """
        roots, asked, sides = self.roots.long(), self.features.long(), self.sides.long().flatten()
        node = roots + features.new_zeros((features.shape[0], 1), dtype=torch.long)
        margin, near = torch.full_like(node, FAR, dtype=features.dtype), node
        for _ in range(self.depth):
            beyond = features.gather(1, asked[node]) - self.thresholds[node]
            right = beyond > 0
            if turned is not None:
                right = right ^ (node == turned)
            closer = beyond.abs() < margin
            margin, near = torch.where(closer, beyond.abs(), margin), torch.where(closer, node, near)
            node = sides[2 * node + right.long()]
        return node, margin, near
