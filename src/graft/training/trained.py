"""What a strategy returns: a network with held-out logits, either a probe on cached features or a tuned network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graft.backbones.features import choose_layers
from graft.data.dataset import Labels
from graft.data.duplicates import iterate_blocks
from graft.errors import DataError
from graft.model.network import Network, iterate_batches, last_layer_features
from graft.progress import ProgressWrapper
from graft.training.material import Material


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
