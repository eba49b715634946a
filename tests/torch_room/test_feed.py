"""Feeds: the same batch for the same rows and epoch, whoever asks, and stored views are what the network says."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shaken import shaken
from torch import Tensor, nn

from graft.backbones.preprocess import Preprocess
from graft.data import augmentation as seeded
from graft.data import dataset as table
from graft.data.dataset import Dataset
from graft.data.readers.folder import read_folder
from graft.errors import DataError
from graft.features.embed import Embeddings, embed
from graft.heads.designs import Linear
from graft.torch import cut
from graft.torch import feed as feeds
from graft.torch.augment import Augment
from graft.torch.cut import Halves
from graft.torch.feed import CachedFeed, Feed, ImageFeed
from graft.torch.head import build_head
from graft.torch.network import BackboneModule, FeaturesModule, NetworkModule
from graft.torch.restore import build_random_module

VIEWS, SEED, BORDER = 4, 3, "layer3"
GROUPS = [np.array(rows) for rows in ([0, 7, 35], [12, 3, 3], [20], [9, 31, 2])]

OTHER = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
import test_feed
print(test_feed.names_of(test_feed.made(Path(sys.argv[2]), Path(sys.argv[3]))))
"""


def halves_of(layers: Sequence[str] = (), shake: bool = False) -> Halves:
    """test_resnet cut in its middle."""
    made = build_random_module("test_resnet")
    if shake:
        shaken(made.module)
    backbone: BackboneModule = replace(made, preprocess=Preprocess(size=64, resize=72))
    features = FeaturesModule(backbone.module, backbone.preprocess, layers)
    return cut.cut_network(NetworkModule(features, build_head(Linear(), features.width, 3)).eval(), backbone, BORDER)


def images(data: Dataset, embedded: Embeddings, frozen: nn.Module, augment: str = "strong", seed: int = SEED) -> Feed:
    preprocess = Preprocess(size=64, resize=72)
    return ImageFeed(data, embedded.digests, preprocess, Augment.parse(augment), seed, frozen)


def made(photos: Path, cache: Path) -> dict[str, Feed]:
    """A feed of each kind on the photos."""
    halves, data = halves_of(), read_folder(photos)
    assert isinstance(halves.frozen, cut.FrozenHalf)
    embedded = embed(halves.frozen, data, views=VIEWS, seed=SEED, cache=cache)
    return {
        "stored": CachedFeed(embedded, halves.frozen.shape, VIEWS),
        "images": images(data, embedded, nn.Identity()),
        "through": images(data, embedded, halves.frozen),
    }


def names_of(feeds: dict[str, Feed]) -> dict[str, list[str]]:
    """A hash of each batch of two epochs."""
    return {
        kind: [
            hashlib.sha256(batch.numpy().tobytes()).hexdigest()[:16]
            for epoch in (0, 5)
            for batch in feed.batches(GROUPS, epoch)
        ]
        for kind, feed in feeds.items()
    }


@pytest.fixture(scope="module")
def each(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Feed]:
    return made(photos, tmp_path_factory.mktemp("cache"))


KINDS = ["stored", "images", "through"]


# --- the same batch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_depends_on_rows_and_epoch_alone(each: dict[str, Feed], kind: str) -> None:
    feed = each[kind]
    assert isinstance(feed, Feed)
    wanted = {epoch: list(feed.batches(GROUPS, epoch)) for epoch in range(3)}
    for epoch in (2, 0, 1, 1):  # in another order of epochs, batches and rows, and one image at a time
        for batch, rows in zip(wanted[epoch], GROUPS, strict=True):
            assert torch.equal(next(iter(feed.batches([rows], epoch))), batch)
            back = next(iter(feed.batches([rows[::-1]], epoch)))
            torch.testing.assert_close(back.flip(0), batch, rtol=1e-5, atol=1e-5)
            alone = torch.cat(list(feed.batches([rows[[place]] for place in range(len(rows))], epoch)))
            torch.testing.assert_close(alone, batch, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_differ(each: dict[str, Feed], kind: str) -> None:
    one, other = (torch.cat(list(each[kind].batches(GROUPS, epoch))).float() for epoch in (0, 1))
    assert ((one - other).flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_torchs_own_generator_is_neither_used_nor_moved(each: dict[str, Feed], kind: str) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = list(each[kind].batches(GROUPS, 1))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(one, each[kind].batches(GROUPS, 1), strict=True))


@pytest.mark.slow
def test_another_process_sees_the_same_batches(each: dict[str, Feed], photos: Path, tmp_path: Path) -> None:
    """With an empty cache, so that its own process computes all that is stored."""
    words = [sys.executable, "-c", OTHER, str(Path(__file__).parent), str(photos), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(names_of(each))


def test_no_batches_are_no_batches(each: dict[str, Feed]) -> None:
    assert [list(feed.batches([], 0)) for feed in each.values()] == [[], [], []]


# --- stored views -----------------------------------------------------------------------------------------------------


def shown(data: Dataset, row: int, view: int, preprocess: Preprocess) -> Tensor:
    """The view of an image, made here from its pixels."""
    raw = data.read(row)
    pixels = table.decode_pixels(raw, preprocess.decode_size)
    if view < 2:
        centre = torch.from_numpy(preprocess.prepare(pixels))
        return centre.flip(2) if view else centre
    crop = seeded.random_crop(SEED, table.compute_digest(raw), view, pixels.shape[1], pixels.shape[0])
    box = (crop.left, crop.top, crop.width, crop.height)
    return torch.from_numpy(preprocess.prepare_crop(pixels, box, crop.flip))


@pytest.mark.parametrize("layers", [(), ("layer1", "layer4")], ids=["last", "several"])
def test_stored_views_are_what_the_frozen_half_says_of_these_views(
    layers: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    halves, data = halves_of(layers, shake=True), read_folder(photos)
    assert isinstance(halves.frozen, cut.FrozenHalf)
    feed = CachedFeed(embed(halves.frozen, data, views=VIEWS, seed=SEED, cache=tmp_path), halves.frozen.shape, VIEWS)
    rows = np.arange(0, 36, 3)
    for epoch in range(VIEWS):
        images = [shown(data, int(row), feed.choose_view(int(row), epoch), halves.frozen.preprocess) for row in rows]
        want = halves.frozen(torch.stack(images))
        (got,) = feed.batches([rows], epoch)
        assert got.dtype == torch.float32
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=2**-10, atol=1e-4)  # 16 bits: 11 of them for the digits
        assert (got[0] - got[1]).abs().max() > 0.1 * got.abs().max()  # it does depend on the image


def test_the_views_of_an_image_take_turns_and_images_begin_with_different_ones(each: dict[str, Feed]) -> None:
    feed = each["stored"]
    assert isinstance(feed, CachedFeed)
    for row in range(36):
        turn = [feed.choose_view(row, epoch) for epoch in range(2 * VIEWS)]
        assert sorted(turn[:VIEWS]) == list(range(VIEWS))
        assert turn[:VIEWS] == turn[VIEWS:]
    assert {feed.choose_view(row, 0) for row in range(36)} == set(range(VIEWS))


@pytest.mark.parametrize("kind", KINDS)
def test_still_is_the_image_as_it_will_be_judged(each: dict[str, Feed], photos: Path, kind: str) -> None:
    data, rows = read_folder(photos), np.array([5, 30, 5])
    halves = halves_of()
    images = torch.stack([shown(data, int(row), 0, halves.frozen.preprocess) for row in rows])  # pyright: ignore
    want = images if kind == "images" else halves.frozen(images)
    near: dict[str, Any] = {"rtol": 2**-10, "atol": 1e-4} if kind == "stored" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(each[kind].read_evaluation_batch(rows), want, **near)


# --- images ---------------------------------------------------------------------------------------------------------


def test_without_augmentation_an_epoch_is_still(photos: Path, each: dict[str, Feed]) -> None:
    stored = each["stored"]
    assert isinstance(stored, CachedFeed)
    feed = images(read_folder(photos), stored.embedded, nn.Identity(), augment="none")
    rows = np.arange(36)
    for epoch in (0, 1):
        assert torch.equal(next(iter(feed.batches([rows], epoch))), feed.read_evaluation_batch(rows))


def test_crops_are_those_of_seed_epoch_and_content(photos: Path, each: dict[str, Feed]) -> None:
    data, rows, epoch = read_folder(photos), np.array([4, 17, 33]), 6
    stored = each["stored"]
    assert isinstance(stored, CachedFeed)
    feed = images(data, stored.embedded, nn.Identity(), augment="light")
    preprocess, want = Preprocess(size=64, resize=72), []
    for row in rows:
        raw = data.read(int(row))
        pixels = table.decode_pixels(raw, preprocess.decode_size)
        crop = seeded.random_crop(SEED, table.compute_digest(raw), 0, pixels.shape[1], pixels.shape[0], epoch=epoch)
        box = (crop.left, crop.top, crop.width, crop.height)
        want.append(torch.from_numpy(preprocess.prepare_crop(pixels, box, crop.flip)))
    assert torch.equal(next(iter(feed.batches([rows], epoch))), torch.stack(want))
    other = images(data, stored.embedded, nn.Identity(), augment="light", seed=SEED + 1)
    assert not torch.equal(next(iter(other.batches([rows], epoch))), torch.stack(want))


def test_decoded_images_are_kept_while_there_is_room(
    photos: Path, each: dict[str, Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, rows = read_folder(photos), np.arange(6)
    stored = each["stored"]
    assert isinstance(stored, CachedFeed)
    sizes = [table.decode_pixels(data.read(int(row)), 10_000).nbytes for row in rows]
    made, batches = table.decode_pixels, []
    for room, most in ((feeds.MAX_CACHED_BYTES, 6), (sum(sizes[:3]), 18), (0, 18)):
        decoded: list[int] = []
        monkeypatch.setattr(feeds, "MAX_CACHED_BYTES", room)
        monkeypatch.setattr(
            feeds, "decode_pixels", lambda *given, decoded=decoded: (decoded.append(1), made(*given))[1]
        )
        feed = images(data, stored.embedded, nn.Identity())
        batches.append([next(iter(feed.batches([rows], epoch))) for epoch in range(3)])
        assert 6 <= len(decoded) <= most
        assert (len(decoded) == most) == (room != sum(sizes[:3]))
    for other in batches[1:]:
        assert all(torch.equal(one, two) for one, two in zip(batches[0], other, strict=True))


@pytest.mark.fault(5)
def test_an_image_that_is_gone_meanwhile_is_named(photos: Path, each: dict[str, Feed], tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    data = read_folder(folder)
    stored = each["stored"]
    assert isinstance(stored, CachedFeed)
    feed = images(data, stored.embedded, nn.Identity())
    (folder / "disc" / "02.png").unlink()
    row = [data.name(row) for row in range(36)].index("disc/02.png")
    with pytest.raises(DataError, match=r"disc/02\.png could be read before, and now cannot: .*No such file"):
        list(feed.batches([np.array([row, 0])], 0))
    (folder / "disc" / "02.png").write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"disc/02\.png could be read before, and now cannot"):
        feed.read_evaluation_batch(np.array([row]))
