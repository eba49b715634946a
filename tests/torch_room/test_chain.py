"""The chain: which parts of a network are its stages, in which order, and which of them are worth pooling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import torch
from shaken import looked
from torch import Tensor, nn

from graft.backbones.features import build_probe_features, choose_layers
from graft.backbones.graph import Stage
from graft.backbones.preprocess import Preprocess
from graft.torch import chain as chains
from graft.torch.network import BackboneModule
from graft.torch.restore import build_random_module

DEIT = "deit_tiny_patch16_224"


def backbone_of(name: str, size: int) -> BackboneModule:
    made = build_random_module(name)
    if name == DEIT:  # built for one size of image
        made = replace(made, module=timm.create_model(name, img_size=size, num_classes=0).eval())
    return replace(made, preprocess=Preprocess(size=size, resize=size))


# --- stages -----------------------------------------------------------------------------------------------------------


def test_the_stages_of_efficientnet_lite0() -> None:
    chain = chains.find_stages(backbone_of("tf_efficientnet_lite0", 224))
    blocks = [f"blocks.{group}.{block}" for group, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(count)]
    blocks[0], blocks[-1] = "blocks.0", "blocks.6"  # a group of one is a stage as a whole
    assert [stage.name for stage in chain] == ["conv_stem", "bn1", *blocks, "conv_head", "bn2"]
    assert chain[0] == Stage("conv_stem", (32, 112, 112), 864)
    assert chain[-1] == Stage("bn2", (1280, 7, 7), 2560)
    assert sum(stage.parameters for stage in chain) == 3_371_008
    assert choose_layers(chain, 4) == ("blocks.0", "blocks.2.1", "blocks.4.2", "blocks.6")


def test_the_stages_of_deit_tiny() -> None:
    chain = chains.find_stages(backbone_of(DEIT, 64))
    assert [stage.name for stage in chain] == ["patch_embed", *(f"blocks.{number}" for number in range(12)), "norm"]
    assert [stage.shape for stage in chain] == [(16, 192), *[(17, 192)] * 13]
    assert chain[1].parameters == 444_864


def test_stages_leave_no_hooks_and_cover_the_weights_of_a_resnet() -> None:
    backbone = backbone_of("resnet50", 64)
    chain = chains.find_stages(backbone)
    assert sum(stage.parameters for stage in chain) == sum(each.numel() for each in backbone.module.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in backbone.module.modules())


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "cnn"])
def test_stages_are_met_in_this_order_and_say_what_has_this_shape(name: str) -> None:
    backbone = backbone_of(name, 32 if name == "cnn" else 64)
    met: list[tuple[str, tuple[int, ...]]] = []

    def meet(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _part, _given, output: met.append((name, tuple(output.shape[1:])))

    chain = chains.find_stages(backbone)
    for stage in chain:
        backbone.module.get_submodule(stage.name).register_forward_hook(meet(stage.name))
    with torch.no_grad():
        backbone.module(backbone.example_images())
    assert met == [(stage.name, stage.shape) for stage in chain]


def test_a_backbone_of_another_size_has_the_same_stages() -> None:
    backbone = backbone_of("test_resnet", 64)
    larger = replace(backbone, preprocess=Preprocess(size=96, resize=96))
    assert [stage.name for stage in chains.find_stages(larger)] == [
        stage.name for stage in chains.find_stages(backbone)
    ]


def test_looking_at_the_stages_changes_neither_weights_statistics_nor_modes() -> None:
    backbone = backbone_of("test_resnet", 64)
    backbone.module.train()
    backbone.module.get_submodule("layer2").eval()
    modes = [part.training for part in backbone.module.modules()]
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    chains.find_stages(backbone)
    assert [part.training for part in backbone.module.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.module.state_dict().items())


def test_modes_come_back_after_an_error_too() -> None:
    class Broken(nn.Module):
        def forward(self, _images: Tensor) -> Tensor:
            raise ValueError("broken")

    module = nn.Sequential(nn.Conv2d(3, 3, 3), Broken()).train()
    modes: list[bool] = []
    module[0].register_forward_hook(lambda *_: modes.append(module.training))
    with pytest.raises(ValueError, match="broken"), chains.eval_mode(module):
        module(torch.zeros(1, 3, 8, 8))
    assert modes == [False]
    assert all(part.training for part in module.modules())


# --- layers -----------------------------------------------------------------------------------------------------------


def test_layers_are_the_ends_of_each_width_or_quarters_of_a_network_of_one_width() -> None:
    widths = [4, 4, 8, 8, 8, 16, 32, 64]
    chain = [Stage(f"s{number}", (width,), 1) for number, width in enumerate(widths)]
    assert choose_layers(chain, 9) == ("s1", "s4", "s5", "s6")
    assert choose_layers(chain, 2) == ("s4", "s6")
    assert choose_layers(chain, 1) == ("s6",)
    same = [Stage(f"s{number}", (4,), 1) for number in range(12)]
    assert choose_layers(same, 4) == ("s2", "s5", "s8", "s11")


def test_a_probe_sees_these_layers_and_the_last_word() -> None:
    backbone = backbone_of("test_resnet", 64)
    features = build_probe_features(looked(backbone))
    chain = chains.find_stages(backbone)
    widths = {stage.name: stage.shape[0] for stage in chain}
    assert features.layers == choose_layers(chain)
    assert features.widths == (*(widths[name] for name in features.layers), chain[-1].shape[0])
