"""Solved heads on a frozen backbone: the probe, on all layers or on earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones.backbone import Backbone
from graft.backbones.features import Features
from graft.backbones.stages import early, probed
from graft.data.dataset import Labels
from graft.errors import UsageError
from graft.model.network import Network
from graft.progress import Watch
from graft.training.choices import Choices
from graft.training.embed import embed_again
from graft.training.heads.choose import Chosen, choose
from graft.training.material import Material
from graft.training.strategies import EarlyFeatures, Probe


@dataclass(frozen=True)
class Trained:
    """A network that learned; what it says, [n, classes], of images that it did not learn from; and what was chosen.

    `labels` are those of the same pictures, which are the `rows` of the material. `columns` of the material's cached
    features are what its head reads, None where they are not cached. `record` is for the report, `solved` for the card:
    plain values.
    """

    network: Network
    material: Material
    logits: NDArray[np.float64]
    labels: Labels
    rows: NDArray[np.intp]
    record: dict[str, Any]
    solved: dict[str, Any] = field(default_factory=dict)
    columns: NDArray[np.intp] | None = None

    def centred(self) -> Trained:
        """Its logits, and those of its head, sum to 0: see `Head.centred`. With several labels as it is."""
        head = self.network.head.centred() if self.labels.ndim == 1 else None
        if head is None:
            return self
        logits = self.logits - self.logits.mean(axis=1, keepdims=True)
        return replace(self, network=replace(self.network, head=head), logits=logits)


def solve(choices: Choices, backbone: Backbone, material: Material, watch: Watch) -> Trained:
    """The best head on what the frozen network says, by out-of-fold evidence.

    It reads the backbone's layers, or the early stages that the strategy names.
    """
    plan, frozen = choices.plan, frozen_of(choices, backbone)
    if isinstance(plan, EarlyFeatures):
        head, read = plan.solver, "all"
    else:
        plan = plan if isinstance(plan, Probe) else Probe()
        head, read = plan.head, plan.layers
    material = embedded_by(frozen, material, plan.views, choices.seed, watch)
    chosen = choose(head, read, material.problems(frozen.widths, plan.views), plan.pca, watch)
    return Trained(
        network=Network(read_by(frozen, chosen), chosen.solution.head),
        material=material,
        logits=chosen.solution.logits[:: plan.views],  # view 0 is what a prediction sees
        labels=material.data.labels[material.train],
        rows=material.train,
        record=record(chosen, frozen, plan.pca),
        solved={"solver": chosen.solution.name, "strength": chosen.solution.strength},
        columns=chosen.columns,
    ).centred()


def check(choices: Choices, backbone: Backbone) -> None:
    """Raises UsageError for what this network does not take: now, and not after minutes of embedding.

    Stages that it does not have, and more principal components than the narrowest of what is tried has features.
    """
    plan, features = choices.plan, frozen_of(choices, backbone)
    read = plan.layers if isinstance(plan, Probe) else "all"
    width = features.width if read == "all" else features.widths[-1]
    if choices.pca > width:
        which = "these layers together give" if read == "all" else "the last layer gives"
        raise UsageError(f"'pca' must be at most {width}, as many features as {which}. Got {choices.pca}.")


def frozen_of(choices: Choices, backbone: Backbone) -> Features:
    """The features among which the head is chosen: of all layers, or of the early stages that the strategy names."""
    if isinstance(choices.plan, EarlyFeatures):
        return early(choices.plan.at, backbone)
    return probed(backbone)


def embedded_by(frozen: Features, material: Material, views: int, seed: int, watch: Watch) -> Material:
    """The material with this network's features: those of view 0 for every picture, of all views for training."""
    store = material.embedded.store
    if store.folder.name != frozen.key():
        store = embed_again(frozen, material.data, seed=seed, watch=watch).store
    if views > 1:
        store = embed_again(frozen, material.data.take(material.train), views=views, seed=seed, watch=watch).store
    return replace(material, embedded=replace(material.embedded, store=store))


def read_by(frozen: Features, chosen: Chosen) -> Features:
    """The features that the chosen head reads."""
    layers: Sequence[str] = frozen.layers if chosen.layers == "all" else ()
    return replace(frozen, layers=tuple(layers))


def read_from(layers: Sequence[str], top: bool) -> list[str]:
    """What a head reads, in words."""
    return [*layers, *(["last"] if top else [])]


def record(chosen: Chosen, frozen: Features, pca: int = 0) -> dict[str, Any]:
    """What was chosen, and what else was tried."""
    return {
        "layers": read_from(read_by(frozen, chosen).layers, frozen.top),
        "head": {
            "name": chosen.solution.name,
            "strength": chosen.solution.strength,
            "layers": chosen.layers,
            "pca": pca,
            "tried": chosen.tried,
        },
        **chosen.figures,
    }
