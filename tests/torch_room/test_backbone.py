"""A network that is converted at its first use: as PyTorch has it, and without PyTorch from then on."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from graft.backbones import catalog
from graft.backbones.backbone import load_backbone
from graft.backbones.graph import TOP, open_session
from graft.backbones.preprocess import Preprocess
from graft.errors import UsageError, WeightsError
from graft.torch import convert
from graft.torch.alone import temporary_seed
from graft.torch.build import build_network, remove_classifier
from graft.torch.network import FeaturesModule, normalise

NAME = "test_resnet"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    with temporary_seed(3):
        save_file(build_network(catalog.find_entry(NAME)).state_dict(), path)
    return path


def test_a_converted_network_says_what_pytorch_says(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    watch = lambda things, what, count: [shown.append(f"{what} {count}"), *things][1:]  # noqa: E731
    first = load_backbone(NAME, file, cache=tmp_path, watch=watch)
    monkeypatch.setattr(convert, "convert_backbone", lambda *_: pytest.fail("converted again"))
    second = load_backbone(NAME, file, cache=tmp_path, watch=watch)
    assert shown == [f"convert {NAME} 1"]
    assert first.source == second.source
    whole = build_network(catalog.find_entry(NAME))
    whole.load_state_dict(load_file(file))
    module = remove_classifier(first.entry, whole)
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 160, 160), np.uint8)
    with torch.no_grad():
        want = FeaturesModule(module, first.preprocess, ())(torch.from_numpy(images)).numpy()
    for backbone in (first, second):
        assert list(backbone.graph.tensors) == list(module.state_dict())
        found = open_session(backbone.graph).run(images, [TOP])[0]
        np.testing.assert_allclose(found, want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_a_network_that_was_converted_needs_torch_no_more(file: Path, tmp_path: Path) -> None:
    load_backbone(NAME, file, cache=tmp_path)
    code = f"""if True:
        import sys
        sys.modules["torch"] = None  # an import of it fails
        from pathlib import Path
        from graft.backbones.backbone import load_backbone
        found = load_backbone({NAME!r}, Path({str(file)!r}), cache=Path({str(tmp_path)!r}))
        print(len(found.graph.stages), *[name for name in ("timm", "torchvision", "onnx") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == f"{len(load_backbone(NAME, file, cache=tmp_path).graph.stages)}\n", done.stderr


def test_weights_of_another_network_are_not_converted(file: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not fit 'test_vit'"):
        load_backbone("test_vit", file, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_graph_of_ones_own_is_a_backbone(tmp_path: Path) -> None:
    with temporary_seed(1):
        module = nn.Sequential(nn.Conv2d(3, 5, 7, stride=4), nn.ReLU(), nn.Conv2d(5, 6, 3)).eval()
    path, given = tmp_path / "mine.onnx", np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, 3, 64, 64),), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}}
        )
    found = load_backbone(file=path)
    assert (found.entry, found.name, found.preprocess) == (None, f"file {path}", Preprocess(64, 73))
    assert found.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with torch.no_grad():
        want = module(normalise(found.preprocess, torch.from_numpy(given))).mean((2, 3)).numpy()
    np.testing.assert_allclose(open_session(found.graph).run(given, [TOP])[0], want, rtol=0, atol=1e-5)
    with pytest.raises(UsageError, match="is a whole network, and so is --backbone resnet18"):
        load_backbone("resnet18", path)
    with pytest.raises(WeightsError, match="There is no weights file"):
        load_backbone(file=tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(WeightsError, match=r"text\.onnx is no ONNX file"):
        load_backbone(file=tmp_path / "text.onnx")
