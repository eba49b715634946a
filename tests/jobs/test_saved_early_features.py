"""What early features do not read is not in the saved folder, and nothing is different without it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save
from safetensors.torch import save_file
from tensors import tensors

from graft.backbones import catalog
from graft.backbones.graph import MAP, POOLED
from graft.data.readers.folder import read_folder
from graft.errors import ModelError, UpdateError, UsageError
from graft.jobs.export.export import export
from graft.jobs.fit import fit
from graft.jobs.update.update import update
from graft.model import storage
from graft.model.classifier import Classifier, load
from graft.model.explain import saliency_maps
from graft.model.network import Network
from graft.torch import build
from graft.torch.chain import find_blocks
from graft.torch.network import DroppedStage
from graft.torch.restore import build_random_backbone, build_random_module, network_to_module

CASES: dict[str, dict[str, Any]] = {
    "solved": {"strategy": "early-features:at=0.5,solver=ridge"},
    "trained": {"strategy": "early-features:at=0.5,cut=0", "head": "linear", "recipe": "epochs=2,refit=no"},
    "head alone": {"strategy": "early-features:at=0.5", "head": "linear", "recipe": "epochs=2,refit=no"},
    "map": {"strategy": "early-features:at=0.5", "head": "conv:filters=4", "recipe": "epochs=2,refit=no"},
}
PAIRS = [(name, case) for name in ("test_resnet", "test_vit") for case in CASES if (name, case) != ("test_vit", "map")]
COUNTER = ".num_batches_tracked"  # which nobody reads, so that a shortened file has none
LATER = [pair for pair in PAIRS if pair not in (("test_resnet", "solved"), ("test_vit", "solved"))]


def made(name: str, case: str, photos: Path, output: Path | None, **more: Any) -> Classifier:
    options: dict[str, Any] = {"weights": "random", "offline": True, "report": False} | CASES[case] | more
    return fit(photos, output, backbone=name, **options)


def later(name: str) -> list[str]:
    """The stages after the one that ends half of the chain."""
    chain = build_random_backbone(name).graph.stages
    return [f"features.backbone.{stage.name}." for stage in chain[max(round(len(chain) / 2), 1) :]]


def answers(classifier: Classifier, photos: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and how unlike the training images each image is."""
    seen = classifier.run_forward(read_folder(photos))
    assert seen.near
    return seen.logits, seen.near.scores


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "case"), [pytest.param(*pair, marks=[pytest.mark.slow] * (pair in LATER)) for pair in PAIRS]
)
def test_no_tensor_of_a_later_stage_is_in_the_file_and_every_answer_is_the_same(
    name: str, case: str, photos: Path, tmp_path: Path
) -> None:
    classifier = made(name, case, photos, tmp_path / "model")
    saved, gone = load_file(tmp_path / "model" / "model.safetensors"), tuple(later(name))
    assert len(gone) >= 2
    assert not [each for each in saved if each.startswith(gone)]
    whole = tensors(classifier.network)
    assert {each for each in whole if not each.startswith(gone) and not each.endswith(COUNTER)} == set(saved)
    assert all(np.array_equal(whole[each], saved[each]) for each in saved)

    loaded = load(tmp_path / "model")
    assert tensors(loaded.network).keys() == saved.keys()
    for one, two in zip(answers(classifier, photos), answers(loaded, photos), strict=True):
        np.testing.assert_array_equal(one, two)
    assert loaded.evaluate(photos).as_dict() == classifier.evaluate(photos).as_dict()
    side = loaded.network.preprocess.size
    images = np.random.default_rng(0).integers(0, 256, (3, 3, side, side), np.uint8)
    one, two = (
        saliency_maps(each, images, [0, 1, 2]) for each in (load(tmp_path / "model").network, completed(name, tmp_path))
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one).max() > 0
    load(tmp_path / "model").save(tmp_path / "again")
    assert save_of(tmp_path / "again") == save_of(tmp_path / "model")
    assert (tmp_path / "again" / "graph.onnx").read_bytes() == (tmp_path / "model" / "graph.onnx").read_bytes()


def completed(name: str, folder: Path) -> Network:
    """The saved network with the stages that are missing put in."""
    network, whole = load(folder / "model").network, build_random_backbone(name).graph
    whole = replace(whole, tensors={**whole.tensors, **network.features.graph.tensors})
    return replace(network, features=replace(network.features, graph=whole))


def save_of(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_it_is_exported_as_before(photos: Path, tmp_path: Path) -> None:
    classifier = made("test_resnet", "solved", photos, tmp_path / "model")
    export(classifier, tmp_path / "whole.onnx", force=False)
    export(load(tmp_path / "model"), tmp_path / "short.onnx", force=False)
    assert abs((tmp_path / "whole.onnx").stat().st_size - (tmp_path / "short.onnx").stat().st_size) < 1000


@pytest.mark.slow
def test_a_classifier_that_was_saved_whole_is_loaded_and_saved_without_what_it_does_not_read(
    photos: Path, tmp_path: Path
) -> None:
    classifier = made("test_resnet", "solved", photos, tmp_path / "model")
    short = save_of(tmp_path / "model")
    rewritten(tmp_path / "model", tensors(classifier.network), graph=False)  # that version had no graph
    loaded = load(tmp_path / "model")
    assert tensors(loaded.network).keys() == tensors(classifier.network).keys()
    np.testing.assert_array_equal(answers(loaded, photos)[0], answers(classifier, photos)[0])
    loaded.save(tmp_path / "again")
    assert save_of(tmp_path / "again") == short
    # one that compares images by a later stage, as trained heads once did, keeps that stage
    unknown = classifier.card.unknown | {"layer": "layer3"}
    Classifier(loaded.network, replace(loaded.card, unknown=unknown)).save(tmp_path / "more")
    names = {name.split(".")[2] for name in load_file(tmp_path / "more" / "model.safetensors") if "backbone" in name}
    assert "layer3" in names
    assert "layer4" not in names


def rewritten(folder: Path, tensors: dict[str, NDArray[Any]], *, graph: bool) -> None:
    """Give a saved classifier other tensors, and take its graph away if it is to be one of before there were any."""
    card, content = json.loads((folder / storage.CARD).read_text()), save(tensors)
    (folder / storage.TENSORS).write_bytes(content)
    card["weights"][storage.TENSORS] = hashlib.sha256(content).hexdigest()
    if not graph:
        (folder / storage.GRAPH).unlink()
        del card["weights"][storage.GRAPH]
    (folder / storage.CARD).write_text(json.dumps(card))


@pytest.mark.parametrize(("graph", "says"), [(True, r"missing .*conv1\.6\."), (False, "stage was left out")])
def test_a_file_that_lacks_a_stage_that_is_read_is_refused(
    graph: bool, says: str, photos: Path, tmp_path: Path
) -> None:
    made("test_resnet", "solved", photos, tmp_path / "model")
    saved, read = load_file(tmp_path / "model" / "model.safetensors"), load(tmp_path / "model").card.layers[0]
    assert read == "conv1.6"
    rest = {name: each for name, each in saved.items() if f".{read}." not in name}
    rewritten(tmp_path / "model", rest, graph=graph)
    with pytest.raises(ModelError, match=f"do not belong together: .*{says}"):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_the_chain_is_counted_as_if_nothing_was_gone(name: str) -> None:
    module = build_random_module(name).module
    before = list(find_blocks(module))
    for stage in before[len(before) // 2 :]:
        size = sum(each.numel() for each in module.get_submodule(stage).parameters())
        module.set_submodule(stage, DroppedStage(size))
    assert list(find_blocks(module)) == before


# --- updated ----------------------------------------------------------------------------------------------------------

MERGE: dict[str, Any] = {"merge": {"round": ("disc", "frame")}, "allow_worse": True}


@pytest.fixture
def filed(tmp_path: Path) -> Path:
    """Weights of test_resnet, as if they had been published."""
    torch.manual_seed(0)
    save_file(build.build_network(catalog.find_entry("test_resnet")).state_dict(), tmp_path / "test_resnet.safetensors")
    return tmp_path / "test_resnet.safetensors"


@pytest.mark.slow
def test_an_update_takes_the_other_stages_from_where_they_came_from(
    filed: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = made("test_resnet", "solved", photos, tmp_path / "model", weights=filed)
    wanted = update(classifier, **MERGE)
    found = update(tmp_path / "model", tmp_path / "new", **MERGE)
    state = tensors(found.network)
    assert all(np.array_equal(each, state[name]) for name, each in tensors(wanted.network).items())
    assert found.report["evaluation"] == wanted.report["evaluation"]
    assert found.report["embedded"]["computed"] == 0, "the cache has the features of the whole network"
    assert not [each for each in load_file(tmp_path / "new" / "model.safetensors") if ".layer4." in each]

    (tmp_path / "elsewhere").mkdir()
    filed.rename(tmp_path / "elsewhere" / filed.name)
    monkeypatch.setattr("graft.backbones.weights._repository", lambda _entry: "")  # nothing is published
    with pytest.raises(UpdateError, match=r"needs the others too.*cannot be had: No weights of 'test_resnet'"):
        update(tmp_path / "model", **MERGE)
    assert update(tmp_path / "model", rename={"disc": "ball"}).classes == ("ball", "frame", "stripes")
    monkeypatch.setenv("GRAFT_WEIGHTS", str(tmp_path / "elsewhere"))
    assert update(tmp_path / "model", **MERGE).classes == ("round", "stripes")
    torch.manual_seed(1)
    save_file(build.build_network(catalog.find_entry("test_resnet")).state_dict(), tmp_path / "elsewhere" / filed.name)
    with pytest.raises(UpdateError, match=r"are not those of then \(file .*SHA-256 [0-9a-f]{64}\)"):
        update(tmp_path / "model", **MERGE)


@pytest.mark.slow
def test_an_update_draws_random_weights_again(photos: Path, tmp_path: Path) -> None:
    classifier = made("test_resnet", "solved", photos, tmp_path / "model", seed=4)
    wanted, found = update(classifier, **MERGE), update(tmp_path / "model", **MERGE)
    state = tensors(found.network)
    assert all(np.array_equal(each, state[name]) for name, each in tensors(wanted.network).items())
    assert found.card.backbone["origin"] == "drawn with seed 4"


def test_of_a_graph_out_of_the_cache_too_no_later_output_is_told(filed: Path, photos: Path, tmp_path: Path) -> None:
    kept = [stage.name for stage in build_random_backbone("test_resnet").graph.stages[: -len(later("test_resnet"))]]
    for name in ("converted", "cached"):
        made("test_resnet", "solved", photos, tmp_path / name, weights=filed)
        shapes = load(tmp_path / name).network.features.graph.shapes
        assert shapes.keys() == {f"{kind}{each}" for kind in (POOLED, MAP) for each in kept}


def test_a_shortened_network_cannot_be_run_to_its_end(photos: Path, tmp_path: Path) -> None:
    made("test_resnet", "solved", photos, tmp_path / "model")
    loaded = load(tmp_path / "model")
    network = network_to_module(loaded.network, loaded.card)
    with pytest.raises(UsageError, match="left out of the saved classifier"):
        network.features.backbone(build_random_module("test_resnet").example_images())
