"""The network of a catalogue's entry as a module: timm's, torchvision's or our own, with or without its classifier."""

from __future__ import annotations

import warnings
from typing import cast

import timm
import torchvision.models
from torch import nn
from torchvision.models import WeightsEnum

from graft.backbones.catalog import Entry
from graft.errors import UsageError
from graft.torch.small import SMALL

# Only what timm lacks, with how the names of the classifier's tensors begin.
TORCHVISION = {
    "alexnet": "classifier.6",
    "googlenet": "fc",
    "squeezenet1_0": "classifier",
    "squeezenet1_1": "classifier",
}


def build(entry: Entry) -> nn.Module:
    """The whole network with its ImageNet classifier, if it has one; random weights, ready to predict.

    Raises UsageError where the installed timm is older than the catalogue, and lacks it.
    """
    if entry.library == "graft":
        return SMALL[entry.name]().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old layers, slow initialisation: nothing that our user could change
        if entry.library == "timm":
            return _build_timm(entry.name).eval()
        return _build_torchvision(entry.name).eval()


def headless(entry: Entry, network: nn.Module) -> nn.Module:
    """The same network, changed in place so that it gives pooled features [n, d] instead of 1000 scores."""
    if entry.library == "graft":
        return network
    if entry.library == "timm":
        network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    elif entry.name == "alexnet":
        cast(nn.Sequential, network.classifier)[6] = nn.Identity()
    elif entry.name == "googlenet":
        network.fc = nn.Identity()
    else:  # SqueezeNet classifies every place of the map, then pools; here it only pools
        network.classifier = nn.AdaptiveAvgPool2d(1)
    return network


def published(name: str) -> WeightsEnum:
    """The weights that torchvision offers for one of its networks, the best first."""
    return cast(WeightsEnum, next(iter(torchvision.models.get_model_weights(name))))


def _build_timm(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=False)
    except RuntimeError as error:  # what timm raises for a name or a tag that it does not know
        if timm.is_model(name) and "." not in name:
            raise
        raise UsageError(
            f"The installed timm {timm.__version__} has no network '{name}', a newer one has. "
            "Install it with `pip install --upgrade timm`."
        ) from error


def _build_torchvision(name: str) -> nn.Module:
    if name == "googlenet":  # as its pretrained version: inputs rescaled inside, no auxiliary classifiers
        return torchvision.models.googlenet(aux_logits=False, init_weights=False, transform_input=True)
    return torchvision.models.get_model(name, weights=None)
