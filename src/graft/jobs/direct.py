"""A pretrained network as it is: no pictures, no training, its own classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from graft.backbones import catalog
from graft.data.dataset import Dataset
from graft.errors import DataError
from graft.extras import needed
from graft.model import card
from graft.model.classifier import Classifier, load


def direct(backbone: str = catalog.DEFAULT, weights: str | Path | None = None, *, offline: bool = False) -> Classifier:
    """A classifier of the classes that the network was published with, for nearly all networks ImageNet's.

    Raises UsageError for a network without a linear classifier and WeightsError for weights without one.

    >>> direct().predict("photo.jpg")[0].label  # doctest: +SKIP
    'daisy'
    """
    needed("torch", "A network's own classifier is read by PyTorch, and that")
    from graft.backbones.weights import file_of
    from graft.torch import direct as pretrained

    network, classes, source = pretrained.direct(backbone, file_of(weights), offline)
    described = card.describe(network, source, classes, "direct", 1.0)
    none = {"train": 0, "test": 0, "seed": 0}  # no picture and no chance had a part in it
    return Classifier(network, replace(described, head=described.head | {"solver": "published"}, data=none))


def opened(model: str | Path | Classifier) -> Classifier:
    """A classifier as it is, the one saved in a folder, or a pretrained network by its name, with its own classes.

    Raises ModelError for what is none of these.
    """
    if isinstance(model, Classifier):
        return model
    if not Path(model).exists() and catalog.known(str(model)):
        return direct(str(model))
    return load(model)


def relabelled(data: Dataset, classifier: Classifier) -> Dataset:
    """The same pictures, labelled with the classifier's classes: each class folder by the name that it has there.

    Raises DataError for a class that the classifier does not know, by any of its names.
    """
    if not len(data) or data.labels.min() < 0:
        raise DataError("A score needs pictures, and a label for each.")
    needed("torch", "Folders are matched with the names of ImageNet's classes by timm, and that")
    from graft.torch.direct import matches

    found = matches(data.classes, classifier.classes)
    order = np.array([found[name] for name in data.classes], np.int32)
    if data.labels.ndim == 1:
        return replace(data, classes=classifier.classes, labels=order[data.labels])
    labels = np.zeros((len(data), len(classifier.classes)), np.uint8)
    for column, index in enumerate(order):  # one by one: two of the names may mean the same class
        labels[:, index] |= data.labels[:, column]
    return replace(data, classes=classifier.classes, labels=labels)
