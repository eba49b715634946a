"""Where a training starts: the network with its first head, and which pictures it learns from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graft.data import dataset as table
from graft.errors import DataError, UsageError
from graft.model.calibrate import temperature
from graft.model.classifier import load
from graft.model.pictures import prepared
from graft.networks import adapters, engine
from graft.networks.chain import Stage, layers, stages
from graft.networks.head import Conv, Design, Linear, fresh
from graft.networks.network import Backbone, Features, Network
from graft.progress import Watch
from graft.training.early import early
from graft.training.heads.choose import choose
from graft.training.material import Material
from graft.training.phases import Ground, changeable, opened
from graft.training.probe import embedded_by, read_by
from graft.training.recipe import Recipe
from graft.training.strategies import EarlyFeatures, Lora, Training

SAMPLE = 64  # pictures whose features a new head is standardised by


def ground(
    plan: Training,
    design: Design | None,
    recipe: Recipe,
    backbone: Backbone,
    material: Material,
    seed: int,
    watch: Watch,
    all_of_them: bool = False,
) -> Ground:
    """All that a training stands on; with `all_of_them` no picture is held out.

    Raises UsageError or DataError for what does not go together.
    """
    inner, valid = (material.train, material.train[:0]) if all_of_them else material.inner()
    if not len(valid) and not all_of_them:
        raise DataError("Too few pictures to hold some out for validation: use --strategy probe, or add pictures.")
    chain = stages(backbone)
    phases = plan.phases([stage.name for stage in chain])
    start = "fresh" if plan.start == "solved" and design else plan.start
    if start == "solved":
        network = solved(backbone, chain, material, inner, seed, watch)
    else:
        features = read_by_design(plan, design or Linear(), backbone, chain)
        network = renewed(features, design or Linear(), material, inner, standardise=start == "fresh")
    network = network.to(engine.device(), memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if isinstance(plan, Lora):
        above = [stage.name for stage in chain[opened(network, backbone, phases[0]).place :]]
        adapters.add_lora(backbone.module, above, plan.rank, 2.0 * plan.rank, seed)
    opened(network, backbone, phases[-1])  # the widest: it names all that may change
    targets = soft(recipe, material, inner) if recipe.teacher else hard(material, inner)
    return Ground(
        network=network,
        backbone=backbone,
        chain=tuple(chain),
        phases=phases,
        start=start,
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
    backbone: Backbone, chain: Sequence[Stage], material: Material, inner: NDArray[np.intp], seed: int, watch: Watch
) -> Network:
    """The network of a probe, its head solved on the inner rows and scaled to the probabilities that these call for."""
    frozen = Features(backbone.module, backbone.preprocess, layers(chain))
    material = embedded_by(frozen, material, 1, seed, watch)
    chosen = choose("auto", "auto", material.problems(frozen.widths, 1, inner))
    heat = temperature(chosen.solution.logits, material.data.labels[inner])[0]
    head = chosen.solution.head
    with torch.no_grad():
        for parameter in head.judge.parameters():  # linear: ridge or logistic
            parameter /= heat
    return Network(read_by(frozen, chosen), head)


def read_by_design(plan: Training, design: Design, backbone: Backbone, chain: Sequence[Stage]) -> Features:
    """The features that a new head reads: what the backbone says; for a conv head, or early features, a stage's."""
    if isinstance(plan, EarlyFeatures):
        return early(plan.at, backbone, chain, pool=not isinstance(design, Conv))
    if not isinstance(design, Conv):
        return Features(backbone.module, backbone.preprocess, ())
    upper = chain[len(chain) // 2 :]  # what a transformer's first layer says has places too, but sees nothing yet
    maps = [stage.name for stage in upper if len(stage.shape) == 3 and min(stage.shape[1:]) > 1]
    if not maps:
        raise UsageError(
            f"{backbone.entry.name} has no feature map for a conv head. Networks made of convolutions have one; here "
            f"use --head mlp."
        )
    return Features(backbone.module, backbone.preprocess, maps[-1:], pool=False)


@torch.no_grad()
def renewed(
    features: Features, design: Design, material: Material, inner: NDArray[np.intp], standardise: bool
) -> Network:
    """The network with a new head; features come to it with mean 0 and spread 1, as a sample of pictures has them."""
    head = fresh(design, features.shape if not features.pool else features.width, len(material.data.classes))
    if standardise:
        rows = inner[np.linspace(0, len(inner) - 1, min(SAMPLE, len(inner))).astype(int)]
        pictures = [torch.from_numpy(prepared(features.preprocess, material.data.read(int(row)))) for row in rows]
        said = torch.cat([features.eval()(batch) for batch in torch.stack(pictures).split(8)])
        head.standardise(said.mean(dim=0), 1 / said.std(dim=0).clamp(min=1e-3))
    return Network(features, head)


def hard(material: Material, rows: NDArray[np.intp]) -> Tensor:
    """What the labels say, [n, classes]."""
    return torch.from_numpy(table.targets(material.data.labels[rows], len(material.data.classes)))


def soft(recipe: Recipe, material: Material, rows: NDArray[np.intp]) -> Tensor:
    """What the teacher says, [n, classes]: distillation (Hinton et al. 2015)."""
    teacher = load(recipe.teacher)
    if set(teacher.classes) != set(material.data.classes):
        raise UsageError(
            f"The teacher {recipe.teacher} knows other classes: {', '.join(teacher.classes)}. "
            f"The pictures have {', '.join(material.data.classes)}."
        )
    chances, good, faults = teacher.probabilities(material.data.take(rows))
    if len(good) < len(rows):
        raise DataError(f"The teacher cannot judge every picture: {next(iter(faults.values()))}.")
    order = [teacher.classes.index(name) for name in material.data.classes]
    return torch.from_numpy(chances[:, order].astype(np.float32))
