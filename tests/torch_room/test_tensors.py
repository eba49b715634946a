"""Tensors: nothing but the right ones, and all of them, get into a network; nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision.models
from safetensors.torch import save_file
from torch import Tensor, nn

from graft.backbones import catalog
from graft.backbones.catalog import CatalogEntry
from graft.errors import WeightsError
from graft.torch import build
from graft.torch.build import fill_network, read_tensors

TINY = catalog.find_entry("test_resnet")
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    torch.manual_seed(0)
    return {name: torch.rand_like(each) if each.is_floating_point() else each for name, each in fresh(TINY).items()}


def fresh(entry: CatalogEntry) -> Tensors:
    return build.build_network(entry).state_dict()


def loaded(entry: CatalogEntry, path: Path) -> nn.Module:
    network = build.build_network(entry)
    fill_network(entry, network, read_tensors(path), path)
    return network


def same(network: nn.Module, tensors: Tensors) -> bool:
    own = network.state_dict()
    return own.keys() == tensors.keys() and all(torch.equal(own[name], tensors[name]) for name in own)


def saved(tensors: Tensors, path: Path) -> Path:
    save_file(tensors, path)
    return path


# Into the network


def test_files_of_all_kinds_give_the_same_network(tmp_path: Path, tensors: Tensors) -> None:
    writers: dict[str, Callable[[Path], object]] = {
        "a.safetensors": lambda path: save_file(tensors, path),
        "b.pth": lambda path: torch.save(tensors, path),
        "legacy.pth": lambda path: torch.save(tensors, path, _use_new_zipfile_serialization=False),
        "wrapped.pt": lambda path: torch.save({"epoch": 3, "state_dict": tensors}, path),
        "parallel.bin": lambda path: torch.save({"model": {f"module.{n}": t for n, t in tensors.items()}}, path),
        "misnamed.pth": lambda path: save_file(tensors, path),
    }
    for name, write in writers.items():
        write(tmp_path / name)
        network = loaded(TINY, tmp_path / name)
        assert same(network, tensors), name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("conv1.0.weight"), r"missing conv1\.0\.weight\. Is it of another network"),
        (lambda t: t.update(extra=torch.zeros(1)), r"unexpected extra\. Is it"),
        (lambda t: t.update({"bn1.bias": torch.zeros(3)}), r"wrong shape bn1\.bias \[3\] for \[\d+\]"),
        (lambda t: t.update({"fc.weight": torch.zeros(1000, 7)}), r"wrong shape fc\.weight \[1000, 7\] for \[1000, "),
        (lambda t: t.update({"bn1.bias": t["bn1.bias"].char()}), r"wrong type bn1\.bias torch\.int8 for torch"),
        (lambda t: t.clear(), r"missing conv1\.0\.weight, \S+, \S+ and \d+ more\. "),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("layer1.")], r"missing layer1\..* and \d+ more\."),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: Tensors, change: Callable[[Tensors], object], complaint: str
) -> None:
    others = dict(tensors)
    change(others)
    path = saved(others, tmp_path / "odd.safetensors")
    network = build.build_network(TINY)
    before = {name: each.clone() for name, each in network.state_dict().items()}
    with pytest.raises(WeightsError, match=rf"odd\.safetensors does not fit 'test_resnet': {complaint}"):
        fill_network(TINY, network, read_tensors(path), path)
    assert same(network, before)


@pytest.mark.parametrize("classes", [None, 5])
def test_another_classifier_is_left_out(tmp_path: Path, tensors: Tensors, classes: int | None) -> None:
    body = {name: each for name, each in tensors.items() if not name.startswith("fc.")}
    width = tensors["fc.weight"].shape[1]
    other = {"fc.weight": torch.zeros(classes, width), "fc.bias": torch.zeros(classes)} if classes else {}
    network = loaded(TINY, saved(body | other, tmp_path / "own.safetensors"))
    assert same(build.remove_classifier(TINY, network), body)


def test_only_batch_counters_may_be_missing(tmp_path: Path, tensors: Tensors) -> None:
    old = {name: each for name, each in tensors.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(tensors)
    network = loaded(TINY, saved(old, tmp_path / "old.safetensors"))
    assert all(torch.equal(network.state_dict()[name], each) for name, each in old.items())


@pytest.mark.slow
def test_auxiliary_classifiers_of_googlenet_are_left_out(tmp_path: Path) -> None:
    entry = catalog.find_entry("googlenet")
    own = fresh(entry)
    theirs = own | {"aux1.conv.conv.weight": torch.zeros(2), "aux2.fc2.bias": torch.zeros(3)}
    network = loaded(entry, saved(theirs, tmp_path / "googlenet.safetensors"))
    assert same(network, own)


@pytest.mark.parametrize("name", [pytest.param("vgg11", marks=pytest.mark.slow), "densenet121", "inception_v3"])
def test_torchvision_files_answer_the_same_as_timm_networks(tmp_path: Path, name: str) -> None:
    options = {} if name == "densenet121" else {"init_weights": False}
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, **options).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = loaded(catalog.find_entry(name), tmp_path / "theirs.pth")
    images = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))


# Damaged and hostile files


class Canary:
    """Unpickled, it touches a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.fault(32)
@pytest.mark.parametrize("modern", [True, False])
def test_a_malicious_pickle_is_not_run(tmp_path: Path, tensors: Tensors, modern: bool) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    torch.save(tensors | {"evil": Canary(canary)}, path, _use_new_zipfile_serialization=modern)
    with pytest.raises(WeightsError, match=r"Cannot read weights from .*evil\.pth: UnpicklingError"):
        loaded(TINY, path)
    assert not canary.exists()
    torch.load(path, weights_only=False)
    assert canary.exists()  # it would have been


@pytest.mark.parametrize(
    ("name", "damage", "complaint"),
    [
        ("x.safetensors", lambda whole: whole[: len(whole) // 2], "Cannot read weights from"),
        ("x.safetensors", lambda whole: whole[:5], "neither a safetensors nor a PyTorch file"),
        ("x.safetensors", lambda whole: b"\xff" * 8 + whole[8:], "Cannot read weights from"),
        ("x.pth", lambda whole: whole[: len(whole) // 2], "Cannot read weights from"),
        ("x.pth", lambda whole: b"", r"neither a safetensors nor a PyTorch file\.$"),
        ("x.pth", lambda whole: b"<!DOCTYPE html><title>404</title>", "looks like a web page"),
        ("x.pth", lambda whole: b"\n <html>", "looks like a web page"),
        ("x.pth", lambda whole: b"\x80\x02garbage", "Cannot read weights from"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, tensors: Tensors, name: str, damage: Callable[[bytes], bytes], complaint: str
) -> None:
    path = tmp_path / name
    save_file(tensors, path) if name.endswith("safetensors") else torch.save(tensors, path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=complaint) as caught:
        loaded(TINY, path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("thing", [[torch.zeros(2)], {"epoch": 3}, torch.zeros(2)])
def test_a_file_of_other_things_is_refused(tmp_path: Path, thing: object) -> None:
    torch.save(thing, tmp_path / "thing.pth")
    with pytest.raises(WeightsError, match="holds something else than tensors by name"):
        loaded(TINY, tmp_path / "thing.pth")
