"""A strategy on its pictures: the network that came of it, what it says of pictures that it did not learn from, how."""

from __future__ import annotations

import gc
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graft.backbones.backbone import Backbone as Pretrained
from graft.errors import TrainingError
from graft.progress import Watch
from graft.torch import adapters, blend, start
from graft.torch.checkpoint import Run
from graft.torch.cut import Halves, deepest
from graft.torch.layers import weight_layers
from graft.torch.network import Backbone, Network
from graft.torch.phases import Ground, batch_of, epochs_of, opened
from graft.torch.revive import backbone_of, looked_through
from graft.torch.tune import Course, Told, Tuned, again, tune
from graft.training.choices import Choices
from graft.training.material import Material
from graft.training.probe import Trained, read_from, solve
from graft.training.strategies import Lora, Phase


def train(
    choices: Choices, pretrained: Pretrained, material: Material, run: Run | None, told: Told, watch: Watch
) -> Trained:
    """Weights above a cut, trained by the loop; where validation speaks for the start alone, that is a probe."""
    backbone = backbone_of(pretrained)
    pristine = {name: value.clone() for name, value in backbone.module.state_dict().items()}

    def ground(all_of_them: bool = False) -> Ground:
        gc.collect()  # the halves of a cut refer to themselves: gradients and copies of an earlier training
        _merge(choices, backbone)
        backbone.module.load_state_dict(pristine)
        return start.ground(choices, pretrained, backbone, material, watch, all_of_them)

    saved = run.latest() if run else None
    checkpoint = saved[1] if saved else None
    trained = ground()
    tuned = tune(trained, run, told, checkpoint)
    held_out, rows, record = trained.labels, trained.valid, described(trained, tuned.course) | told_of(tuned)
    if tuned.mixed.share == 0:  # the solved head won; solved on all pictures it is better still
        probe = solve(Choices(backbone=choices.backbone, seed=choices.seed), pretrained, material, watch)
        return replace(probe, record=record | {"solved_again": len(material.train)} | probe.record)
    if trained.refits and not tuned.course.trouble:
        trained = ground(all_of_them=True)
        try:
            again(trained, tuned, run, told, checkpoint)
            record |= repeated(trained, record)
        except TrainingError as error:
            trained = ground()
            blend.restore(trained.network, tuned.weights)
            why = "Training once more on all pictures failed: what was held out to choose by is not learned from."
            record["training"]["trouble"] = f"{why} {error}"
    _merge(choices, backbone)
    network = trained.network.eval().requires_grad_(False)
    network.to("cpu", memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    del trained
    gc.collect()
    solved = {"solver": "trained"}
    return Trained(looked_through(network), material, tuned.logits, held_out, rows, record, solved).centred()


def _merge(choices: Choices, backbone: Backbone) -> None:
    """Adapters become a part of the weights that they stand beside."""
    if isinstance(choices.plan, Lora):
        adapters.merge(backbone.module)


def described(ground: Ground, course: Course) -> dict[str, Any]:
    """Where each phase cuts, what it freezes and trains, for how many epochs, and what that cost."""
    recipe, phases = ground.recipe, []
    ends = [last for _, last in epochs_of(ground.phases, recipe.epochs)]
    done = np.bincount(np.searchsorted(ends, [epoch.number for epoch in course.epochs]), minlength=len(ends))
    cost, again = 1.0, 0.0  # the look at every picture, from which near-duplicates and the solved head come
    for phase, epochs in zip(ground.phases, done.tolist(), strict=True):
        halves = opened(ground.network, ground.backbone, phase)
        trained = sum(each.numel() for each in ground.network.parameters() if each.requires_grad)
        whole = sum(each.numel() for each in ground.network.parameters())
        share = _share(ground.network, halves)
        views = phase.views if halves.place else 0
        trained_on = 3 * share * epochs + (0 if views else (1 - share) * epochs)
        cost, again = cost + (views * (1 - share) if epochs else 0) + trained_on, again + trained_on
        phases.append(
            _parts(ground.network, halves, phase)
            | {
                "only": phase.only,
                "frozen_parameters": whole - trained,
                "trained_parameters": trained,
                "share_of_the_work": round(share, 4),
                "views": views,
                "epochs": epochs,
            }
        )
    return {
        "phases": phases,
        "forward_equivalents": round(cost, 2),  # passes of a picture through the network; a training step is three
        "of_a_refit": round(again, 2),
        "recipe": asdict(recipe) | {"batch": batch_of(recipe, len(ground.inner))},
        "inner": len(ground.inner),
        "valid": len(ground.valid),
        "layers": read_from(ground.network.features.layers, ground.network.features.top),
        "head": {"name": ground.network.head.spec["kind"]},
    }


def _parts(network: Network, halves: Halves, phase: Phase) -> dict[str, Any]:
    """What is frozen and what is trained, by name; with `last` the layers and their tensors as well."""
    backbone, names = network.features.backbone, [stage.name for stage in halves.chain]
    run = names[: deepest(network.features, halves.chain)]  # what comes after these is left out
    above = run[halves.place :]
    trained, counted = run[halves.place : halves.end], {}
    if phase.last:
        trained = [
            name for name in above if any(each.requires_grad for each in backbone.get_submodule(name).parameters())
        ]
        layers = weight_layers(network.features)[-phase.last :]
        counted = {
            "layers": [layer.name for layer in layers],
            "tensors": [tensor for layer in layers for tensor in layer.tensors],
        }
    return {
        "cut": halves.border,
        "place": halves.place,
        "stages": len(names),
        "frozen": run[: halves.place],
        "trained": [*trained, "head"],
        "kept_above": [name for name in above if name not in trained],
        "until": names[halves.end] if halves.end < len(names) else "head",
    } | counted


def repeated(ground: Ground, record: dict[str, Any]) -> dict[str, Any]:
    """What a refit adds."""
    total = record["forward_equivalents"] + record["of_a_refit"]
    return {"refit": len(ground.inner), "forward_equivalents": round(total, 2)}


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
