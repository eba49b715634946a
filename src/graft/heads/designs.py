"""The heads to train, as they are asked for: 'mlp:hidden=256+128'. Options and their checks, without PyTorch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from graft.errors import UsageError

ACTIVATIONS = ("relu", "leaky-relu", "tanh", "sigmoid", "gelu")
INITIALISERS = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "normal", "zero")
PADDINGS = {"same": 1, "valid": 0}  # rows of zeros around a map before its 3 x 3 convolution


@dataclass(frozen=True)
class Linear:
    """One layer on the features.

    `dropout` takes whole features away. They are averages over space, so that this is the same as taking whole
    channels of the map away before it is averaged: spatial dropout (Tompson et al. 2015) needs no option of its own.
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

    `init` and `seed` are one value for all layers, or one for each, joined by +; the layer of the classes is the last.
    """

    hidden: str = "256"
    activation: str = "relu"
    dropout: float = 0.0
    init: str = "he_normal"
    seed: int | str = 0

    def __post_init__(self) -> None:
        _check_share("dropout", self.dropout)
        _check_layers(self.activation, self.init, self.seed, [*map(str, widths(self.hidden)), "classes"])


@dataclass(frozen=True)
class Conv:
    """The classic head on a feature map: 3 x 3 convolution, activation, largest of each 2 x 2, then as `Mlp`.

    With `padding` 'same' the convolution keeps the size of the map, with 'valid' it loses a row on each side.
    `spatial_dropout` takes whole filters away before the pooling. Of `init` and `seed` the first is the convolution's.
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
        _check_layers(self.activation, self.init, self.seed, ["conv", *map(str, widths(self.hidden)), "classes"])


Design = Linear | Mlp | Conv
HEADS: dict[str, type[Any]] = {"linear": Linear, "mlp": Mlp, "conv": Conv}


def widths(hidden: str) -> list[int]:
    """[256, 128] from '256+128'; no text, no hidden layer."""
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
