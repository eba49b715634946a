"""Features of a frozen graph: pooled outputs of chosen layers, and the selection of layers and stages."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from graft.backbones.backbone import Backbone
from graft.backbones.graph import BATCH, LAST, MAP, POOLED, TOP, Graph, Stage, normalise_rows
from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError

CACHE_FORMAT = 3  # of cached features: raise it when decoding, resizing or pooling changes


@dataclass(frozen=True, eq=False)
class Features:
    """From uint8 images [n, 3, size, size] to features [n, d]: chosen layers, averaged over space, then the top output.

    The frozen part of a probe and of its classifier. With `top=False` the output of the whole backbone is left out:
    early features. With `pool=False` the features are the map [c, h, w] of one layer, flattened, and nothing else.
    Raises UsageError for an invalid combination.
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
    def is_inside_network(self) -> bool:
        """Whether the output is an activation inside the network, at a cut: always False."""
        return False

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the graph's outputs that make up the features, in order."""
        kind = POOLED if self.pool else MAP
        return (*(f"{kind}{name}" for name in self.layers), *[TOP] * self.top)

    @property
    def map_outputs(self) -> tuple[str, ...]:
        """The name of the map of each output; not every graph has it."""
        return (*(f"{MAP}{name}" for name in self.layers), *[LAST] * self.top)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of each output for one image. Raises UsageError for an unknown layer, or one without a map."""
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
        """The number of features of each layer, the last one last."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(self.widths)

    @property
    def shape(self) -> tuple[int, ...]:
        """(c, h, w) of the map, or (d,) of pooled features."""
        return (self.width,) if self.pool else self.shapes[0]

    def cache_key(self) -> str:
        """Return the key under which features are cached: a hash of weights, preprocessing and layers."""
        what = (CACHE_FORMAT, self.graph.identity, self.preprocess, self.outputs)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:32]

    def compile_features(self) -> FeatureRunner:
        """Return a runner of the graph."""
        return FeatureRunner(self)

    def reference_features(self, layers: Sequence[str]) -> Features:
        """Return the features that images are compared by: those of `layers` or, if empty, of the last layer here."""
        if layers:
            return replace(self, layers=tuple(layers), top=False, pool=True)
        if self.top:
            return replace(self, layers=())
        return replace(self, layers=self.layers[-1:], pool=True)


class FeatureRunner:
    """Run a graph: uint8 [n, 3, size, size] to features [n, d], optionally with reference features; thread-safe."""

    batch = BATCH

    def __init__(self, features: Features, compared: Features | None = None) -> None:
        self.features, self.reference = features, compared
        self.outputs = tuple(dict.fromkeys([*features.outputs, *(compared.outputs if compared else ())]))
        self.session = features.graph.runner

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the features [n, d]."""
        return _concat_outputs(self._run_outputs(images), self.features)

    def run_with_reference(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the features [n, d] and the reference features [n, w].

        Each layer of the reference features has length 1, so that the cosine of two images is the mean of their cosines
        by layer.
        """
        assert self.reference
        found = self._run_outputs(images)
        return _concat_outputs(found, self.features), np.concatenate(
            [normalise_rows(found[name]) for name in self.reference.outputs], 1
        )

    def _run_outputs(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        return dict(zip(self.outputs, self.session.run(images, self.outputs), strict=True))


def _concat_outputs(found: dict[str, NDArray[np.float32]], features: Features) -> NDArray[np.float32]:
    return np.concatenate([found[name].reshape(len(found[name]), -1) for name in features.outputs], axis=1)


# --- Selection of layers and stages -----------------------------------------------------------------------------------


def choose_layers(chain: Sequence[Stage], most: int = 8) -> tuple[str, ...]:
    """Choose the stages to pool: the last one of each resolution or width, evenly thinned to at most `most`.

    For a network of one width throughout (a ViT) they are four, evenly spaced.
    """
    ends = [a.name for a, b in pairwise(chain) if a.shape != b.shape]
    if len(ends) < 4:
        ends = [chain[len(chain) * quarter // 4 - 1].name for quarter in (1, 2, 3, 4) if len(chain) * quarter >= 4]
    step = max(1, -(-len(ends) // most))
    return tuple(dict.fromkeys(reversed(ends[::-1][::step])))


def build_probe_features(backbone: Backbone) -> Features:
    """Return the features of a linear probe: those of all chosen layers of the frozen backbone."""
    return Features(backbone.graph, backbone.preprocess, choose_layers(backbone.graph.stages))


def build_early_features(at: str, backbone: Backbone) -> Features:
    """Return the features of the stages in a text, joined by +: names, indices or shares of the chain."""
    chosen = parse_stages(at, [stage.name for stage in backbone.graph.stages])
    return Features(backbone.graph, backbone.preprocess, chosen, top=False)


def parse_stages(at: str, names: Sequence[str]) -> tuple[str, ...]:
    """Return the stages in a text, joined by +, in the order of the chain."""
    chosen = {find_stage(part, names) for part in at.split("+")}
    return tuple(name for name in names if name in chosen)


def find_stage(at: str, names: Sequence[str]) -> str:
    """Return the stage of a name, index or share (0.5 ends half of the chain). Raises UsageError for an unknown one."""
    place = parse_cut(at)
    if isinstance(place, float) and 0 < place <= 1:
        place = max(round(place * len(names)) - 1, 0)
    if isinstance(place, int) and -len(names) <= place < len(names):
        return names[place]
    if place not in names:
        raise UsageError(f"There is no stage {at!r}. The stages are {', '.join(names)}; an index or a share will do.")
    return str(place)


def parse_cut(text: str) -> str | int | float:
    """Parse a cut: an index ('-1'), a share of the chain ('0.75'), or the name of a stage."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
