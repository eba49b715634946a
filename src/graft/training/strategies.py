"""Transfer strategies: where to start, which stages are frozen in which phase, and the default recipe.

A strategy that trains has a `start`, where its weights come from, and a sequence of `Phase`, each with its own cut.
One loop (`graft.torch.loop`) runs them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from graft.errors import UsageError
from graft.heads.designs import check_head, check_pca
from graft.training.recipe import Recipe

Start = Literal["solved", "fresh", "random"]  # closed-form head; new head; random network
TrainableParameters = Literal["all", "adapters", "norms"]  # which parameters above the cut are trained

MAX_VIEWS = 64


@dataclass(frozen=True)
class Phase:
    """Train the stages above `cut` for a share of the epochs, at `rate` times the recipe's rate.

    With `until` the stages from there on stay frozen. With `last` so many layers are trained, and the cut is the
    nearest border below them, whatever `cut` says. With `views` the frozen half's outputs for so many
    views of each image are computed once and kept; with 0 views the images are augmented anew in each epoch and go
    through the whole network.
    """

    cut: str
    share: float = 1.0
    rate: float = 1.0
    views: int = 0
    only: TrainableParameters = "all"
    until: str = "head"
    last: int = 0


@runtime_checkable
class FinetuneStrategy(Protocol):
    """A strategy that trains: see `Tail` for a short one."""

    recipe: ClassVar[Recipe]
    start: ClassVar[Start]

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        """What to train, in order, for a network with these stages."""
        ...


@dataclass(frozen=True)
class Direct:
    """The network with its own pretrained classes; nothing is trained."""


@dataclass(frozen=True)
class Probe:
    """The whole backbone stays frozen; a head is solved on its features.

    `head` and `layers` are chosen by out-of-fold predictions unless named; `views` adds a mirrored view and random
    crops of each training image. With `pca` the head reads so many principal components of the features.
    """

    head: str = "auto"
    layers: str = "auto"
    views: int = 1
    pca: int = 0

    def __post_init__(self) -> None:
        _check_views(self.views, 1)
        check_pca(self.pca)
        check_head(self.head, self.layers)  # now, and not after minutes of embedding


@dataclass(frozen=True)
class EarlyFeatures:
    """A head on the output of an earlier stage, or of several ('blocks.2+blocks.4'); later stages are dropped.

    `at` names stages, indices or shares of the chain. `solver` is the probe's head; where a head to train is named
    instead, it takes the place of everything after that stage, and `cut` says from which stage on training goes. `pca`
    is for a head that is solved, as in the probe.
    """

    at: str = "0.5"
    solver: str = "auto"
    views: int = 1
    cut: str = "head"
    pca: int = 0
    recipe: ClassVar[Recipe] = Recipe(epochs=20, rate=1e-3)
    start: ClassVar[Start] = "fresh"

    def __post_init__(self) -> None:
        _check_views(self.views, 1)
        check_pca(self.pca)
        check_head(self.solver, "auto")

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        return (Phase(self.cut, views=self.views),)


@dataclass(frozen=True)
class Tail:
    """Start from the solved head, then train the stages above the cut from cached outputs of those below.

    `cut` is '0.75' unless given. `until` leaves the stages from there on as they are; `last` counts layers from the top
    instead of naming a cut.
    """

    cut: str | None = None
    views: int = 4
    last: int | None = None
    until: str | None = None
    recipe: ClassVar[Recipe] = Recipe(epochs=12, rate=5e-4, mixup=0.4, smoothing=0.1)
    start: ClassVar[Start] = "solved"

    def __post_init__(self) -> None:
        _check_views(self.views, 0)
        if self.last is None:
            return
        if self.last < 1:
            raise UsageError(f"'last', a number of layers, must be at least 1. Got {self.last}.")
        for name, given in (("cut", self.cut), ("until", self.until)):
            if given is not None:
                raise UsageError(
                    f"'last' and '{name}' both say what is trained: choose one of them. 'last' counts layers from the "
                    f"head down, 'cut' and 'until' name stages. Got last={self.last} and {name}={given}."
                )

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        cut = "0.75" if self.cut is None else self.cut
        until = "head" if self.until is None else self.until
        return (Phase(cut, views=self.views, until=until, last=self.last or 0),)


@dataclass(frozen=True)
class LpFt:
    """Solve the head exactly, then fine-tune everything from there (Kumar et al. 2022)."""

    cut: str = "0"
    recipe: ClassVar[Recipe] = Recipe(epochs=8, rate=5e-4, layer_decay=0.9, mixup=0.4, smoothing=0.1)
    start: ClassVar[Start] = "solved"

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        return (Phase(self.cut),)


@dataclass(frozen=True)
class TwoPhase:
    """A new head first, with everything frozen; then all unfrozen at a lower rate."""

    first: float = 0.3
    lower: float = 0.1
    recipe: ClassVar[Recipe] = Recipe(epochs=10, rate=2e-3)
    start: ClassVar[Start] = "fresh"

    def __post_init__(self) -> None:
        if not 0 < self.first < 1:
            raise UsageError(f"'first', the head's share of the epochs, must be between 0 and 1. Got {self.first}.")
        if not 0 < self.lower <= 1:
            raise UsageError(f"'lower', a factor of the rate, must be above 0 and at most 1. Got {self.lower}.")

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        return (Phase("head", self.first, views=4), Phase("0", 1 - self.first, self.lower))


@dataclass(frozen=True)
class Gradual:
    """Unfreeze from the top: the head, then stage by stage (Howard and Ruder 2018), in `steps` phases."""

    steps: int = 4
    recipe: ClassVar[Recipe] = Recipe(epochs=12, rate=1e-3, layer_decay=0.9)
    start: ClassVar[Start] = "fresh"

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise UsageError(f"'steps' must be at least 2: the head, and everything. Got {self.steps}.")

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        places = [round(len(chain) * (1 - step / (self.steps - 1))) for step in range(self.steps)]
        cuts = ["head" if place == len(chain) else str(place) for place in dict.fromkeys(places)]
        return tuple(Phase(cut, 1 / len(cuts), views=2 if cut != "0" else 0) for cut in cuts)


@dataclass(frozen=True)
class Full:
    """A new head on the pretrained network, everything trained at once, the head at ten times the rate of the rest."""

    recipe: ClassVar[Recipe] = Recipe(rate=3e-3, backbone_rate=0.1, smoothing=0.1, augment="crop=0.5+flip")
    start: ClassVar[Start] = "fresh"

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        return (Phase("0"),)


@dataclass(frozen=True)
class Scratch:
    """Random weights, everything trained: the baseline without transfer."""

    recipe: ClassVar[Recipe] = Recipe(epochs=30, rate=2e-3, weight_decay=0.05, batch_norm="train")
    start: ClassVar[Start] = "random"

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        return (Phase("0"),)


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside the weights of the stages above the cut (Hu et al. 2022); merged at the end."""

    rank: int = 8
    cut: str = "0"
    recipe: ClassVar[Recipe] = Recipe(epochs=8, rate=1e-3, weight_decay=0.0, mixup=0.4, smoothing=0.1)
    start: ClassVar[Start] = "solved"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"'rank' must be at least 1. Got {self.rank}.")

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        return (Phase(self.cut, only="adapters"),)


@dataclass(frozen=True)
class Norm:
    """Only normalisation layers and biases above the cut (Frankle et al. 2021; Ben Zaken et al. 2022), and the head."""

    cut: str = "0"
    recipe: ClassVar[Recipe] = Recipe(epochs=8, rate=1e-3, weight_decay=0.0, mixup=0.4, smoothing=0.1)
    start: ClassVar[Start] = "solved"

    def phases(self, chain: Sequence[str]) -> tuple[Phase, ...]:
        return (Phase(self.cut, only="norms"),)


STRATEGIES = {
    "direct": Direct,
    "probe": Probe,
    "early-features": EarlyFeatures,
    "tail": Tail,
    "lp-ft": LpFt,
    "two-phase": TwoPhase,
    "gradual": Gradual,
    "full": Full,
    "scratch": Scratch,
    "lora": Lora,
    "norm": Norm,
}


def _check_views(views: int, least: int) -> None:
    if not least <= views <= MAX_VIEWS:
        raise UsageError(f"'views' must be from {least} to {MAX_VIEWS}. Got {views}.")
