"""Linear probe: closed-form heads on cached features of a frozen backbone, all layers or early ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones.backbone import Backbone
from graft.backbones.features import Features, build_early_features, build_probe_features
from graft.errors import UsageError
from graft.features.embed import embed_or_raise
from graft.heads.choose import ProbeResult, choose_head
from graft.model.network import Network
from graft.progress import ProgressWrapper
from graft.training.material import Material
from graft.training.plan import Plan
from graft.training.strategies import EarlyFeatures, Probe
from graft.training.trained import TrainedProbe


def fit_probe(
    plan: Plan,
    backbone: Backbone,
    material: Material,
    watch: ProgressWrapper,
    rows: NDArray[np.intp] | None = None,
) -> TrainedProbe:
    """Fit the head with the best out-of-fold predictions on the features of the frozen network.

    It reads the backbone's layers, or the early stages that the strategy names. `rows` are the images to fit it on, all
    of the training part unless given.
    """
    rows = material.train if rows is None else rows
    strategy, frozen = plan.parsed_strategy, get_probe_features(plan, backbone)
    if isinstance(strategy, EarlyFeatures):
        head, layers = strategy.solver, "all"
    else:
        strategy = strategy if isinstance(strategy, Probe) else Probe()
        head, layers = strategy.head, strategy.layers
    material = embed_material(frozen, material, strategy.views, plan.seed, watch)
    result = choose_head(
        head, layers, material.build_problems(frozen.widths, strategy.views, rows), strategy.pca, watch
    )
    return TrainedProbe(
        network=Network(select_layers(frozen, result), result.solution.head),
        material=material,
        logits=result.solution.logits[:: strategy.views],  # view 0 is what a prediction sees
        labels=material.data.labels[rows],
        rows=rows,
        record=build_record(result, frozen, strategy.pca),
        head_info={"solver": result.solution.name, "strength": result.solution.strength},
        feature_columns=result.columns,
    ).centre_logits()


def check_probe(plan: Plan, backbone: Backbone) -> None:
    """Raise UsageError for stages that the network lacks and for more principal components than features.

    Called before minutes of embedding.
    """
    strategy, features = plan.parsed_strategy, get_probe_features(plan, backbone)
    read = strategy.layers if isinstance(strategy, Probe) else "all"
    width = features.width if read == "all" else features.widths[-1]
    if plan.pca > width:
        which = "these layers together give" if read == "all" else "the last layer gives"
        raise UsageError(f"'pca' must be at most {width}, as many features as {which}. Got {plan.pca}.")


def get_probe_features(plan: Plan, backbone: Backbone) -> Features:
    """Return the features among which the head chooses: all layers, or the early stages that the strategy names."""
    if isinstance(plan.parsed_strategy, EarlyFeatures):
        return build_early_features(plan.parsed_strategy.at, backbone)
    return build_probe_features(backbone)


def embed_material(frozen: Features, material: Material, views: int, seed: int, watch: ProgressWrapper) -> Material:
    """Embed the material with this network: view 0 of every image, all views of the training images."""
    store = material.embeddings.store
    if store.folder.name != frozen.cache_key():
        store = embed_or_raise(frozen, material.data, seed=seed, watch=watch).store
    if views > 1:
        store = embed_or_raise(frozen, material.data.take(material.train), views=views, seed=seed, watch=watch).store
    return replace(material, embeddings=replace(material.embeddings, store=store))


def select_layers(frozen: Features, chosen: ProbeResult) -> Features:
    """Return the features that the chosen head reads."""
    layers: Sequence[str] = frozen.layers if chosen.layers == "all" else ()
    return replace(frozen, layers=tuple(layers))


def list_layers(layers: Sequence[str], top: bool) -> list[str]:
    """Return the names of the layers that a head reads, the network's own output as 'last'."""
    return [*layers, *(["last"] if top else [])]


def build_record(chosen: ProbeResult, frozen: Features, pca: int = 0) -> dict[str, Any]:
    """Return the choice and the other candidates, for the report."""
    return {
        "layers": list_layers(select_layers(frozen, chosen).layers, frozen.top),
        "head": {
            "name": chosen.solution.name,
            "strength": chosen.solution.strength,
            "layers": chosen.layers,
            "pca": pca,
            "tried": chosen.candidates,
        },
        **chosen.metrics,
    }
