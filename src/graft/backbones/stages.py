"""Which stages of a chain are read: those worth pooling, or those that a text names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from graft.backbones.backbone import Backbone
from graft.backbones.features import Features
from graft.backbones.graph import Stage
from graft.errors import UsageError


def layers(chain: Sequence[Stage], most: int = 8) -> tuple[str, ...]:
    """The stages worth pooling: the last one of each resolution or width, evenly thinned to at most `most`.

    A network of one width throughout (a ViT) gives four, evenly spaced.
    """
    ends = [a.name for a, b in pairwise(chain) if a.shape != b.shape]
    if len(ends) < 4:
        ends = [chain[len(chain) * quarter // 4 - 1].name for quarter in (1, 2, 3, 4) if len(chain) * quarter >= 4]
    step = max(1, -(-len(ends) // most))
    return tuple(dict.fromkeys(reversed(ends[::-1][::step])))


def probed(backbone: Backbone) -> Features:
    """The backbone as a probe sees it: frozen whole, with the features of all its layers."""
    return Features(backbone.graph, backbone.preprocess, layers(backbone.graph.stages))


def early(at: str, backbone: Backbone) -> Features:
    """The features of the stages that the text names, joined by +: names, indices or shares of the chain."""
    chosen = chosen_of(at, [stage.name for stage in backbone.graph.stages])
    return Features(backbone.graph, backbone.preprocess, chosen, top=False)


def chosen_of(at: str, names: Sequence[str]) -> tuple[str, ...]:
    """The stages that a text names, joined by +, in the order of the chain."""
    chosen = {named(part, names) for part in at.split("+")}
    return tuple(name for name in names if name in chosen)


def named(at: str, names: Sequence[str]) -> str:
    """The stage at a name, index or share: 0.5 is the one that ends half of the chain."""
    place = place_of(at)
    if isinstance(place, float) and 0 < place <= 1:
        place = max(round(place * len(names)) - 1, 0)
    if isinstance(place, int) and -len(names) <= place < len(names):
        return names[place]
    if place not in names:
        raise UsageError(f"There is no stage {at!r}. The stages are {', '.join(names)}; an index or a share will do.")
    return str(place)


def place_of(text: str) -> str | int | float:
    """A cut as text: an index ('-1'), a share of the chain ('0.75'), or the name of a stage."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
