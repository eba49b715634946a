"""Heat maps: what the places say adds up to what the network says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from shaken import shaken
from torch import Tensor, nn

from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError
from graft.heads.designs import Conv, Linear, Mlp
from graft.networks.chain import probed
from graft.networks.fresh import fresh_backbone
from graft.networks.head import Head, fresh
from graft.networks.heat import COVERED, GRID, heat
from graft.networks.network import Features, Network, heard
from graft.networks.normalise import normalised

CLASSES = 5


def network(name: str, features: Features | None = None) -> Network:
    backbone = fresh_backbone(name)
    shaken(backbone.module).requires_grad_(False)
    reads = features or probed(backbone)
    return Network(reads, fresh(Linear(init="normal"), reads.width, CLASSES)).eval()


def pictures(size: int, count: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=random)


@torch.no_grad()
def margin(judge: Network, images: Tensor, classes: Sequence[int], several: bool = False) -> Tensor:
    logits = judge(images)
    own = logits[range(len(images)), list(classes)]
    return own if several else own - logits.mean(1)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "test_resnet",
        "tf_efficientnet_lite0",
        "googlenet",
        pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
    ],
)
def test_places_add_up_to_what_the_network_says(name: str, several: bool) -> None:
    judge = network(name)
    images = pictures(judge.preprocess.size)
    found = heat(judge, images, [1, 3], several)
    assert found.shape == (2, GRID, GRID)
    want = margin(judge, images, [1, 3], several)  # the head has no bias yet
    torch.testing.assert_close(found.sum((1, 2)), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
    assert found.flatten(1).std(1).min() > 1e-5 * found.abs().max()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in judge.modules())


def test_with_one_averaged_map_it_is_the_class_activation_map() -> None:
    """Zhou et al. 2016: the weights of the class times the channels of the last map."""
    backbone = fresh_backbone("test_resnet")
    shaken(backbone.module).requires_grad_(False)
    judge = network("test_resnet", Features(backbone.module, Preprocess(size=224, resize=224), ()))
    images = pictures(224)
    with torch.no_grad(), heard(backbone.module, ["layer4"]) as outputs:
        backbone.module(normalised(judge.preprocess, images))
    last = outputs["layer4"]
    assert GRID % last.shape[-1] == 0
    weight = judge.head.state_dict()["judge.weight"]
    weight = (weight - weight.mean(0))[[1, 3]]
    places = torch.einsum("nc,nchw->nhw", weight, last) / GRID**2
    times = GRID // last.shape[-1]
    want = places.repeat_interleave(times, 1).repeat_interleave(times, 2)
    torch.testing.assert_close(heat(judge, images, [1, 3]), want, rtol=1e-3, atol=1e-6)


def test_a_place_that_alone_decides_is_the_hottest() -> None:
    """A network that adds up how red a picture is, and pictures with one red corner."""
    stem = nn.Conv2d(3, 2, 4, 4, bias=False)
    with torch.no_grad():
        stem.weight.zero_()
        stem.weight[0, 0], stem.weight[1, 2] = 1, 1
    backbone = nn.Sequential(stem, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    plain = Preprocess(size=56, resize=56, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    head = fresh(Linear(), 2, 2)
    head.load_state_dict(head.state_dict() | {"judge.weight": torch.eye(2)})
    judge = Network(Features(backbone, plain, ()), head).eval().requires_grad_(False)
    images = torch.zeros(2, 3, 56, 56, dtype=torch.uint8)
    images[0, 0, :8, :8] = images[1, 0, -8:, 24:32] = 255
    found = heat(judge, images, [0, 0])
    assert [divmod(int(each.argmax()), GRID) for each in found] == [(0, 0), (12, 6)]
    assert torch.count_nonzero(found[0]) == 4
    against = heat(judge, images, [1, 1])
    torch.testing.assert_close(against, -found)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "cnn"])
def test_networks_whose_last_layer_has_no_places_are_heard_at_an_earlier_one(name: str) -> None:
    judge = network(name)
    found = heat(judge, pictures(judge.preprocess.size), [1, 3])
    assert found.isfinite().all()
    assert found.flatten(1).std(1).min() > 0


@pytest.mark.parametrize("design", [Conv(filters=4, hidden="6"), Mlp(hidden="6")])
def test_other_heads_have_heat_maps_too(design: Conv | Mlp) -> None:
    backbone = fresh_backbone("test_resnet")
    shaken(backbone.module).requires_grad_(False)
    conv = isinstance(design, Conv)
    reads = Features(backbone.module, backbone.preprocess, ("layer4",), pool=False) if conv else probed(backbone)
    judge = Network(reads, fresh(design, reads.shape if conv else reads.width, CLASSES)).eval()
    assert heat(judge, pictures(backbone.preprocess.size), [0, 4]).flatten(1).std(1).min() > 0


@pytest.mark.parametrize("name", ["mlp", "rnn"])
def test_a_network_without_places_says_so(name: str) -> None:
    judge = network(name)
    with pytest.raises(UsageError, match="keeps no map of the picture"):
        heat(judge, pictures(judge.preprocess.size), [0, 1])


class Corner(Network):
    """Stands for a network with a forest: a step where one place of the image is bright."""

    def __init__(self) -> None:
        shape = {"trees": 1, "nodes": 1, "leaves": 1, "depth": 0, "several": False}
        reads = probed(fresh_backbone("test_resnet"))
        super().__init__(reads, Head({"kind": "forest", "width": 1, "classes": 3} | shape))

    def forward(self, images: Tensor) -> Tensor:
        bright = (images[:, :, 20:30, 50:60].float().mean((1, 2, 3)) > 100).float()  # row 2, column 5 of 7
        return torch.stack([bright, 0 * bright, 0 * bright], dim=1)


@pytest.mark.parametrize(("several", "fall"), [(True, 1.0), (False, 2 / 3)])
def test_an_answer_in_steps_is_explained_by_what_covering_a_place_takes_from_it(several: bool, fall: float) -> None:
    images = torch.full((2, 3, 70, 70), 10, dtype=torch.uint8)
    images[0, :, 20:30, 50:60] = 250
    found = heat(Corner(), images, [0, 0], several)
    assert found.shape == (2, GRID, GRID)
    times = GRID // COVERED
    want = torch.zeros(GRID, GRID)
    want[2 * times : 3 * times, 5 * times : 6 * times] = fall / times**2
    torch.testing.assert_close(found[0], want)
    assert not found[1].any()
    assert images[0].max() == 250  # covering happens on copies
