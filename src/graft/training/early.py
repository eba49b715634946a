"""Early features: what the lower stages of a network say, for pictures unlike those that it was pretrained on."""

from __future__ import annotations

from collections.abc import Sequence

from graft.errors import UsageError
from graft.networks.chain import Stage
from graft.networks.cut import place_of
from graft.networks.network import Backbone, Features


def early(at: str, backbone: Backbone, chain: Sequence[Stage], pool: bool = True) -> Features:
    """The features of the stages that the text names, joined by +: names, indices or shares of the chain."""
    names = [stage.name for stage in chain]
    chosen = {named(part, names) for part in at.split("+")}
    return Features(backbone.module, backbone.preprocess, [name for name in names if name in chosen], False, pool)


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
