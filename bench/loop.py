"""A training step of the loop, batch norm folded, against the bare forward, backward and optimizer step.

python bench/loop.py [--rounds 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from graft.backbones.backbone import load_backbone
from graft.heads.designs import Linear
from graft.torch import engine, loop
from graft.torch.cut import cut_network
from graft.torch.feed import RowIndices
from graft.torch.head import build_head
from graft.torch.loop import PhaseInputs, TrainingState
from graft.torch.network import FeaturesModule, NetworkModule
from graft.torch.restore import backbone_to_module
from graft.training.recipe import Recipe

BATCH, STEPS, CLASSES = 16, 6, 10
RECIPE = Recipe(optimizer="adamw", schedule="constant", warmup=0.0, weight_decay=0.0, clip=0.0)


class Memory:
    """The same tensors for both sides."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def batches(self, groups: Sequence[RowIndices], epoch: int) -> Iterator[Tensor]:
        """Slices of them."""
        return (self.inputs[rows] for rows in groups)

    def read_evaluation_batch(self, rows: RowIndices) -> Tensor:
        """The same."""
        return self.inputs[rows]


def main() -> None:
    """Both sides in turns, and the ratio pair by pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("| what is trained | ms a step, bare | ms a step, loop | loop / bare, median | lowest | highest |")
    print("|---|---|---|---|---|---|")
    for at in ("head", "blocks.6", 0):
        bare, ours = prepared(at)
        pairs = [(timed(bare), timed(ours)) for _ in range(options.rounds + 1)][1:]  # the first warms both up
        ratios = [two / one for one, two in pairs]
        cells = [f"{1000 * statistics.median(side):.1f}" for side in zip(*pairs, strict=True)]
        cells += [f"{each:.3f}" for each in (statistics.median(ratios), min(ratios), max(ratios))]
        print(f"| above {at!r} | {' | '.join(cells)} |", flush=True)


def prepared(at: str | int) -> tuple[Callable[[], None], Callable[[], None]]:
    """(bare, ours): two functions that each make STEPS steps on the same tensors."""
    backbone = backbone_to_module(load_backbone())
    features = FeaturesModule(backbone.module, backbone.preprocess, ())
    network = NetworkModule(features, build_head(Linear(), features.width, CLASSES)).to(
        memory_format=torch.channels_last
    )
    halves = cut_network(network, backbone, at)
    side = backbone.preprocess.size
    images = torch.randint(0, 256, (BATCH * STEPS, 3, side, side), dtype=torch.uint8)
    inputs = torch.cat([halves.frozen(some) for some in images.split(BATCH)])
    if inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    targets = functional.one_hot(torch.arange(len(inputs)) % CLASSES, CLASSES).float()
    trained = [(0, name, each) for name, each in network.named_parameters() if each.requires_grad]
    phase_inputs = PhaseInputs(
        tuned=halves.tuned,
        parameters=trained,
        feed=Memory(inputs),
        targets=targets,
        task="multiclass",
        recipe=RECIPE,
        batch=BATCH,
        rate=1e-5,
        first_epoch=0,
        epochs=1,
        seed=0,
        start_weights={},
    )
    adamw = torch.optim.AdamW([each for _, _, each in trained], 1e-5, weight_decay=0.0)

    def bare() -> None:
        loop.set_training_mode(halves.tuned, RECIPE)
        for rows in np.arange(len(inputs)).reshape(-1, BATCH):
            adamw.zero_grad(set_to_none=True)
            functional.cross_entropy(halves.tuned(inputs[rows]), targets[rows]).backward()
            adamw.step()

    def ours() -> None:
        with engine.fold_batch_norm(halves.tuned, inputs[:2]):
            for _ in loop.train(phase_inputs, TrainingState(phase_inputs)):
                pass

    return bare, ours


def timed(work: Callable[[], None]) -> float:
    """Seconds for one of STEPS steps."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / STEPS


if __name__ == "__main__":
    main()
