"""Saliency maps without a gradient are those by gradients where the head is linear, and by answers everywhere."""

from __future__ import annotations

import gradients
import numpy as np
import pytest
import torch
from drawn import images_of, made, module_of, whole

from graft.backbones.graph import open_session
from graft.heads.head import Head
from graft.model.explain import GRID, OCCLUSION_GRID, class_activation_maps, occlusion_maps, saliency_maps
from graft.model.network import exact_map_outputs
from graft_runtime.card import MULTICLASS, MULTILABEL
from graft_runtime.contract import HEAT


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("name", "reads"),
    [
        *(("test_resnet", "last"), ("test_resnet", "all"), ("test_resnet", "early")),
        *(("test_convnext", "early"), ("test_efficientnet", "all"), ("mobilenetv3_small_100", "early")),
    ],
)
def test_of_a_linear_head_they_are_those_by_gradients(name: str, reads: str, several: bool) -> None:
    classifier = made(name, "linear", reads, MULTILABEL if several else MULTICLASS)
    network = classifier.network
    assert len(exact_map_outputs(network.features, network.head)) == len(network.features.widths)
    images = images_of(network.preprocess.size, 3, 1)
    got = saliency_maps(network, images, [1, 3, 0], several)
    want = gradients.heat(module_of(classifier), torch.from_numpy(images), [1, 3, 0], several).numpy()
    assert got.shape == (3, GRID, GRID)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


def test_of_the_last_layer_alone_they_are_the_output_heat() -> None:
    classifier = made("test_resnet", "linear", "last")
    images = images_of(classifier.network.preprocess.size, 2, 1)
    (plain,) = open_session(whole(classifier)).run(images, [HEAT])
    found = saliency_maps(classifier.network, images, [1, 3])
    np.testing.assert_allclose(found.sum((1, 2)), plain[[0, 1], [1, 3]].sum((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("side", [1, 2, 5, 7, 14, 15, 20, 28])
def test_whatever_the_size_of_the_map_the_places_add_up_to_the_logit(side: int) -> None:
    rng = np.random.default_rng(0)
    maps = [rng.normal(0, 1, (2, 4, side, side + 1)).astype("f4"), rng.normal(0, 1, (2, 3, 6, 6)).astype("f4")]
    tensors = {"mean": rng.normal(0, 1, 7), "scale": rng.uniform(1, 2, 7), "judge.weight": rng.normal(0, 1, (3, 7))}
    tensors = {name: each.astype(np.float32) for name, each in tensors.items()}
    head = Head({"kind": "linear", "width": 7, "classes": 3}, tensors | {"judge.bias": np.zeros(3, np.float32)})
    features = np.concatenate([each.mean(axis=(2, 3)) for each in maps], axis=1)
    logits = head(features) - head(np.zeros_like(features))
    np.testing.assert_allclose(
        class_activation_maps(maps, head, [2, 0], True).sum((1, 2)), logits[[0, 1], [2, 0]], atol=1e-4
    )
    plain = logits - logits.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(class_activation_maps(maps, head, [2, 0]).sum((1, 2)), plain[[0, 1], [2, 0]], atol=1e-4)
    want = gradients.on_grid(torch.from_numpy(maps[0][:, 0])).numpy()
    weight = np.eye(3, 7, dtype=np.float32)
    plain_head = head.with_tensors({"judge.weight": weight, "scale": np.ones(7, np.float32)})
    got = class_activation_maps([maps[0], 0 * maps[1]], plain_head, [0, 0], True) * (side * (side + 1))
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("name", "head", "reads"), [("test_resnet", "forest", "last"), ("test_resnet", "conv", "map")])
def test_other_heads_are_explained_by_covering_as_forests_always_were(
    name: str, head: str, reads: str, several: bool
) -> None:
    classifier = made(name, head, reads, MULTILABEL if several else MULTICLASS)
    network = classifier.network
    assert exact_map_outputs(network.features, network.head) == ()
    images = images_of(network.preprocess.size, 2, 1)
    got = saliency_maps(network, images, [1, 3], several)
    want = gradients.covered(module_of(classifier), torch.from_numpy(images), [1, 3], several).numpy()
    assert np.abs(want).max() > 1e-3
    np.testing.assert_allclose(got, want, atol=1e-4 * max(np.abs(want).max(), 1))


@pytest.mark.parametrize("name", ["test_vit", "mlp"])
def test_networks_without_averaged_maps_are_explained_by_covering(name: str) -> None:
    network = made(name, "linear", "last").network
    assert exact_map_outputs(network.features, network.head) == ()
    found = saliency_maps(network, images_of(network.preprocess.size, 1, 1), [1])
    assert found.std() > 0


def test_a_place_that_alone_decides_is_found_on_copies() -> None:
    asked: list[int] = []

    def bright(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        said = (images[:, :, 20:30, 50:60].mean((1, 2, 3)) > 100).astype(np.float32)
        return np.stack([said, 0 * said, 0 * said], axis=1)

    images = np.full((2, 3, 70, 70), 10, np.uint8)
    images[0, :, 20:30, 50:60] = 250
    found = occlusion_maps(bright, images, [0, 0])
    want = np.zeros((GRID, GRID), np.float32)
    want[4:6, 10:12] = (2 / 3) / 4
    np.testing.assert_allclose(found[0], want, rtol=1e-6)
    assert not found[1].any()
    assert images[0].max() == 250
    assert asked == [OCCLUSION_GRID**2 + 1] * 2
