"""Feature maps for use elsewhere: the file holds what the stages say of each image, and memory holds a batch of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner, Result

from graft.backbones.backbone import load_backbone
from graft.backbones.graph import BATCH, MAP, Session
from graft.backbones.preprocess import Preprocess
from graft.cli import app
from graft.data import dataset as table
from graft.errors import DataError, OutputError, UsageError
from graft.jobs import embed as job
from graft.torch.convert import convert_module
from graft.torch.network import BackboneModule, normalise
from graft.torch.restore import backbone_to_module, build_random_backbone


def graft(*words: object) -> Result:
    return CliRunner().invoke(app.app, [str(word) for word in words])


@pytest.fixture
def small(weights: Path) -> dict[str, Any]:
    return {"backbone": "test_resnet", "weights": weights, "offline": True}


def hooked(backbone: BackboneModule, raw: bytes, name: str) -> torch.Tensor:
    """What a forward hook on the stage hears of an image in a whole pass."""
    heard: list[torch.Tensor] = []
    handle = backbone.module.get_submodule(name).register_forward_hook(lambda _part, _in, out: heard.append(out))
    pixels = table.decode_pixels(raw, backbone.preprocess.decode_size)
    with torch.inference_mode():
        backbone.module(normalise(backbone.preprocess, torch.from_numpy(backbone.preprocess.prepare(pixels)[None])))
    handle.remove()
    return heard[0][0]


@pytest.mark.slow
def test_the_maps_are_what_a_hook_hears(photos: Path, tmp_path: Path, small: dict[str, Any]) -> None:
    graph = load_backbone("test_resnet", small["weights"])
    backbone, names = (
        backbone_to_module(graph),
        [stage.name for stage in graph.graph.stages if len(stage.shape) == 3][1:3],
    )
    shutil.copytree(photos, tmp_path / "p")
    (tmp_path / "p/disc/bad.jpg").write_bytes(b"")
    written = job.write_feature_maps(tmp_path / "p", tmp_path / "m.npz", "+".join(reversed(names)), **small)
    assert written.images == 36
    assert written.faults == {"disc/bad.jpg": "empty file"}
    with np.load(tmp_path / "m.npz", allow_pickle=False) as file:
        assert sorted(file) == sorted([*names, "names", "labels", "classes"])
        assert file["classes"][file["labels"]].tolist() == [name.partition("/")[0] for name in file["names"]]
        for name in names:
            found = file[name]
            assert found.dtype == np.float32
            assert found.shape == (36, *written.shapes[name])
            for row in (0, 17, 35):
                want = hooked(backbone, (photos / str(file["names"][row])).read_bytes(), name).numpy()
                assert found[row] == pytest.approx(want, abs=1e-4 * float(np.abs(want).max()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.npz", "p"]


class ChannelsLast(nn.Module):
    """Hands its map on as Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 2, 3, 1) * self.factor


class Averaged(nn.Module):
    """Its end."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps.mean((1, 2))


def test_maps_that_lie_with_the_channels_last_come_with_the_channels_first() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 8, 8), ChannelsLast(), Averaged()).eval().requires_grad_(False)
    preprocess = Preprocess(32, 32)
    graph = convert_module(module, preprocess)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    first, last = graph.runner.run(images.numpy(), [f"{MAP}0", f"{MAP}1"])
    want = module[0](normalise(preprocess, images)).numpy()
    assert [stage.shape for stage in graph.stages] == [(5, 4, 4), (4, 4, 5)]
    np.testing.assert_allclose(first, want, rtol=0, atol=1e-5)
    np.testing.assert_allclose(last, 2 * want, rtol=0, atol=1e-5)


def test_memory_holds_a_batch_and_no_more(
    photos: Path, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    run = Session.run
    load_backbone("test_resnet", small["weights"])  # from here on in the cache: a conversion runs the graph as well

    def counting(session: Session, images: np.ndarray[Any, Any], outputs: Any) -> Any:
        sizes.append(len(images))
        return run(session, images, outputs)

    monkeypatch.setattr(Session, "run", counting)
    job.write_feature_maps(photos, tmp_path / "m.npz", "0", **small)
    assert sum(sizes) == 36
    assert max(sizes) <= BATCH


def test_what_cannot_be_is_told_before_any_image(
    photos: Path, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "_stream_maps", lambda *_: pytest.fail("work was done first"))
    for output, at, kind, message in (
        ("m.parquet", "0", UsageError, r"written as \.npz, one array for each stage"),
        ("no/m.npz", "0", OutputError, "There is no folder"),
        ("m.npz", "layer9", UsageError, "There is no stage 'layer9'. The stages are"),
        ("m.npz", "0+", UsageError, "There is no stage ''"),
    ):
        with pytest.raises(kind, match=message):
            job.write_feature_maps(photos, tmp_path / output, at, **small)
    monkeypatch.setattr(job, "load_backbone", lambda *_: build_random_backbone("test_vit"))
    with pytest.raises(UsageError, match=r"'blocks\.0' of test_vit gives no feature map .* with a map: patch_embed\.$"):
        job.write_feature_maps(photos, tmp_path / "m.npz", "blocks.0", **small)
    done = graft("embed", photos, "-o", tmp_path / "m.npz", "--maps", "0", "--all-layers")
    assert (done.exit_code, "leave --all-layers and --boxes out" in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(34)
def test_a_full_disk_leaves_nothing_and_the_file_that_was_there(
    photos: Path, tmp_path: Path, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = graft(
        "embed",
        photos,
        "-o",
        tmp_path / "m.npz",
        "--maps",
        "0",
        "--weights",
        small["weights"],
        "-q",
        "--backbone",
        "test_resnet",
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("36 images x ")
    before = (tmp_path / "m.npz").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job.shutil, "copyfileobj", full)
    with pytest.raises(OutputError, match="the disk is full"):
        job.write_feature_maps(photos, tmp_path / "m.npz", "0", force=True, **small)
    assert (tmp_path / "m.npz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]


def test_without_a_usable_image_there_is_no_file(tmp_path: Path, small: dict[str, Any]) -> None:
    for name in ("a", "b"):
        (tmp_path / "p" / name).mkdir(parents=True)
        (tmp_path / "p" / name / "bad.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="Not one image can be used, the first because: empty file"):
        job.write_feature_maps(tmp_path / "p", tmp_path / "m.npz", "0", **small)
    assert not (tmp_path / "m.npz").exists()
