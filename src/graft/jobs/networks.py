"""List the pretrained networks and their stages, and open one with its own published classes, without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from graft.backbones import catalog, weights
from graft.backbones.backbone import load_backbone
from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import Stage
from graft.data.dataset import Dataset
from graft.errors import DataError, UsageError, WeightsError
from graft.extras import require_package
from graft.model import card
from graft.model.classifier import Classifier, load


def backbones(filter: str = "*", *, offline: bool = False) -> list[dict[str, Any]]:
    """List matching networks: name, parameters, GMAC, input size, licence of the weights and where these are.

    `weights` is 'embedded', 'folder' (in GRAFT_WEIGHTS), 'cached', 'download', 'offline' where they would be downloaded
    and `offline` or HF_HUB_OFFLINE forbids it, or 'none' where none are published. Raises UsageError if no network
    matches.
    """
    found = [asdict(entry) | {"weights": _weights_location(entry, offline)} for entry in catalog.search(filter)]
    if not found:
        raise UsageError(f"No network matches {filter!r}. Patterns look like 'resnet*'.")
    return found


def _weights_location(entry: CatalogEntry, offline: bool) -> str:
    if source := weights.find_local(entry):
        return source.where
    try:
        where = weights.find_remote(entry).where
    except WeightsError:
        return "none"
    return "offline" if offline or weights.is_hub_offline() else where


def stages(backbone: str = catalog.DEFAULT) -> list[dict[str, Any]]:
    """List the stages in forward order: index, share, name, output shape, parameters, cost and layers.

    `share` is the fraction of the chain before the stage, `below` the fraction of the parameters: what a cut there
    freezes. `work` is the stage's fraction of the network's multiply-adds, `above` that of this stage and all after it:
    what a cut there trains. `layers` are its convolutions and linear layers, each with the parameters that `last` would
    train with it. No pretrained weights are needed: PyTorch builds the network with random ones. Without PyTorch,
    `work` and `above` are None and `layers` is empty.
    """
    found, costs, total_cost, layers = (
        _profile_with_torch(backbone) if find_spec("torch") else _read_from_graph(backbone)
    )
    sums = list(accumulate((stage.parameters for stage in found), initial=0))
    return [
        {
            "index": index,
            "share": round(index / len(found), 3),
            "name": stage.name,
            "shape": list(stage.shape),
            "parameters": stage.parameters,
            "below": round(sums[index] / sums[-1], 4),
            "work": round(costs[index] / max(total_cost, 1), 4) if costs else None,
            "above": round(sum(costs[index:]) / max(total_cost, 1), 4) if costs else None,
            "layers": [
                {"name": layer.name, "parameters": layer.parameters}
                for layer in layers
                if f"{layer.name}.".startswith(f"{stage.name}.")
            ],
        }
        for index, stage in enumerate(found)
    ]


StageProfile = tuple[Sequence[Stage], list[int], int, Sequence[Any]]  # stages, multiply-adds of each, in all, layers


def _profile_with_torch(backbone: str) -> StageProfile:
    """Count multiply-adds and find layers in the PyTorch network."""
    from graft.torch import chain, restore
    from graft.torch.chain import find_weight_layers
    from graft.torch.network import FeaturesModule

    network = restore.build_random_module(backbone)
    found = chain.find_stages(network)
    spent, whole = chain.count_multiply_adds(network, found)
    return found, spent, whole, find_weight_layers(FeaturesModule(network.module, network.preprocess, ()))


def _read_from_graph(backbone: str) -> StageProfile:
    """Read the stages from the graph, which has neither costs nor layers."""
    return load_backbone(backbone).graph.stages, [], 0, ()


# --- published classes ------------------------------------------------------------------------------------------------


def load_published_classifier(
    backbone: str = catalog.DEFAULT, weights: str | Path | None = None, *, offline: bool = False
) -> Classifier:
    """Load a pretrained network as a classifier of the classes it was published with, ImageNet's for nearly all.

    Raises UsageError for a network without a linear classifier and WeightsError for weights without one.

    >>> load_published_classifier().predict("photo.jpg")[0].label  # doctest: +SKIP
    'daisy'
    """
    require_package("torch", "A network's own classifier is read by PyTorch, and that")
    from graft.backbones.weights import resolve_weights_file
    from graft.torch import direct as pretrained

    network, classes, source = pretrained.load_published(backbone, resolve_weights_file(weights), offline)
    description = card.build_card(network, source, classes, "direct", 1.0)
    no_data = {"train": 0, "test": 0, "seed": 0}  # nothing was trained or tested on, nothing drawn
    return Classifier(network, replace(description, head=description.head | {"solver": "published"}, data=no_data))


def open_classifier(model: str | Path | Classifier) -> Classifier:
    """Return a classifier as it is, load the one saved in a folder, or a pretrained network by name.

    Raises ModelError for anything else.
    """
    if isinstance(model, Classifier):
        return model
    if not Path(model).exists() and catalog.is_known(str(model)):
        return load_published_classifier(str(model))
    return load(model)


def relabel_dataset(data: Dataset, classifier: Classifier) -> Dataset:
    """Return the data set with the classifier's classes, to which its class names are matched.

    Raises DataError for a class that the classifier does not know by any of its names.
    """
    if not len(data) or data.labels.min() < 0:
        raise DataError("A score needs images, and a label for each.")
    require_package("torch", "Folders are matched with the names of ImageNet's classes by timm, and that")
    from graft.torch.direct import match_class_names

    found = match_class_names(data.classes, classifier.classes)
    order = np.array([found[name] for name in data.classes], np.int32)
    if data.labels.ndim == 1:
        return replace(data, classes=classifier.classes, labels=order[data.labels])
    labels = np.zeros((len(data), len(classifier.classes)), np.uint8)
    for column, index in enumerate(order):  # in a loop: two names may mean the same class
        labels[:, index] |= data.labels[:, column]
    return replace(data, classes=classifier.classes, labels=labels)
