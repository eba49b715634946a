"""Three small reference networks for pictures of 32 x 32 pixels, without pretrained weights: they learn from scratch.

Each gives features [n, d], as every other network does without its classifier.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

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
    return nn.Sequential(OrderedDict(rows=Rows(3 * SIZE, 128)))


class Rows(nn.Module):
    """Pictures [n, 3, rows, columns] as sequences of rows; gives the last state of a GRU, [n, width]."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, batch_first=True)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.gru(pictures.transpose(1, 2).flatten(2))[1][0]


SMALL: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "mlp": mlp, "rnn": rnn}
