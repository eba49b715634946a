"""Backbones: from arrays, from the cache, or converted once; a cache that is damaged, or that cannot be written."""

from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from graft.backbones import backbone, catalog, lite, weights
from graft.backbones import backbone as backbones
from graft.backbones.backbone import Backbone, cache_key, load_backbone
from graft.backbones.graph import TOP, Graph, Stage, open_session
from graft.backbones.preprocess import Preprocess
from graft.errors import GraftWarning, UsageError, WeightsError

NAME = catalog.DEFAULT


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own, so that none finds what another kept."""
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "home"))
    return tmp_path / "home" / "backbones"


@pytest.fixture(scope="module")
def default() -> Backbone:
    return load_backbone(offline=True)


def answers(graph: Graph) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 224, 224), np.uint8)
    return open_session(graph).run(images, [TOP])[0]


def same(one: Graph, two: Graph) -> bool:
    """Whether two graphs are equal to the bit."""
    equal = [one.tensors[name].tobytes() == tensor.tobytes() for name, tensor in two.tensors.items()]
    kinds = [(name, each.dtype, each.shape) for name, each in one.tensors.items()]
    return (
        all(equal)
        and kinds == [(name, each.dtype, each.shape) for name, each in two.tensors.items()]
        and (one.structure, one.stages, one.top_is_average, one.shapes)
        == (*(two.structure, two.stages, two.top_is_average, two.shapes),)
    )


def test_the_default_is_built_from_arrays(default: Backbone) -> None:
    entry = catalog.find_entry(NAME)
    assert (default.name, default.entry, default.preprocess) == (NAME, entry, catalog.build_preprocess(entry))
    assert (default.source.where, default.source.sha256) == ("embedded", weights.PACKAGES[NAME].sha256)
    found = answers(default.graph)
    assert found.shape == (2, 1280)
    assert found.std(0).max() > 0


def test_a_kept_graph_is_the_graph(default: Backbone, own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, cache = load_backbone(offline=True), own_folder
    key = cache_key(first.entry, first.source, first.preprocess)
    assert sorted(path.suffix for path in cache.iterdir()) == [".onnx", ".safetensors"]
    assert all(path.name.startswith(key) for path in cache.iterdir())
    monkeypatch.setattr(lite, "build", lambda *_: pytest.fail("built again"))
    second = load_backbone(offline=True)
    assert same(first.graph, default.graph)
    assert same(second.graph, default.graph)
    assert second.source == first.source
    assert np.array_equal(answers(second.graph), answers(default.graph))


def test_the_key_is_of_all_that_the_graph_depends_on(default: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, source, preprocess = default.entry, default.source, default.preprocess
    keys = {
        cache_key(entry, source, preprocess),
        cache_key(catalog.find_entry("tf_efficientnet_lite1"), source, preprocess),
        cache_key(entry, replace(source, sha256="0" * 64), preprocess),
        cache_key(entry, source, replace(preprocess, mean=(0.5, 0.5, 0.6))),
    }
    assert cache_key(entry, replace(source, where="file", origin="elsewhere"), preprocess) in keys
    monkeypatch.setattr(backbones, "GRAPH_VERSION", backbones.GRAPH_VERSION + 1)
    assert len(keys | {cache_key(entry, source, preprocess)}) == 5


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("ending", [".onnx", ".safetensors"])
def test_a_damaged_graph_is_made_anew_and_said_once(default: Backbone, tmp_path: Path, harm: Any, ending: str) -> None:
    load_backbone(offline=True, cache=tmp_path)
    (path,) = tmp_path.glob(f"*{ending}")
    harm(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        again = load_backbone(offline=True, cache=tmp_path)
    gone = harm is Path.unlink and ending == ".safetensors"  # then it is as if it had never been there
    what = "is missing" if harm is Path.unlink else "is not what was written there"
    remark = f"The graph of '{NAME}' in the cache was damaged, and was made anew: {path} {what}."
    assert [str(each.message) for each in caught] == [remark] * (not gone)
    assert all(each.category is GraftWarning for each in caught)
    assert same(again.graph, default.graph)
    load_backbone(offline=True, cache=tmp_path)  # a warning would be an error


def test_a_cache_that_cannot_be_written_is_said_and_no_fault(default: Backbone, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.warns(
        GraftWarning, match=rf"The graph of '{NAME}' cannot be kept in .*/file/backbones: Not a directory\.$"
    ):
        found = load_backbone(offline=True, cache=tmp_path / "file" / "backbones")
    assert same(found.graph, default.graph)


@pytest.mark.fault(34)
@pytest.mark.parametrize("place", ["pathlib.Path.write_bytes", "safetensors.numpy.save_file"])
def test_a_full_disk_leaves_nothing_that_is_taken_for_a_graph(
    default: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*given: Any) -> None:
        next(each for each in given if isinstance(each, Path)).touch()
        fault = "No space left on device"
        raise OSError(28, fault) if place.startswith("pathlib") else SafetensorError(fault)

    with monkeypatch.context() as patch:
        patch.setattr(place, full)
        with pytest.warns(
            GraftWarning, match=rf"The graph of '{NAME}' cannot be kept in .*: No space left on device\.$"
        ):
            load_backbone(offline=True, cache=tmp_path)
    assert not [*tmp_path.glob("*.safetensors"), *tmp_path.glob(".*")]
    load_backbone(offline=True, cache=tmp_path)  # a warning would be an error


def test_tensors_of_all_kinds_are_kept(tmp_path: Path) -> None:
    tensors = {
        "z.counter": np.array(3),
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": np.zeros((0, 2), np.float16),
        "mask": np.array([True, False]),
    }
    graph = Graph(b"\x3a\x00", tensors, (Stage("a.0", (3, 2, 2), 7), Stage("a.1", (5,), 0)), top_is_average=True)
    assert backbone.read(tmp_path, "key") is None
    backbone.write(tmp_path, "key", graph)
    found = backbone.read(tmp_path, "key")
    assert found
    assert same(found, graph)
    assert backbone.read(tmp_path, "other") is None


@pytest.fixture
def nothing_but_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "REQUIRED_PACKAGES", ("no_such_torch", "timm"))


def test_what_has_to_be_converted_needs_more_than_the_core(nothing_but_the_core: None, tmp_path: Path) -> None:
    (tmp_path / "file.safetensors").write_bytes(b"not looked into")
    want = (
        r"^'test_resnet' has to be converted once, and that needs no_such_torch: `pip install 'graft-vision\[train\]'`"
    )
    with pytest.raises(UsageError, match=want):
        load_backbone("test_resnet")  # and nothing is downloaded
    with pytest.raises(UsageError, match=want):
        load_backbone("test_resnet", tmp_path / "file.safetensors")
    assert load_backbone(offline=True, cache=tmp_path).graph.stages


def test_weights_of_another_network_are_refused(default: Backbone, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not fit 'tf_efficientnet_lite1'"):
        load_backbone("tf_efficientnet_lite1", default.source.path)
    with pytest.raises(WeightsError, match="There is no weights file"):
        load_backbone(NAME, tmp_path / "none.pth")
    with pytest.raises(UsageError, match="Did you mean 'resnet50'"):
        load_backbone("resnet5O")


def test_a_name_with_a_tag_is_the_same_network(default: Backbone) -> None:
    tagged = load_backbone(f"{NAME}.in1k", default.source.path)
    assert tagged.name == f"{NAME}.in1k"
    assert same(tagged.graph, default.graph)
    assert tagged.preprocess == default.preprocess == Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.mark.slow
def test_neither_torch_nor_onnx_is_needed_once_the_graph_is_kept(tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        from pathlib import Path
        from graft.backbones.backbone import load_backbone
        found = load_backbone(offline=True, cache=Path({str(tmp_path)!r}))
        print(len(found.graph.tensors), *[name for name in ("torch", "timm", "onnx") if name in sys.modules])
    """
    said = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert said[0][1:] == ["onnx"]
    assert said[1] == said[0][:1]
