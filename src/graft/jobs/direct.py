"""Pretrained networks with their own published classes, without training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.backbones import catalog
from graft.data.dataset import Dataset
from graft.errors import DataError
from graft.extras import require_package
from graft.model import card
from graft.model.classifier import Classifier, load


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
