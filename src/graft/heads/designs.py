"""Options of heads ('mlp:hidden=256+128') and their checks, without PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from graft import extras, spec
from graft.errors import UsageError

ACTIVATIONS = ("relu", "leaky-relu", "tanh", "sigmoid", "gelu")
INITIALISERS = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "normal", "zero")
PADDINGS = {"same": 1, "valid": 0}  # rows of zeros around a map before its 3 x 3 convolution

HEAD_NAMES = ("auto", "ridge", "logistic", "svm", "lda", "ncm", "knn", "mlp", "forest")  # of heads that are solved
SKLEARN_HEADS = ("svm", "lda", "ncm", "knn", "mlp", "forest")  # fitted by scikit-learn
SINGLE_LABEL_HEADS = ("knn",)  # heads that count votes for one class of each image
LAYER_CHOICES = ("auto", "last", "all")


# --- Heads trained by gradient descent --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """A linear layer on the features.

    `dropout` drops whole features. They are averages over space, so that this equals dropping whole channels of the
    map before the average: spatial dropout (Tompson et al. 2015) needs no option of its own.
    """

    dropout: float = 0.0
    init: str = "zero"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_share("dropout", self.dropout)
        _check_choice("init", self.init, INITIALISERS)
        _check_seed(self.seed)


@dataclass(frozen=True)
class Mlp:
    """Hidden layers of the widths `hidden` (256+128), each followed by the activation and dropout.

    `init` and `seed` are one value for all layers, or one for each, joined by +; the output layer is the last.
    """

    hidden: str = "256"
    activation: str = "relu"
    dropout: float = 0.0
    init: str = "he_normal"
    seed: int | str = 0

    def __post_init__(self) -> None:
        _check_share("dropout", self.dropout)
        _check_layers(self.activation, self.init, self.seed, [*map(str, parse_widths(self.hidden)), "classes"])


@dataclass(frozen=True)
class Conv:
    """The classic head on a feature map: 3 x 3 convolution, activation, 2 x 2 max pooling, then as `Mlp`.

    With `padding` 'same' the convolution keeps the size of the map, with 'valid' it loses a row on each side.
    `spatial_dropout` drops whole filters before the pooling. Of `init` and `seed` the first is the convolution's.
    """

    filters: int = 32
    padding: str = "same"
    hidden: str = "30+30"
    activation: str = "relu"
    spatial_dropout: float = 0.0
    dropout: float = 0.0
    init: str = "he_normal"
    seed: int | str = 0

    def __post_init__(self) -> None:
        if self.filters < 1:
            raise UsageError(f"'filters' must be at least 1. Got {self.filters}.")
        _check_choice("padding", self.padding, PADDINGS)
        _check_share("spatial_dropout", self.spatial_dropout)
        _check_share("dropout", self.dropout)
        _check_layers(self.activation, self.init, self.seed, ["conv", *map(str, parse_widths(self.hidden)), "classes"])


HeadOptions = Linear | Mlp | Conv
HEADS: dict[str, type[Any]] = {"linear": Linear, "mlp": Mlp, "conv": Conv}


def parse_widths(hidden: str) -> list[int]:
    """Return [256, 128] for '256+128'; an empty text is no hidden layer."""
    parts = hidden.split("+") if hidden else []
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"'hidden' must be widths of layers, such as 256 or 256+128. Got {hidden!r}.")
    return [int(part) for part in parts]


def _check_share(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UsageError(f"{name!r} must be from 0 to below 1. Got {value}.")


def _check_choice(name: str, value: str, legal: Collection[str]) -> None:
    if value not in legal:
        raise UsageError(f"{name!r} must be one of {', '.join(legal)}. Got {value!r}.")


def _check_layers(activation: str, init: str, seed: int | str, layers: Sequence[str]) -> None:
    _check_choice("activation", activation, ACTIVATIONS)
    for name, text in (("init", init), ("seed", str(seed))):
        if (count := text.count("+") + 1) not in (1, len(layers)):
            raise UsageError(
                f"{name!r} must be one value for all layers, or one for each of the {len(layers)} "
                f"({', '.join(layers)}), joined by +. Got {count}: {text!r}."
            )
    for each in init.split("+"):
        # From zero the hidden layers would have no gradient: only a linear head can start there.
        _check_choice("init", each, [name for name in INITIALISERS if name != "zero"])
    for each in str(seed).split("+"):
        _check_seed(each)


def _check_seed(seed: int | str) -> None:
    text = str(seed)
    if not (text.isascii() and text.isdecimal() and int(text) < 2**64):
        raise UsageError(f"'seed' must be from 0 to 2^64 - 1. Got {text}.")


# --- Heads solved on cached features ----------------------------------------------------------------------------------


def check_head(head: str, layers: str, multilabel: bool = False) -> None:
    """Raise UsageError for an unknown head or choice of layers, or a head that does not support several labels."""
    if head not in HEAD_NAMES:
        raise UsageError(
            f"There is no head {head!r}.{spec.format_suggestions(head, HEAD_NAMES)} There are {', '.join(HEAD_NAMES)}."
        )
    if multilabel and head in SINGLE_LABEL_HEADS:
        able = ", ".join(name for name in HEAD_NAMES if name not in SINGLE_LABEL_HEADS)
        raise UsageError(f"The head {head!r} takes one label for each image. Several labels are taken by {able}.")
    if layers not in LAYER_CHOICES:
        raise UsageError(
            f"Layers are {', '.join(LAYER_CHOICES)}. Got {layers!r}.{spec.format_suggestions(layers, LAYER_CHOICES)}"
        )


def check_head_installed(head: str) -> None:
    """Raise UsageError for a head that needs scikit-learn where that is not installed."""
    if head in SKLEARN_HEADS:
        extras.require_package("sklearn", f"The head {head!r}")


def check_pca(pca: int) -> None:
    """Raise UsageError for a negative number of axes; 0 means no PCA."""
    if pca < 0:
        raise UsageError(f"'pca' must be 1 or more, how many axes to keep, or 0 to keep all features. Got {pca}.")
