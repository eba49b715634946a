"""What a head reads of an image: the outputs of a frozen graph, chosen by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np
from numpy.typing import NDArray

from graft.backbones.graph import BATCH, LAST, MAP, POOLED, TOP, Graph
from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError

FORMAT = 3  # of cached features: raise it when decoding, resizing or pooling changes


@dataclass(frozen=True, eq=False)
class Features:
    """uint8 images [n, 3, size, size] to features [n, d]: chosen layers, each averaged over space, then the top.

    The frozen half of a probe, and the first half of the classifier that it makes. With `top=False` what the backbone
    itself says is left out: early features. With `pool=False` it is the map [c, h, w] of one layer, flattened, and
    nothing else. Raises UsageError where these do not go together.
    """

    graph: Graph
    preprocess: Preprocess
    layers: tuple[str, ...] = ()
    top: bool = True
    pool: bool = True

    def __post_init__(self) -> None:
        if not self.pool and len(self.layers) != 1:
            raise UsageError(f"A feature map is that of one layer. Got {len(self.layers)}: {', '.join(self.layers)}.")
        if not self.top and not self.layers:
            raise UsageError("Early features need the name of at least one layer. Got none.")
        if not self.pool:
            object.__setattr__(self, "top", False)

    @property
    def inside(self) -> bool:
        """Whether this is what crosses a border inside a network: never."""
        return False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The graph's outputs that the features are, in order."""
        kind = POOLED if self.pool else MAP
        return (*(f"{kind}{name}" for name in self.layers), *[TOP] * self.top)

    @property
    def maps(self) -> tuple[str, ...]:
        """Of each output the one that holds its map, which not every graph has."""
        return (*(f"{MAP}{name}" for name in self.layers), *[LAST] * self.top)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """What each output gives for an image. Raises UsageError for a layer without a map where one is asked for."""
        known = self.graph.shapes
        if lacking := [name for name in self.outputs if name not in known]:
            layer = lacking[0].partition("/")[2]
            shape = next((list(stage.shape) for stage in self.graph.stages if stage.name == layer), None)
            if self.pool or shape is None:
                raise UsageError(f"The graph has no output {lacking[0]!r}: it has no such layer.")
            raise UsageError(
                f"The layer {layer!r} gives no feature map but {shape} numbers for an image, and a conv head needs a "
                "map. Networks made of convolutions have one, so has Swin; for this one choose an mlp head."
            )
        return tuple(known[name] for name in self.outputs)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """How many features each layer gives, the last one last."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def width(self) -> int:
        """How many features there are."""
        return sum(self.widths)

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of the map, or (d,) of pooled features."""
        return (self.width,) if self.pool else self.shapes[0]

    def key(self) -> str:
        """A name for what this computes: weights, preprocessing and layers. Features are cached under it."""
        what = (FORMAT, self.graph.identity, self.preprocess, self.outputs)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:32]

    def compiled(self, count: int) -> Run:
        """The graph at work, for about `count` images."""
        return Run(self)

    def compared(self, layers: Sequence[str]) -> Features:
        """The features by which images are compared: those of these layers or, without any, of the last one here."""
        if layers:
            return replace(self, layers=tuple(layers), top=False, pool=True)
        if self.top:
            return replace(self, layers=())
        return replace(self, layers=self.layers[-1:], pool=True)


class Run:
    """A graph that runs: uint8 [n, 3, size, size] to features [n, d], and those that images are compared by.

    May be called from several threads.
    """

    batch = BATCH

    def __init__(self, features: Features, compared: Features | None = None) -> None:
        self.features, self.compared = features, compared
        self.outputs = tuple(dict.fromkeys([*features.outputs, *(compared.outputs if compared else ())]))
        self.session = features.graph.running

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features alone."""
        return _row(self._found(images), self.features)

    def both(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The features, and the reference features [n, w].

        Each layer of these is brought to length 1, so that the cosine of two images is the mean of their cosines by
        layer.
        """
        assert self.compared
        found = self._found(images)
        return _row(found, self.features), np.concatenate([_unit(found[name]) for name in self.compared.outputs], 1)

    def _found(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(self.outputs, self.session.run(images, self.outputs), strict=True))


def _row(found: dict[str, NDArray[np.float32]], features: Features) -> NDArray[np.float32]:
    return np.concatenate([found[name].reshape(len(found[name]), -1) for name in features.outputs], axis=1)


def _unit(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1; nan where a number is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
