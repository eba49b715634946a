"""Folded batch norm: the outputs and all gradients of the module as it was, in double precision."""

from __future__ import annotations

import pytest
import timm
import torch
from shaken import shaken
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from graft.torch.engine import fold_batch_norm

NETWORKS = [
    "test_resnet",
    "test_efficientnet",
    "efficientnet_lite0",  # 'same' padding, activations inside the norm
    "mobilenetv2_050",
    "densenet121",
    "test_vit",
]
DENSENET_PAIRS = 1 + 6 + 12 + 24 + 16  # the stem, and inside each layer; the other norms read a concatenation


def run(module: nn.Module, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradients of its mean square."""
    module.zero_grad()
    output = module(batch)
    output.square().mean().backward()
    return output.detach(), {
        name: each.grad.clone() for name, each in module.named_parameters() if each.grad is not None
    }


def assert_same_when_folded(module: nn.Module, batch: Tensor, count: int) -> None:
    (output, gradients), names = run(module, batch), list(module.state_dict())
    with fold_batch_norm(module, batch[:1]) as folded:
        assert folded == count
        assert list(module.state_dict()) == names
        again, others = run(module, batch)
    torch.testing.assert_close(again, output, rtol=1e-9, atol=1e-12)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-7, atol=1e-10 * float(gradient.abs().max() + 1))
    assert not any("forward" in vars(part) for part in module.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = shaken(timm.create_model(name, num_classes=3)).eval().double()
    side = 160 if name == "test_vit" else 64
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    count = DENSENET_PAIRS if name == "densenet121" else norms
    assert_same_when_folded(network, torch.randn(2, 3, side, side).double(), count)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), BatchNormAct2d(4)])
@pytest.mark.parametrize("bias", [True, False])
def test_with_and_without_a_bias_a_scale_and_an_activation(norm: nn.BatchNorm2d, bias: bool) -> None:
    torch.manual_seed(0)
    network = shaken(nn.Sequential(nn.Conv2d(3, 4, 3, groups=1, bias=bias), norm)).eval().double()
    assert_same_when_folded(network, torch.randn(2, 3, 8, 8).double(), 1)


class Twice(nn.Module):
    """An output of a convolution, a norm, or a convolution that is used twice."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.one, self.two, self.what = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), what
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.one(inputs)
        return {
            "output": lambda: output + self.norm(output),
            "norm in a row": lambda: self.norm(self.norm(output)),
            "norm": lambda: self.norm(output) + self.norm(self.two(inputs)),
            "convolution": lambda: self.norm(output) + self.other(self.one(-inputs)),
        }[self.what]()


@pytest.mark.parametrize("what", ["output", "norm in a row", "norm", "convolution"])
def test_what_is_used_twice_is_not_folded(what: str) -> None:
    torch.manual_seed(0)
    assert_same_when_folded(shaken(Twice(what)).eval().double(), torch.randn(2, 3, 8, 8).double(), 0)


def test_where_only_the_norm_is_trained_it_is_not_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    network[0].requires_grad_(False)
    with fold_batch_norm(network, torch.zeros(1, 3, 8, 8)) as count:
        assert count == 0


def test_an_error_inside_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with pytest.raises(RuntimeError, match="stop"), fold_batch_norm(network, torch.zeros(1, 3, 8, 8)):
        raise RuntimeError("stop")
    assert not any("forward" in vars(part) for part in network.modules())
