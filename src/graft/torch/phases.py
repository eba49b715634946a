"""What a training stands on, and what each of its phases teaches: the cut, the feed, the parameters that may change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from graft.backbones.graph import Stage
from graft.backbones.stages import place_of
from graft.data.dataset import Labels
from graft.errors import UsageError
from graft.progress import Watch
from graft.torch import adapters
from graft.torch.augment import Augment
from graft.torch.cut import Frozen, Halves, cut, cut_last, deepest
from graft.torch.feed import Feed, Pictures, Stored
from graft.torch.loop import Lesson, Placed, find_rate
from graft.torch.losses import Task
from graft.torch.network import Backbone, Network
from graft.training.embed import embed_again
from graft.training.material import Material
from graft.training.recipe import Recipe
from graft.training.strategies import Phase, Start
from graft_runtime.card import MULTILABEL

FEW = 2000  # pictures below which each counts, so that those held out are learned from in the end
LARGEST = 32  # pictures in an automatic batch
STEPS = 16  # updates that an automatic batch leaves in an epoch of few pictures


@dataclass(frozen=True)
class Ground:
    """A network to be trained, the pictures that it learns from, and how.

    `inner` are the rows to learn from, with their `targets` [n, classes]; `valid` those held out, with their `labels`.
    `names` are the tensors of the network that may change in any phase.
    """

    network: Network
    backbone: Backbone
    chain: tuple[Stage, ...]
    phases: tuple[Phase, ...]
    start: Start
    recipe: Recipe
    material: Material
    inner: NDArray[np.intp]
    valid: NDArray[np.intp]
    targets: Tensor
    labels: Labels
    names: tuple[str, ...]
    seed: int
    watch: Watch

    @property
    def refits(self) -> bool:
        """Whether what is chosen here will be trained once more, on all pictures.

        Then the last epoch counts, not the best: a whole schedule can be repeated, luck cannot.
        """
        few = len(self.inner) < FEW and not self.recipe.patience
        return few if self.recipe.refit == "auto" else self.recipe.refit is True

    @property
    def task(self) -> Task:
        """One label a picture, or several."""
        return "multilabel" if self.material.data.task == MULTILABEL else "multiclass"


@dataclass(frozen=True)
class Taught:
    """One phase made ready: the lesson, and the held-out pictures as the tuned half takes them."""

    name: str
    lesson: Lesson
    held_out: Feed
    halves: Halves


def taught(ground: Ground, number: int, starts: dict[str, Tensor], rate: float | None = None) -> Taught:
    """Make a phase ready: cut the network, embed what lies below, gather what is trained above.

    `rate` is that of the head if it is known already; else it is the recipe's, or found.
    """
    phase = ground.phases[number]
    halves = opened(ground.network, ground.backbone, phase)
    feed, held_out = feeds(ground, halves, phase)
    first, last = epochs_of(ground.phases, ground.recipe.epochs)[number]
    lesson = Lesson(
        tuned=halves.tuned,
        parameters=placed(ground.network, ground.chain),
        feed=feed,
        targets=ground.targets,
        task=ground.task,
        recipe=ground.recipe,
        batch=batch_of(ground.recipe, len(ground.inner)),
        rate=0.0,
        first=first,
        epochs=last - first,
        seed=ground.seed,
        starts=starts,
        still=tuple(_untrained(halves.tuned)) if phase.last or phase.until != "head" else (),
    )
    named = ground.recipe.rate
    if rate is None:
        rate = find_rate(replace(lesson, rate=1.0)) if named == "auto" else named * phase.rate
    lesson = replace(lesson, rate=rate)
    return Taught(halves.border, lesson, held_out, halves)


def opened(network: Network, backbone: Backbone, phase: Phase) -> Halves:
    """The network cut for a phase, with just those parameters trainable that the phase trains."""
    if phase.last:
        return cut_last(network, backbone, phase.last)
    halves = cut(network, backbone, place_of(phase.cut), place_of(phase.until))
    above = [stage.name for stage in halves.chain[halves.place : halves.end]]
    if phase.only != "all" and not above:
        raise UsageError("A cut at 'head' leaves no stage to adapt. Name a stage, an index or a share: `graft stages`.")
    if phase.only == "norms":
        kept = adapters.norm_parameters(backbone.module, above)
        backbone.module.requires_grad_(False)
        for parameter in kept:
            parameter.requires_grad_(True)
    if phase.only == "adapters":
        for name, parameter in backbone.module.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return halves


def _untrained(module: nn.Module) -> Iterator[nn.Module]:
    """The largest parts that have parameters, none of which is trained."""
    for child in module.children():
        own = list(child.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            yield child
        else:
            yield from _untrained(child)


def feeds(ground: Ground, halves: Halves, phase: Phase) -> tuple[Feed, Feed]:
    """What to learn from and what is held out, as inputs of the tuned half."""
    data, digests, seed = ground.material.data, ground.material.embedded.digests, ground.seed
    frozen, parts = halves.frozen, (ground.inner, ground.valid)
    if phase.views and isinstance(frozen, Frozen):
        views = (phase.views, 1)
        rows = zip(parts, views, strict=True)
        kept = [
            embed_again(frozen, data.take(part), views=count, seed=seed, watch=ground.watch) for part, count in rows
        ]
        one, other = (Stored(each, frozen.shape, count) for each, count in zip(kept, views, strict=True))
        return one, other
    ways = (Augment.parse(ground.recipe.augment), Augment.parse("none"))
    preprocess = ground.network.preprocess
    one, other = (
        Pictures(data.take(part), digests[part], preprocess, way, seed, frozen)
        for part, way in zip(parts, ways, strict=True)
    )
    return one, other


def placed(network: Network, chain: Sequence[Stage]) -> list[Placed]:
    """The trainable parameters, each with how many stages it lies below the head."""
    end = deepest(network.features, chain)
    depths = {f"features.backbone.{stage.name}.": end - place for place, stage in enumerate(chain[:end])}
    found = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            inside = (depth for stage, depth in depths.items() if name.startswith(stage))
            depth = 0 if name.startswith("head.") else next(inside, end + 1)
            found.append((depth, name, parameter))
    return sorted(found, key=lambda each: each[0])


def changeable(network: Network, recipe: Recipe) -> tuple[str, ...]:
    """The names of all tensors that training may change: what requires gradients, and batch statistics if they move."""
    names = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    moving = recipe.batch_norm == "train"
    return tuple(names + [name for name, _ in network.named_buffers() if moving and name in network.state_dict()])


def epochs_of(phases: Sequence[Phase], epochs: int) -> list[tuple[int, int]]:
    """(first, last + 1) of each phase, by their shares; at least one epoch for each."""
    if epochs < len(phases):
        raise UsageError(f"This strategy has {len(phases)} phases, so 'epochs' must be at least {len(phases)}.")
    ends = np.rint(np.cumsum([phase.share for phase in phases]) * epochs).astype(int)
    ends[-1] = epochs
    for place in range(len(phases)):
        least, most = place + 1, epochs - (len(phases) - 1 - place)
        ends[place] = min(max(ends[place], least, (ends[place - 1] + 1) if place else 1), most)
    return list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))


def batch_of(recipe: Recipe, count: int) -> int:
    """The recipe's batch; automatic: a power of two that leaves enough updates in an epoch."""
    if recipe.batch != "auto":
        return recipe.batch
    return min(LARGEST, max(4, 2 ** int(np.log2(max(count / STEPS, 1)))))
