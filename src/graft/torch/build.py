"""Build the module of a catalogue entry: timm's, torchvision's or graft's own small networks."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import cast

import timm
import torchvision.models
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from graft.backbones.catalog import CatalogEntry
from graft.errors import UsageError

SIZE = 32  # pixels on a side


def mlp() -> nn.Module:
    """All pixels at once: two dense layers, and no idea that pixels have neighbours."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            dense1=nn.Linear(3 * SIZE * SIZE, 256),
            relu1=nn.ReLU(),
            dense2=nn.Linear(256, 128),
            relu2=nn.ReLU(),
        )
    )


def cnn() -> nn.Module:
    """The network of many a first lesson on convolutions: three of them, two poolings, one dense layer."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 32, 3),  # 30 x 30
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),  # 15 x 15
            conv2=nn.Conv2d(32, 64, 3),  # 13 x 13
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),  # 6 x 6
            conv3=nn.Conv2d(64, 64, 3),  # 4 x 4
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            dense=nn.Linear(64 * 4 * 4, 64),
            relu4=nn.ReLU(),
        )
    )


def rnn() -> nn.Module:
    """Reads the rows from top to bottom, and remembers: one recurrent layer."""
    return nn.Sequential(OrderedDict(rows=RowGru(3 * SIZE, 128)))


class RowGru(nn.Module):
    """Images [n, 3, rows, columns] as sequences of rows; gives the last state of a GRU, [n, width]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.gru(images.transpose(1, 2).flatten(2))[1][0]


SMALL: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "mlp": mlp, "rnn": rnn}


# --- the catalogue ----------------------------------------------------------------------------------------------------


# Only what timm lacks, with how the names of the classifier's tensors begin.
TORCHVISION = {
    "alexnet": "classifier.6",
    "googlenet": "fc",
    "squeezenet1_0": "classifier",
    "squeezenet1_1": "classifier",
}


def build_network(entry: CatalogEntry) -> nn.Module:
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


def remove_classifier(entry: CatalogEntry, network: nn.Module) -> nn.Module:
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


def best_torchvision_weights(name: str) -> WeightsEnum:
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
