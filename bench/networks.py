"""Every network of the mission x every strategy that trains: one real training step, and a check of its gradient.

python bench/networks.py [NAME ...]

Random weights, so no download. Convolutional networks see images of 96 pixels, to save time; the others their own
size. A cell holds the trained parameters in millions, after these were found true: the loss is finite; every trained
tensor moves in the step, and no frozen one; and the loss falls along the gradient as the gradient says, within 5 %.
"""

import copy
import sys
import warnings
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from graft.errors import GraftError
from graft.heads.designs import Linear
from graft.torch import adapters
from graft.torch.chain import find_stages
from graft.torch.head import build_head
from graft.torch.network import BackboneModule, FeaturesModule, NetworkModule
from graft.torch.phases import cut_for_phase
from graft.torch.restore import build_random_module
from graft.training.strategies import STRATEGIES, EarlyFeatures, FinetuneStrategy, Lora

NETWORKS = [
    "alexnet",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "googlenet",
    "inception_v3",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "densenet121",
    "densenet169",
    "densenet201",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "convnext_tiny",
    "deit_tiny_patch16_224",
    "vit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mlp",
    "cnn",
    "rnn",
]
OWN_SIZE = ("deit", "vit", "swin", "mlp", "cnn", "rnn")
SIDE, CLASSES, TOLERANCE = 96, 3, 0.05
NAMES = [
    name for name, kind in STRATEGIES.items() if isinstance(kind(), FinetuneStrategy) and kind is not EarlyFeatures
]


def main() -> None:
    """One row for each network."""
    warnings.simplefilter("ignore")
    print(f"| network | {' | '.join(f'`{name}`' for name in NAMES)} |")
    print(f"|---|{'---|' * len(NAMES)}")
    for name in sys.argv[1:] or NETWORKS:
        cells = [cell(name, strategy) for strategy in NAMES]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def cell(name: str, strategy: str) -> str:
    """The trained parameters in millions; a dash where the strategy says that it has nothing to train there."""
    backbone = made(name)
    features = FeaturesModule(backbone.module, backbone.preprocess, ())
    network = NetworkModule(features, build_head(Linear(init="normal"), features.width, CLASSES)).double()
    plan = STRATEGIES[strategy]()
    chain = [stage.name for stage in find_stages(backbone)]
    phase = plan.phases(chain)[-1]
    try:
        if isinstance(plan, Lora):
            adapters.add_lora(backbone.module, chain, plan.rank, 2.0 * plan.rank)
        halves = cut_for_phase(network, backbone, phase)
    except GraftError:
        return "–"
    trained = sum(each.numel() for each in network.parameters() if each.requires_grad)
    checked(network.eval(), halves.tuned, halves.frozen(images(backbone.preprocess.size)))
    return f"{trained / 1e6:.2f}"


def made(name: str) -> BackboneModule:
    """A network with random weights that tell images apart."""
    backbone = build_random_module(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part, weight in backbone.module.named_parameters():
            if weight.ndim == 4:
                torch.nn.init.kaiming_normal_(weight, generator=generator)
            elif weight.ndim == 1 and "bias" not in part:
                weight.uniform_(0.5, 1.5, generator=generator)
    backbone.module.double().register_forward_pre_hook(_doubled)
    own = backbone.preprocess
    return replace(backbone, preprocess=own if name.startswith(OWN_SIZE) else replace(own, size=SIDE, resize=SIDE))


def _doubled(_module: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """In float64, in which a small step can be seen."""
    return (inputs[0].double(),)


def images(side: int) -> Tensor:
    """Two of noise, one dark and flat, one bright and rough."""
    noise = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    return (noise * torch.tensor([15.0, 60.0]).view(2, 1, 1, 1) + 110).clamp(0, 255).to(torch.uint8)


def checked(network: NetworkModule, tuned: torch.nn.Module, crossing: Tensor) -> None:
    """One step down the gradient, so small that the loss is as good as straight."""
    labels = torch.arange(2)
    before = copy.deepcopy(network.state_dict())
    loss = functional.cross_entropy(tuned.eval()(crossing), labels)
    loss.backward()
    assert torch.isfinite(loss)
    moved = [each for each in network.parameters() if each.requires_grad and each.grad is not None]
    slope = float(sum(each.grad.square().sum() for each in moved))
    rate = 1e-6 * float(loss.detach()) / slope
    torch.optim.SGD(moved, rate).step()
    with torch.no_grad():
        fall = float(loss - functional.cross_entropy(tuned.eval()(crossing), labels))
    assert abs(fall - rate * slope) <= TOLERANCE * rate * slope, (fall, rate * slope)
    after = network.state_dict()
    names = {name for name, each in network.named_parameters() if each.requires_grad}
    assert not [name for name in before if name not in names and not torch.equal(before[name], after[name])]


if __name__ == "__main__":
    main()
