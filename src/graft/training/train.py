"""A strategy on its pictures: the network that came of it, what it says of pictures that it did not learn from, how."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graft.networks import adapters
from graft.networks.cut import Halves
from graft.networks.network import Backbone, Network
from graft.progress import Watch
from graft.training import start
from graft.training.checkpoint import Run
from graft.training.choices import Choices
from graft.training.material import Material
from graft.training.phases import Ground, batch_of, epochs_of, opened
from graft.training.probe import Trained, solve
from graft.training.strategies import Lora
from graft.training.tune import Told, Tuned, again, tune


def train(
    choices: Choices, backbone: Backbone, material: Material, run: Run | None, told: Told, watch: Watch
) -> Trained:
    """Weights above a cut, trained by the loop; where validation speaks for the start alone, that is a probe."""
    pristine = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    ground = _ground(choices, backbone, material, watch, all_of_them=False)
    record = described(ground)
    tuned = tune(ground, run, told)
    record |= told_of(tuned)
    if tuned.mixed.share == 0:  # the solved head won; solved on all pictures it is better still
        _merge(choices, backbone)
        probe = solve(Choices(backbone=choices.backbone, seed=choices.seed), backbone, material, watch)
        return replace(probe, record=record | {"solved_again": len(material.train)} | probe.record)
    if ground.refits and not tuned.course.trouble:
        _merge(choices, backbone)
        backbone.module.load_state_dict(pristine)
        ground = _ground(choices, backbone, material, watch, all_of_them=True)
        again(ground, tuned, run, told)
        total = round(record["forward_equivalents"] + record["of_a_refit"], 2)
        record |= {"refit": len(ground.inner), "forward_equivalents": total}
    _merge(choices, backbone)
    network = ground.network.eval().requires_grad_(False).cpu()
    labels = material.data.labels[material.inner()[1]]
    return Trained(network, material, tuned.logits, labels, record, {"solver": "trained"})


def _ground(choices: Choices, backbone: Backbone, material: Material, watch: Watch, all_of_them: bool) -> Ground:
    assert choices.settings
    plan, design, recipe = choices.plan, choices.design, choices.settings
    return start.ground(plan, design, recipe, backbone, material, choices.seed, watch, all_of_them)


def _merge(choices: Choices, backbone: Backbone) -> None:
    """Adapters become a part of the weights that they stand beside."""
    if isinstance(choices.plan, Lora):
        adapters.merge(backbone.module)


def described(ground: Ground) -> dict[str, Any]:
    """Where each phase cuts, what it freezes and trains, and what that costs."""
    recipe, phases = ground.recipe, []
    spans = epochs_of(ground.phases, recipe.epochs)
    cost, repeated = 1.0, 0.0  # the look at every picture, from which near-duplicates and the solved head come
    for phase, (first, last) in zip(ground.phases, spans, strict=True):
        halves = opened(ground.network, ground.backbone, phase)
        trained = sum(each.numel() for each in ground.network.parameters() if each.requires_grad)
        whole = sum(each.numel() for each in ground.network.parameters())
        share = _share(ground.network, halves)
        views = phase.views if halves.place else 0
        anew = 3 * share * (last - first) + (0 if views else (1 - share) * (last - first))
        cost, repeated = cost + views * (1 - share) + anew, repeated + anew
        phases.append(
            {
                "cut": halves.border,
                "place": halves.place,
                "stages": len(halves.chain),
                "frozen": [stage.name for stage in halves.chain[: halves.place]],
                "trained": [stage.name for stage in halves.chain[halves.place :]] + ["head"],
                "only": phase.only,
                "frozen_parameters": whole - trained,
                "trained_parameters": trained,
                "share_of_the_work": round(share, 4),
                "views": views,
                "epochs": last - first,
            }
        )
    return {
        "phases": phases,
        "forward_equivalents": round(cost, 2),  # passes of a picture through the network; a training step is three
        "of_a_refit": round(repeated, 2),
        "recipe": asdict(recipe) | {"batch": batch_of(recipe, len(ground.inner))},
        "inner": len(ground.inner),
        "valid": len(ground.valid),
        "layers": [*ground.network.features.layers, *(["last"] if ground.network.features.top else [])],
        "head": {
            "name": ground.network.head.spec["kind"],
            "layers": "all" if ground.network.features.layers else "last",
        },
    }


def told_of(tuned: Tuned) -> dict[str, Any]:
    """What came of the training."""
    course, mixed = tuned.course, tuned.mixed
    return {
        "training": {
            "epochs": len(course.epochs),
            "best_epoch": course.best_epoch,
            "kept": tuned.kept,
            "blend": {"share": mixed.share, "mean": mixed.mean, "tried": mixed.tried},
            "rates": course.rates,
            "trouble": course.trouble,
            "history": [asdict(epoch) for epoch in course.epochs],
        }
    }


@torch.no_grad()
def _share(network: Network, halves: Halves) -> float:
    """The tuned half's part of the multiplications that one picture takes."""
    side = network.preprocess.size
    picture = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=next(network.parameters()).device)
    crossing = halves.frozen(picture)
    return min(1.0, _work(halves.tuned, crossing) / max(_work(network, picture), 1))


def _work(module: nn.Module, inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module.eval()(inputs)
    return counter.get_total_flops()
