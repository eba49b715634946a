"""Embedding: computed once, named by content, the same whoever asks and however often the run was killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from shaken import shaken
from torch import Tensor, nn

from graft.backbones import catalog, graph
from graft.backbones.backbone import load_backbone
from graft.backbones.features import Features, build_probe_features
from graft.backbones.preprocess import Preprocess
from graft.data import dataset as table
from graft.data.dataset import Dataset, decode_pixels
from graft.data.image_stats import build_image_stats, measure_image
from graft.data.readers.folder import read_folder
from graft.features.embed import embed, prepare_image
from graft.features.store import Store
from graft.heads.designs import Linear
from graft.torch import cut
from graft.torch import network as changing
from graft.torch.alone import temporary_seed
from graft.torch.convert import convert_module
from graft.torch.cut import FrozenHalf, Halves
from graft.torch.head import build_head
from graft.torch.restore import build_random_backbone, build_random_module

CHILD = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[3], str(Path(sys.argv[3]).parent)]
from test_embed import small
from graft.data.readers.folder import read_folder
from graft.features.embed import embed
from graft.features.store import Store

add = Store.add
def third(store, keys, rows):
    if len(store) == 16:
        os.kill(os.getpid(), signal.SIGKILL)
    add(store, keys, rows)
Store.add = third
embed(small(), read_folder(sys.argv[1]), cache=Path(sys.argv[2]))
"""


def small() -> Features:
    """A small network of a fixed seed."""
    with temporary_seed(0):
        parts = nn.Sequential(nn.Conv2d(3, 6, 5, stride=3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).eval()
    preprocess = Preprocess(size=26, resize=28)
    return Features(graph.complete_graph(convert_module(parts, preprocess), preprocess.size), preprocess)


@pytest.fixture(scope="module")
def frozen() -> Features:
    return small()


def one_by_one(frozen: Features, data: Dataset) -> NDArray[np.float32]:
    """Features of each image's centre, without batches, threads or a store."""
    ready = [prepare_image(frozen.preprocess, data.read(row)) for row in range(len(data))]
    return np.concatenate([frozen.compile_features()(each[None]) for each in ready])


def test_what_the_cache_holds_is_what_the_network_says(frozen: Features, photos: Path, tmp_path: Path) -> None:
    data = read_folder(photos)
    first, second = (embed(frozen, data, cache=tmp_path) for _ in range(2))
    assert (first.computed_count, second.computed_count) == (36, 0)
    every = np.arange(36)
    assert np.allclose(first[every], one_by_one(frozen, data), atol=1e-5)
    assert np.array_equal(second[every], first[every])
    assert np.array_equal(second[every[::-1][:5]], first[every][::-1][:5])


def test_with_everything_cached_no_network_is_compiled(
    frozen: Features, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(frozen, read_folder(photos), views=3, cache=tmp_path)
    monkeypatch.setattr(Features, "compile_features", lambda *_: pytest.fail("compiled"))
    monkeypatch.delattr(table, "decode_pixels")  # nor anything decoded
    assert embed(frozen, read_folder(photos), views=3, cache=tmp_path).computed_count == 0


def test_new_images_are_computed_and_renamed_ones_are_not(frozen: Features, photos: Path, tmp_path: Path) -> None:
    folder, cache = tmp_path / "photos", tmp_path / "cache"
    shutil.copytree(photos, folder)
    taken = sorted(folder.rglob("*.*"))[::4]
    for number, file in enumerate(taken):
        file.rename(tmp_path / f"{number}{file.suffix}")
    assert embed(frozen, read_folder(folder), cache=cache).computed_count == 27
    for number, file in enumerate(taken):
        (tmp_path / f"{number}{file.suffix}").rename(file)
    assert embed(frozen, read_folder(folder), cache=cache).computed_count == 9
    for file in sorted(folder.rglob("*.*")):
        file.rename(file.with_name(f"renamed {file.name}"))
    (folder / "disc").rename(folder / "round")
    assert embed(frozen, read_folder(folder), cache=cache).computed_count == 0


def test_another_network_has_a_cache_of_its_own(frozen: Features, photos: Path, tmp_path: Path) -> None:
    embed(frozen, read_folder(photos), cache=tmp_path)
    other = replace(frozen, preprocess=Preprocess(size=26, resize=26))
    assert embed(other, read_folder(photos), cache=tmp_path).computed_count == 36


def test_copies_of_an_image_are_computed_once_or_twice_and_are_equal(frozen: Features, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    done = embed(frozen, table.from_arrays([pixels, pixels[::-1], pixels]), cache=tmp_path)
    got = done[np.arange(3)]
    assert np.array_equal(got[0], got[2])
    assert not np.allclose(got[0], got[1])


def test_faults_are_named_by_row_and_nothing_takes_their_place(frozen: Features, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    files = [folder / "disc/00.png", folder / "frame/03.jpg", folder / "stripes/11.jpg"]
    files[0].write_bytes(b"")
    files[1].write_bytes(files[1].read_bytes()[:300])
    data = read_folder(folder)
    files[2].unlink()
    done = embed(frozen, data, cache=tmp_path / "cache")
    named = {data.name(row): reason for row, reason in done.faults.items()}
    assert set(named) == {"disc/00.png", "frame/03.jpg", "stripes/11.jpg"}
    assert named["disc/00.png"] == "empty file"
    assert named["stripes/11.jpg"] == "cannot be read: No such file or directory"
    assert len(done) == done.computed_count == 33
    assert done.rows.tolist() == [row for row in range(36) if row not in done.faults]
    assert np.allclose(done[np.arange(33)], one_by_one(frozen, data.take(done.rows)), atol=1e-5)


def test_views_are_the_centre_its_mirror_image_and_seeded_crops(frozen: Features, photos: Path, tmp_path: Path) -> None:
    data, rows = read_folder(photos), np.arange(36)
    shown = [embed(frozen, data, views=4, seed=seed, cache=tmp_path / str(seed)) for seed in (0, 1)]
    zero, one = (each.select(rows, 4)[np.arange(4 * 36)].reshape(36, 4, -1) for each in shown)
    assert shown[0].computed_count == 4 * 36
    assert np.allclose(zero[:, 0], one_by_one(frozen, data), atol=1e-5)
    mirrored = np.stack([prepare_image(frozen.preprocess, data.read(row))[:, :, ::-1] for row in range(36)])
    assert np.allclose(zero[:, 1], frozen.compile_features()(mirrored), atol=1e-5)
    assert np.allclose(zero[:, :2], one[:, :2], atol=1e-6)
    apart = np.abs(zero[:, 2:] - one[:, 2:]).max(axis=2)
    assert (apart > 1e-4).all()
    assert (np.abs(zero[:, 2] - zero[:, 3]).max(axis=1) > 1e-4).all()


def test_views_do_not_depend_on_the_order_of_the_files(frozen: Features, photos: Path, tmp_path: Path) -> None:
    data, order = read_folder(photos), np.random.default_rng(0).permutation(36)
    plain = embed(frozen, data, views=3, cache=tmp_path / "a").select(np.arange(36), 3)[np.arange(108)]
    mixed = embed(frozen, data.take(order), views=3, cache=tmp_path / "b").select(np.arange(36), 3)[np.arange(108)]
    assert np.allclose(mixed.reshape(36, 3, -1), plain.reshape(36, 3, -1)[order], atol=1e-6)


def test_more_views_compute_only_what_is_new(frozen: Features, photos: Path, tmp_path: Path) -> None:
    counts = [embed(frozen, read_folder(photos), views=views, cache=tmp_path).computed_count for views in (1, 3, 2, 4)]
    assert counts == [36, 72, 0, 36]
    assert embed(frozen, read_folder(photos), views=4, seed=9, cache=tmp_path).computed_count == 72


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_as_if_it_never_was(
    frozen: Features, photos: Path, tmp_path: Path
) -> None:
    words = [str(photos), str(tmp_path / "killed"), str(Path(__file__).parent)]
    killed = subprocess.run([sys.executable, "-c", CHILD, *words], check=False)
    assert killed.returncode == -signal.SIGKILL
    data = read_folder(photos)
    resumed = embed(frozen, data, cache=tmp_path / "killed")
    never = embed(frozen, data, cache=tmp_path / "never")
    assert (resumed.computed_count, never.computed_count) == (20, 36)
    assert np.array_equal(resumed[np.arange(36)], never[np.arange(36)])
    assert np.array_equal(resumed.digests, never.digests)


def test_a_damaged_row_is_computed_again(frozen: Features, photos: Path, tmp_path: Path) -> None:
    data = read_folder(photos)
    want = embed(frozen, data, cache=tmp_path)[np.arange(36)]
    (numbers,) = (tmp_path / "features").rglob("*.rows")
    raw = bytearray(numbers.read_bytes())
    raw[5] ^= 255
    numbers.write_bytes(raw)
    again = embed(frozen, data, cache=tmp_path)
    assert again.computed_count == 1
    assert np.array_equal(again[np.arange(36)], want)
    assert len(Store(numbers.parent, (frozen.width,))) == 36
    assert embed(frozen, data, cache=tmp_path).computed_count == 0


def test_what_runs_at_most_once_is_run_in_whole_batches(
    frozen: Features, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    add = Store.add

    def counted(self: Store, keys: Any, rows: Any) -> None:
        if self.shape == (frozen.width,):  # not what the images look like, which is noted one by one
            sizes.append(len(keys))
        add(self, keys, rows)

    monkeypatch.setattr(Store, "add", counted)
    embed(frozen, read_folder(photos), cache=tmp_path)
    assert sizes == [8, 8, 8, 8, 4]


@pytest.mark.parametrize("name", [catalog.DEFAULT, "test_resnet", "test_vit"])
def test_what_is_cached_of_an_image_does_not_depend_on_the_images_beside_it(name: str, tmp_path: Path) -> None:
    """To the last bit: in a batch of another size the sums of a ViT differ in it."""
    backbone = load_backbone() if name == catalog.DEFAULT else build_random_backbone(name)
    features = build_probe_features(backbone)
    images = list(np.random.default_rng(0).integers(0, 256, (9, 40, 30, 3), np.uint8))
    want = embed(features, table.from_arrays(images), cache=tmp_path / "all")[np.arange(9)]
    for rows in ([8], [3, 0, 8], [*range(8, 0, -1)]):
        some = embed(features, table.from_arrays([images[row] for row in rows]), cache=tmp_path / str(len(rows)))
        assert some.computed_count == len(rows)
        np.testing.assert_array_equal(some[np.arange(len(rows))], want[rows])
    assert (np.abs(want[0] - want[1:]).max(axis=1) > 1e-3 * np.abs(want).max()).all()


def test_looks_are_those_of_the_images_and_read_again(frozen: Features, photos: Path, tmp_path: Path) -> None:
    data = read_folder(photos)
    seen = embed(frozen, data, cache=tmp_path)
    want = [
        build_image_stats([measure_image(raw, decode_pixels(raw, frozen.preprocess.decode_size))])[0]
        for raw in map(data.read, range(36))
    ]
    np.testing.assert_array_equal(seen.image_stats.table, np.stack(want))
    order = np.arange(36)[::-1]
    np.testing.assert_array_equal(seen.take(order).hashes, seen.image_stats.hashes[::-1])
    np.testing.assert_array_equal(seen.take(order)[np.array([0])], seen[np.array([35])])
    np.testing.assert_array_equal(embed(frozen, data, cache=tmp_path).image_stats.table, seen.image_stats.table)
    shutil.rmtree(tmp_path / "looks")
    again = embed(frozen, data, cache=tmp_path)
    assert again.computed_count == 0
    np.testing.assert_array_equal(again.image_stats.table, seen.image_stats.table)


# --- inside a network -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves() -> Halves:
    """A small network cut in its middle: the head reads a layer below the border, too."""
    made = build_random_module("test_resnet")
    shaken(made.module)
    backbone = replace(made, preprocess=Preprocess(size=64, resize=64))
    features = changing.FeaturesModule(backbone.module, backbone.preprocess, ("layer1",))
    return cut.cut_network(
        changing.NetworkModule(features, build_head(Linear(), features.width, 3)).eval(), backbone, "layer3"
    )


def test_what_crosses_a_border_is_kept_in_16_bits(halves: Halves, photos: Path, tmp_path: Path) -> None:
    """And read back it is what the frozen half computes, within half precision."""
    data, below = read_folder(photos), halves.frozen
    assert isinstance(below, FrozenHalf)
    done = embed(below, data, cache=tmp_path)
    preprocess, every = below.preprocess, np.arange(36)
    images = [prepare_image(preprocess, data.read(row)) for row in range(36)]
    computed = torch.cat([below(torch.from_numpy(each[None])) for each in images]).numpy()
    cached = done[every]
    assert cached.dtype == np.float32
    assert np.array_equal(cached, cached.astype(np.float16))  # nothing beyond 16 bits
    np.testing.assert_allclose(cached, computed, rtol=2**-10, atol=1e-4)
    assert not np.array_equal(cached, computed)
    (file,) = (tmp_path / "features" / below.cache_key()).glob("*.rows")
    assert file.stat().st_size == 36 * 2 * below.width
    again = embed(below, data, cache=tmp_path)
    assert again.computed_count == 0
    assert np.array_equal(again[every], cached)


def test_numbers_beyond_16_bits_are_clipped_and_never_infinite(photos: Path, tmp_path: Path, halves: Halves) -> None:
    class Loud(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float().flatten(1)[:, :4] * 1e6 - 1e8

    below = halves.frozen
    assert isinstance(below, FrozenHalf)
    loud = FrozenHalf(Loud(), below._whole[0], below.above)
    done = embed(loud, read_folder(photos), cache=tmp_path)[np.arange(36)]
    assert np.isfinite(done).all()
    assert {float(value) for value in np.unique(done)} <= {-65504.0, 65504.0}


def test_features_below_the_head_keep_all_their_bits(frozen: Features, photos: Path, tmp_path: Path) -> None:
    done = embed(frozen, read_folder(photos), cache=tmp_path)[np.arange(36)]
    assert not np.array_equal(done, done.astype(np.float16))
