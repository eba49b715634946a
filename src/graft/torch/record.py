"""What the report says of a fine-tuning run: where each phase cut, what it trained, and what that cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from graft.model.history import Epoch
from graft.torch.chain import find_weight_layers
from graft.torch.cut import Halves, count_needed_stages
from graft.torch.network import NetworkModule
from graft.torch.phases import FinetuneInputs, count_refit_epochs, cut_for_phase, split_epochs
from graft.training.probe import list_layers
from graft.training.strategies import Phase


def describe_phases(inputs: FinetuneInputs, done_epochs: Sequence[Epoch]) -> dict[str, Any]:
    """Where each phase cuts, what it freezes and trains, for how many epochs, and what that cost."""
    recipe, phases = inputs.recipe, []
    ends = [last for _, last in split_epochs(inputs.phases, recipe.epochs)]
    done = np.bincount(np.searchsorted(ends, [epoch.number for epoch in done_epochs]), minlength=len(ends))
    cost, epoch_cost = 1.0, 0.0  # one forward pass of every image, for near-duplicates and the closed-form head
    for phase, epochs in zip(inputs.phases, done.tolist(), strict=True):
        halves = cut_for_phase(inputs.network, inputs.backbone, phase, inputs.chain)
        trained = sum(each.numel() for each in inputs.network.parameters() if each.requires_grad)
        whole = sum(each.numel() for each in inputs.network.parameters())
        share = _compute_tuned_share(inputs.network, halves)
        views = phase.views if halves.border_index else 0
        epoch_cost = 3 * share + (0 if views else 1 - share)
        cost += (views * (1 - share) if epochs else 0) + epoch_cost * epochs
        phases.append(
            _describe_cut(inputs.network, halves, phase)
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
        "forward_equivalents": round(cost, 2),  # passes of an image through the network; a training step is three
        "cost_of_an_epoch": round(epoch_cost, 4),  # of the last phase
        "recipe": asdict(recipe),
        "inner": len(inputs.train_rows),
        "valid": len(inputs.valid_rows),
        "layers": list_layers(inputs.network.features.layers, inputs.network.features.top),
        "head": {"name": inputs.network.head.spec["kind"]},
    }


def _describe_cut(network: NetworkModule, halves: Halves, phase: Phase) -> dict[str, Any]:
    """What is frozen and what is trained, by name; with `last` the layers and their tensors as well."""
    backbone, names = network.features.backbone, [stage.name for stage in halves.chain]
    run = names[: count_needed_stages(network.features, halves.chain)]  # what comes after these is left out
    above = run[halves.border_index :]
    trained, counted = run[halves.border_index : halves.end_index], {}
    if phase.last:
        trained = [
            name for name in above if any(each.requires_grad for each in backbone.get_submodule(name).parameters())
        ]
        layers = find_weight_layers(network.features)[-phase.last :]
        counted = {
            "layers": [layer.name for layer in layers],
            "tensors": [tensor for layer in layers for tensor in layer.tensors],
        }
    return {
        "cut": halves.border,
        "place": halves.border_index,
        "stages": len(names),
        "frozen": run[: halves.border_index],
        "trained": [*trained, "head"],
        "kept_above": [name for name in above if name not in trained],
        "until": names[halves.end_index] if halves.end_index < len(names) else "head",
    } | counted


def describe_refit(inputs: FinetuneInputs, record: dict[str, Any]) -> dict[str, Any]:
    """What a refit adds."""
    epochs = count_refit_epochs(inputs.recipe)
    total = record["forward_equivalents"] + record["cost_of_an_epoch"] * epochs
    return {"refit": len(inputs.material.train), "refit_epochs": epochs, "forward_equivalents": round(total, 2)}


@torch.no_grad()
def _compute_tuned_share(network: NetworkModule, halves: Halves) -> float:
    """The tuned half's part of the multiplications that one image takes."""
    side = network.preprocess.size
    image = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=next(network.parameters()).device)
    crossing = halves.frozen(image)
    return min(1.0, _count_flops(halves.tuned, crossing) / max(_count_flops(network, image), 1))


def _count_flops(module: nn.Module, inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        module.eval()(inputs)
    return counter.get_total_flops()
