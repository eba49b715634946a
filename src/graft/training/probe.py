"""The linear probe, solved on cached features, and the result of every strategy: a network with held-out logits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graft.backbones.backbone import Backbone
from graft.backbones.features import Features, build_early_features, build_probe_features, choose_layers
from graft.data.dataset import Labels
from graft.data.duplicates import iterate_blocks
from graft.errors import DataError, UsageError
from graft.features.embed import embed_or_raise
from graft.heads.choose import ProbeResult, choose_head
from graft.model.network import Network, iterate_batches, last_layer_features
from graft.progress import ProgressWrapper
from graft.training.material import Material
from graft.training.plan import Plan
from graft.training.strategies import EarlyFeatures, Probe


@dataclass(frozen=True, kw_only=True)
class TrainedNetwork(ABC):
    """A network and its held-out logits [n, classes].

    `labels` are those of the held-out images, which are the `rows` of the material. Above `cut` it was trained, by
    `recipe`. `record` is for the report, `head_info` for the card: plain values.
    """

    network: Network
    material: Material
    logits: NDArray[np.float64]
    labels: Labels
    rows: NDArray[np.intp]
    record: dict[str, Any]
    head_info: dict[str, Any]
    cut: str = "head"
    recipe: dict[str, Any] = field(default_factory=dict)

    def centre_logits(self) -> Self:
        """Shift the logits, and those of the head, to sum 0: see `Head.centre_logits`. Multilabel is unchanged."""
        head = self.network.head.centre_logits() if self.labels.ndim == 1 else None
        if head is None:
            return self
        logits = self.logits - self.logits.mean(axis=1, keepdims=True)
        return replace(self, network=replace(self.network, head=head), logits=logits)

    @property
    @abstractmethod
    def comparison_layers(self) -> tuple[str, ...]:
        """The layers by whose features images are compared; () for the last one."""

    @property
    @abstractmethod
    def is_comparison_frozen(self) -> bool:
        """Whether these layers are as pretrained: then training images may be held out of a comparison as well."""

    @abstractmethod
    def iterate_comparison_features(
        self, rows: NDArray[np.intp], watch: ProgressWrapper
    ) -> Iterator[NDArray[np.float32]]:
        """Yield batches [n, d] of what these rows of the material are compared by."""


@dataclass(frozen=True, kw_only=True)
class TrainedProbe(TrainedNetwork):
    """A head on features of a frozen network. It reads `feature_columns` of the cached ones."""

    feature_columns: NDArray[np.intp]

    @property
    def comparison_layers(self) -> tuple[str, ...]:
        """The last layer: nothing was trained."""
        return ()

    @property
    def is_comparison_frozen(self) -> bool:
        """Always."""
        return True

    def iterate_features(self, rows: NDArray[np.intp]) -> Iterator[NDArray[np.float32]]:
        """Yield batches [n, d] of what the head reads, from the cache."""
        for _, block in iterate_blocks(self.material.embeddings.select(rows)):
            yield block[:, self.feature_columns]

    def iterate_comparison_features(
        self, rows: NDArray[np.intp], watch: ProgressWrapper
    ) -> Iterator[NDArray[np.float32]]:
        """Yield batches from the cache."""
        for features in self.iterate_features(rows):
            yield last_layer_features(self.network, features)


@dataclass(frozen=True, kw_only=True)
class FinetunedNetwork(TrainedNetwork):
    """A network of which some stages were trained, with the head."""

    frozen_stages: Sequence[str]
    tuned_stages: Sequence[str]

    @classmethod
    def from_record(
        cls,
        network: Network,
        material: Material,
        logits: NDArray[np.float64],
        labels: Labels,
        rows: NDArray[np.intp],
        record: dict[str, Any],
    ) -> Self:
        """Build it from what the record says of the last phase."""
        last = record["phases"][-1]
        return cls(
            network=network,
            material=material,
            logits=logits,
            labels=labels,
            rows=rows,
            record=record,
            head_info={"solver": "trained"},
            cut=last["cut"],
            recipe=record["recipe"],
            frozen_stages=last["frozen"],
            tuned_stages=last["trained"][:-1],  # the last one is the head
        )

    @property
    def comparison_layers(self) -> tuple[str, ...]:
        """The frozen stages or, where all was trained, those in the lower half: the last one of each resolution.

        Training draws the last layer's features of its classes together, and those of unknown images with them
        (bench/README.md). Of each resolution one, as single stages differ much in how well they do.
        """
        if not self.tuned_stages:
            return ()
        below = self.frozen_stages or self.tuned_stages[: max(len(self.tuned_stages) // 2, 1)]
        ends = choose_layers(self.network.features.graph.stages)
        return tuple(name for name in ends if name in below) or tuple(below[-1:])

    @property
    def is_comparison_frozen(self) -> bool:
        """Whether any stage was."""
        return not self.tuned_stages or bool(self.frozen_stages)

    def iterate_comparison_features(
        self, rows: NDArray[np.intp], watch: ProgressWrapper
    ) -> Iterator[NDArray[np.float32]]:
        """Yield batches that the network computes. Raises DataError for an image that cannot be read any more."""
        data, faults = self.material.data.take(rows), dict[int, str]()
        for output in iterate_batches(self.network, self.comparison_layers, data, watch, faults):
            yield output.reference
        for row, why in faults.items():
            raise DataError(f"{data.name(row)} could be read before, and now cannot: {why}.")


# --- linear probe -----------------------------------------------------------------------------------------------------


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
