"""Adapters: nothing changes when they come, nothing but they learn, and nothing of them is left once merged."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from graft.errors import UsageError
from graft.torch.adapters import add_lora, merge_adapters, norm_parameters

NETWORKS = {
    "test_vit": (["blocks.3", "blocks.5"], 160),
    "test_resnet": (["layer3", "layer4"], 64),
    "test_convnext": (["stages.2", "stages.3"], 64),
    "mobilenetv2_100": (["blocks.5", "blocks.6"], 64),
    "test_efficientnet": (["conv_stem", "blocks.1"], 64),
    "plain": (["0", "2", "6"], 16),
}


def plain() -> nn.Module:
    """As VGG: convolutions and linear layers in one row, each a stage of its own."""
    convolutions = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 10, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(90, 12), nn.ReLU(), nn.Linear(12, 5))


def network(name: str) -> nn.Module:
    """In eval mode, with random weights, scales and statistics."""
    torch.manual_seed(0)
    module = plain() if name == "plain" else timm.create_model(name, num_classes=0)
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(torch.rand_like(tensor) * (1.0 if "var" in key else 0.3))
    return module.eval()


def images(name: str) -> Tensor:
    torch.manual_seed(1)
    side = NETWORKS[name][1]
    return torch.randn(4, 3, side, side) * torch.tensor([0.3, 1, 2, 3]).view(4, 1, 1, 1)


@torch.no_grad()
def answer(module: nn.Module, name: str) -> Tensor:
    return module(images(name))


def train(module: nn.Module, name: str, steps: int = 3) -> None:
    optimiser = torch.optim.Adam([each for each in module.parameters() if each.requires_grad], lr=0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        output = module(images(name))
        (output - 1).square().mean().backward()
        optimiser.step()


def spread(answers: Tensor) -> float:
    return float((answers[0] - answers[1]).abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_adapters_change_nothing_at_first_learn_alone_and_are_gone_once_merged(name: str) -> None:
    module = network(name)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    want, kinds = answer(module, name), {key: type(part) for key, part in module.named_modules()}
    names = add_lora(module, NETWORKS[name][0], rank=3, alpha=6)
    assert torch.equal(answer(module, name), want)
    trainable = [key for key, tensor in module.named_parameters() if tensor.requires_grad]
    assert len(trainable) == 2 * len(names)
    assert all("lora_" in key for key in trainable)
    assert not any(part.training for part in module.modules())
    train(module, name)
    unmerged = answer(module, name)
    assert (unmerged - want).abs().max() > 0.01 * spread(want), "it has learned nothing"
    base = {key.replace(".base_layer", ""): tensor for key, tensor in module.state_dict().items() if "lora_" not in key}
    assert base.keys() == before.keys()
    assert all(torch.equal(base[key], before[key]) for key in before)
    merge_adapters(module)
    assert list(module.state_dict()) == list(before)
    assert {key: type(part) for key, part in module.named_modules()} == kinds
    assert vars(module).keys() == vars(network(name)).keys()
    assert (answer(module, name) - unmerged).abs().max() <= 1e-5 * spread(unmerged)
    changed = {
        key.removesuffix(".weight") for key, tensor in module.state_dict().items() if tensor.ne(before[key]).any()
    }
    assert changed == set(names)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_linear_layer_and_ungrouped_convolution_of_the_stages_gets_one_and_no_other(name: str) -> None:
    module, stages = network(name), NETWORKS[name][0]
    want = [
        key
        for key, part in module.named_modules()
        if isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d) and part.groups == 1)
        if any(f"{key}.".startswith(f"{stage}.") for stage in stages)
    ]
    assert add_lora(module, stages, rank=2, alpha=2) == want
    assert {key.partition(".lora_A")[0] for key, _ in module.named_parameters() if ".lora_A" in key} == set(want)


def test_depthwise_convolutions_are_passed_over() -> None:
    module = network("mobilenetv2_100")
    names = add_lora(module, ["blocks.5"], rank=2, alpha=2)
    assert [name.rpartition(".")[2] for name in names] == ["conv_pw", "conv_pwl"] * 3
    assert isinstance(module.get_submodule("blocks.5.0.conv_dw"), nn.Conv2d)


def test_an_adapter_adds_alpha_by_rank_times_its_product() -> None:
    module = plain()
    add_lora(module, ["6"], rank=3, alpha=12)
    layer: Any = module.get_submodule("6")
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(up)
    features = torch.randn(4, 90)
    want = layer.base_layer(features) + 4 * features @ down.T @ up.T
    assert torch.allclose(layer(features), want, atol=1e-5)


def test_adapters_begin_as_their_seed_says_and_leave_torch_its_numbers() -> None:
    begun = []
    for seed in (5, 5, 6):
        module = plain()
        torch.manual_seed(2)
        expected = torch.rand(1)
        torch.manual_seed(2)
        add_lora(module, ["6"], rank=3, alpha=1, seed=seed)
        assert torch.equal(torch.rand(1), expected)
        begun.append(module.state_dict()["6.lora_A.default.weight"])
    assert torch.equal(begun[0], begun[1])
    assert not torch.equal(begun[0], begun[2])


def test_stages_one_after_the_other() -> None:
    both, one = network("test_resnet"), network("test_resnet")
    names = add_lora(one, ["layer4"], rank=2, alpha=2) + add_lora(one, ["layer3"], rank=2, alpha=2)
    assert sorted(names) == sorted(add_lora(both, ["layer3", "layer4"], rank=2, alpha=2))
    assert one.state_dict().keys() == both.state_dict().keys()
    trainable = [[key for key, tensor in each.named_parameters() if tensor.requires_grad] for each in (one, both)]
    assert trainable[0] == trainable[1]


def test_a_copy_that_shares_its_tensors_trains_what_the_module_merges() -> None:
    module = network("test_vit")
    add_lora(module, ["blocks.5"], rank=2, alpha=2)
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    twin = copy.deepcopy(module, shared)
    before = answer(module, "test_vit")
    train(twin, "test_vit")
    after = answer(twin, "test_vit")
    assert not torch.equal(before, after)
    merge_adapters(module)
    assert (answer(module, "test_vit") - after).abs().max() <= 1e-5 * spread(after)


def test_a_convolution_that_standardises_its_weights_or_is_dilated_gets_none() -> None:
    stage = nn.Sequential(
        timm.layers.StdConv2d(3, 4, 3), nn.Conv2d(4, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, padding_mode="reflect")
    )
    with pytest.raises(UsageError, match="The stages 0 hold no linear layer and no ungrouped convolution"):
        add_lora(nn.Sequential(stage, nn.Linear(3, 3)), ["0"], rank=2, alpha=2)


@pytest.mark.parametrize(("rank", "alpha"), [(0, 1.0), (-1, 1.0), (2, 0.0), (2, float("nan"))])
def test_an_adapter_that_cannot_be_is_refused(rank: int, alpha: float) -> None:
    with pytest.raises(UsageError, match="a rank of at least 1 and an alpha above 0"):
        add_lora(plain(), ["6"], rank, alpha)


def test_without_its_library_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    module = plain()
    how = r"LoRA needs peft, which is not installed: pip install 'graft-vision\[train\]'"
    with pytest.raises(UsageError, match=how):
        add_lora(module, ["6"], rank=2, alpha=2)
    assert all(tensor.requires_grad for tensor in module.parameters())


# --- normalisation and biases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stages", "want"),
    [
        ("test_resnet", ["layer4"], lambda key: "bn" in key or "downsample.2" in key),
        ("test_vit", ["blocks.3"], lambda key: "norm" in key or key.endswith("bias")),
        ("test_convnext", ["stages.3"], lambda key: "norm" in key or "downsample.0" in key or key.endswith("bias")),
        ("test_efficientnet_gn", ["blocks.2"], lambda key: "bn" in key or key.endswith("bias")),
        ("mobilenetv2_100", ["blocks.5"], lambda key: "bn" in key),
        ("plain", ["0", "6"], lambda key: key.endswith("bias")),
    ],
)
def test_norms_and_biases_are_those_of_the_stages(name: str, stages: list[str], want: Callable[[str], bool]) -> None:
    module = network(name)
    inside = {
        key: tensor for key, tensor in module.named_parameters() if key.startswith(tuple(f"{s}." for s in stages))
    }
    named = {id(tensor): key for key, tensor in inside.items()}
    assert [named[id(tensor)] for tensor in norm_parameters(module, stages)] == [key for key in inside if want(key)]


def test_layer_scales_and_tables_are_not_norms() -> None:
    module = network("test_convnext")
    assert any(key.endswith("gamma") for key, _ in module.named_parameters())
    found = {id(tensor) for tensor in norm_parameters(module, ["stages.2"])}
    assert not any(id(tensor) in found for key, tensor in module.named_parameters() if key.endswith("gamma"))


@pytest.mark.parametrize("layer", ["BatchNormAct2d", "LayerNorm2d", "GroupNormAct", "RmsNorm", "EvoNorm2dS0a"])
def test_all_parameters_of_a_norm_count(layer: str) -> None:
    norm = getattr(timm.layers, layer)(32)
    assert list(map(id, norm_parameters(nn.Sequential(norm), ["0"]))) == list(map(id, norm.parameters()))


def test_a_shared_parameter_comes_once() -> None:
    norm, other = nn.LayerNorm(4), nn.LayerNorm(4)
    other.weight = norm.weight
    assert len(norm_parameters(nn.Sequential(nn.Sequential(norm, other)), ["0"])) == 3


def test_a_stage_is_not_another_whose_name_begins_alike() -> None:
    module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(11)))
    assert len(norm_parameters(module, ["1"])) == 1
    assert add_lora(module, ["1"], rank=2, alpha=2) == ["1"]


def test_a_stage_without_any_says_so() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    with pytest.raises(UsageError, match=r"The stages 0 hold no normalisation layer and no bias.*resnet50"):
        norm_parameters(bare, ["0"])
