"""Where a training starts: the network with its first head, and which pictures it learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.backbones.backbone import Backbone as Pretrained
from graft.backbones.graph import Stage
from graft.backbones.stages import chosen_of, layers, probed
from graft.data import dataset as table
from graft.errors import DataError, UsageError
from graft.heads.designs import Conv, Linear
from graft.model.calibrate import temperature
from graft.model.pictures import prepared
from graft.progress import Watch
from graft.torch import adapters, engine, teachers
from graft.torch.chain import stages
from graft.torch.head import fresh, module
from graft.torch.network import Backbone, Features, Network
from graft.torch.phases import Ground, changeable, epochs_of, opened
from graft.torch.revive import backbone_of
from graft.training.choices import Choices
from graft.training.heads.choose import choose
from graft.training.material import Material
from graft.training.probe import embedded_by, read_by
from graft.training.strategies import EarlyFeatures, Lora

SAMPLE = 64  # pictures whose features a new head is standardised by


def check(choices: Choices, pretrained: Pretrained) -> None:
    """Raises CutError or UsageError for what this network does not take: now, and not after minutes of embedding."""
    backbone = backbone_of(pretrained)
    plan, chain = choices.plan, stages(backbone)
    assert choices.settings
    phases = plan.phases([stage.name for stage in chain])
    epochs_of(phases, choices.settings.epochs)
    solved = Features(backbone.module, backbone.preprocess, layers(chain))
    features = solved if choices.start == "solved" else read_by_design(choices, backbone, chain)
    network = untrained(choices, features, 2)
    for phase in phases:
        halves = opened(network, backbone, phase)
        if phase.only == "adapters":
            adapters.adaptable(backbone.module, [stage.name for stage in halves.chain[halves.place :]])


def ground(
    choices: Choices,
    pretrained: Pretrained,
    backbone: Backbone,
    material: Material,
    watch: Watch,
    all_of_them: bool = False,
) -> Ground:
    """All that a training stands on; with `all_of_them` no picture is held out.

    `backbone` is the pretrained one as a module, which is changed.

    Raises UsageError or DataError for what does not go together.
    """
    plan, recipe, seed = choices.plan, choices.settings, choices.seed
    assert recipe
    inner, valid = (material.train, material.train[:0]) if all_of_them else material.inner()
    if not len(valid) and not all_of_them:
        raise DataError("Too few pictures to hold some out for validation: use --strategy probe, or add pictures.")
    chain = stages(backbone)
    phases = plan.phases([stage.name for stage in chain])
    engine.settled(backbone.module)
    if choices.start == "solved":
        network = solved(pretrained, backbone, material, inner, seed, watch)
    else:
        network = untrained(choices, read_by_design(choices, backbone, chain), len(material.data.classes))
        if choices.start == "fresh":
            standardise(network, material, inner)
    network = engine.settled(network)
    if isinstance(plan, Lora):
        above = [stage.name for stage in chain[opened(network, backbone, phases[0]).place :]]
        adapters.add_lora(backbone.module, above, plan.rank, 2.0 * plan.rank, seed)
    opened(network, backbone, phases[-1])  # the widest: it names all that may change
    targets = teachers.soft(recipe, material.data.take(inner)) if recipe.teacher else hard(material, inner)
    return Ground(
        network=network,
        backbone=backbone,
        chain=tuple(chain),
        phases=phases,
        start=choices.start,
        recipe=recipe,
        material=material,
        inner=inner,
        valid=valid,
        targets=targets,
        labels=material.data.labels[valid],
        names=changeable(network, recipe),
        seed=seed,
        watch=watch,
    )


def solved(
    pretrained: Pretrained, backbone: Backbone, material: Material, inner: NDArray[np.intp], seed: int, watch: Watch
) -> Network:
    """The network of a probe, its head solved on the inner rows and scaled to the probabilities that these call for."""
    frozen = probed(pretrained)
    material = embedded_by(frozen, material, 1, seed, watch)
    chosen = choose("auto", "auto", material.problems(frozen.widths, 1, inner), watch=watch)
    heat = temperature(chosen.solution.logits, material.data.labels[inner])[0]
    head, read = module(chosen.solution.head), read_by(frozen, chosen)
    with torch.no_grad():
        for parameter in head.judge.parameters():  # linear: ridge or logistic
            parameter /= heat
    return Network(Features(backbone.module, backbone.preprocess, read.layers), head)


def read_by_design(choices: Choices, backbone: Backbone, chain: Sequence[Stage]) -> Features:
    """The features that a new head reads: what the backbone says; for a conv head, or early features, a stage's."""
    maps = isinstance(choices.design, Conv)
    if isinstance(choices.plan, EarlyFeatures):
        names = chosen_of(choices.plan.at, [stage.name for stage in chain])
        return Features(backbone.module, backbone.preprocess, names, top=False, pool=not maps)
    if not maps:
        return Features(backbone.module, backbone.preprocess, ())
    upper = chain[len(chain) // 2 :]  # what a transformer's first layer says has places too, but sees nothing yet
    mapped = [stage.name for stage in upper if len(stage.shape) == 3 and min(stage.shape[1:]) > 1]
    if not mapped:
        raise UsageError(
            f"{backbone.entry.name} has no feature map for a conv head. Networks made of convolutions have one; here "
            f"use --head mlp."
        )
    return Features(backbone.module, backbone.preprocess, mapped[-1:], pool=False)


def untrained(choices: Choices, features: Features, classes: int) -> Network:
    """The network with a new head."""
    shape = features.width if features.pool else features.shape
    return Network(features, fresh(choices.design or Linear(), shape, classes))


@torch.no_grad()
def standardise(network: Network, material: Material, inner: NDArray[np.intp]) -> None:
    """Let features come to the head with mean 0 and spread 1, as a sample of pictures has them."""
    rows = inner[np.linspace(0, len(inner) - 1, min(SAMPLE, len(inner))).astype(int)]
    pictures = [torch.from_numpy(prepared(network.preprocess, material.data.read(int(row)))) for row in rows]
    batches = torch.stack(pictures).split(8)
    said = torch.cat([network.features.eval()(engine.ready(batch)).cpu() for batch in batches])
    network.head.standardise(said.mean(dim=0), 1 / said.std(dim=0).clamp(min=1e-3))


def hard(material: Material, rows: NDArray[np.intp]) -> Tensor:
    """What the labels say, [n, classes]."""
    return torch.from_numpy(table.targets(material.data.labels[rows], len(material.data.classes)))
