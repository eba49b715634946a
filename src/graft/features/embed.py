"""Compute and cache features and image statistics, of images that are read and resized in threads."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graft.backbones.graph import core_count
from graft.backbones.preprocess import Preprocess
from graft.data import augmentation as seeded
from graft.data import dataset as table
from graft.data.cache import cache_folder
from graft.data.dataset import Dataset, decode_pixels
from graft.data.image_stats import (
    COLUMN_COUNT,
    SIDE,
    STATS_VERSION,
    ImageStats,
    RawImageStats,
    build_image_stats,
    measure_image,
)
from graft.errors import DataError
from graft.features.store import Key, Store
from graft.progress import ProgressWrapper, no_progress
from graft_runtime.decide import NOT_FINITE, find_finite_rows
from graft_runtime.image import ImageError

STATS_SIDE = SIDE  # pixels of the short side for image stats without a network: as many as are hashed
STATS_PER_WRITE = 256  # image stats that wait to be written


@runtime_checkable
class FeatureFunction(Protocol):
    """A frozen network, ready to run: uint8 [n, 3, size, size], any n, to float32 [n, ...], `batch` at a time."""

    batch: int

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


@runtime_checkable
class FeatureExtractor(Protocol):
    """The frozen part of a network: the features of a graph, or the layers below a cut."""

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def width(self) -> int: ...

    @property
    def is_inside_network(self) -> bool:
        """Whether the output is an activation inside the network, at a cut."""
        ...

    def cache_key(self) -> str:
        """Return a name for what it computes, under which its outputs are cached."""
        ...

    def compile_features(self) -> FeatureFunction:
        """Return the function, ready to run."""
        ...


def compute_image_stats(data: Dataset, *, watch: ProgressWrapper = no_progress, cache: Path | None = None) -> ImageScan:
    """Compute the image stats of every image, without a network; cached like features, and shared with `embed`."""
    digests, faults = np.zeros((len(data), table.DIGEST), np.uint8), dict[int, str]()
    with Store((cache or cache_folder()) / "looks" / f"{STATS_VERSION}-{STATS_SIDE}", (COLUMN_COUNT,)) as stats_store:
        stats_writer = _StatsWriter(stats_store)
        for image in load_each(data, _StatsPreparer(stats_store), watch):
            if image.value is None:
                faults[image.row] = image.fault
            else:
                digests[image.row] = np.frombuffer(image.value.digest, np.uint8)
                stats_writer.add(image.value)
        stats_writer.flush()
    good = np.setdiff1d(np.arange(len(data)), list(faults))
    return ImageScan(good, digests[good], faults, _read_image_stats(stats_store, digests[good]))


def _read_image_stats(stats_store: Store, digests: NDArray[np.uint8]) -> ImageStats:
    return ImageStats(stats_store.read([(digest.tobytes(), seeded.CENTRE) for digest in digests]))


@dataclass(frozen=True)
class ImageScan:
    """The readable images of a data set, without features; the fields are those of `Embeddings`."""

    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    faults: dict[int, str]
    image_stats: ImageStats

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Their perceptual hashes."""
        return self.image_stats.hashes


@dataclass(frozen=True)
class Embeddings:
    """The features of a data set, on disk, and the faults of images that could not be used.

    `rows` are the rows of the good images in the data set; `digests` [n, 16] identify their contents; `faults` maps the
    row of an image that could not be used to the reason. `embeddings[i]` are the features of view 0. `image_stats` has
    a row for each good image.
    """

    store: Store
    seed: int
    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    faults: dict[int, str]
    computed_count: int
    seconds: float
    image_stats: ImageStats = field(default_factory=lambda: ImageStats(np.zeros((0, COLUMN_COUNT), np.float32)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.store.read([(self.digests[row].tobytes(), seeded.CENTRE) for row in rows])

    @property
    def hashes(self) -> NDArray[np.uint64] | None:
        """Their perceptual hashes; None without image stats."""
        return self.image_stats.hashes if len(self.image_stats) else None

    def take(self, order: NDArray[np.integer]) -> Embeddings:
        """Return the embeddings of some images, in this order."""
        image_stats = ImageStats(self.image_stats.table[order]) if len(self.image_stats) else self.image_stats
        return replace(self, rows=self.rows[order], digests=self.digests[order], image_stats=image_stats)

    def select(self, rows: NDArray[np.integer], views: int = 1) -> Selection:
        """Return the features of some images in several views."""
        return Selection(self, rows, views)


@dataclass(frozen=True)
class Selection:
    """Features [len(rows) * views, d], image by image."""

    embeddings: Embeddings
    rows: NDArray[np.integer]
    views: int

    def __len__(self) -> int:
        return len(self.rows) * self.views

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        names = self.embeddings.digests[self.rows[rows // self.views]]
        ids = [view_id(self.embeddings.seed, int(view)) for view in rows % self.views]
        return self.embeddings.store.read([(name.tobytes(), view) for name, view in zip(names, ids, strict=True)])


def embed(
    frozen: FeatureExtractor,
    data: Dataset,
    *,
    views: int = 1,
    seed: int = 0,
    watch: ProgressWrapper = no_progress,
    cache: Path | None = None,
) -> Embeddings:
    """Compute the features of every image and view that the cache lacks; return all of them.

    View 0 is the image as in prediction, 1 its mirror image, and from 2 on random crops seeded by (seed, image, view).
    An image that cannot be read or decoded is left out and named in `faults`. After a kill at any moment, the next run
    resumes from the cache. Activations at a cut are stored in 16 bits, as they are large. Raises OutputError when the
    cache cannot be written.
    """
    start = time.monotonic()
    digests, faults = np.zeros((len(data), table.DIGEST), np.uint8), dict[int, str]()
    kind = np.float16 if frozen.is_inside_network else np.float32
    place, enough = cache or cache_folder(), frozen.preprocess.decode_size
    with (
        Store(place / "features" / frozen.cache_key(), (frozen.width,), kind) as store,
        Store(place / "looks" / f"{STATS_VERSION}-{enough}", (COLUMN_COUNT,)) as stats_store,
    ):
        writer, stats_writer = _FeatureWriter(frozen, store), _StatsWriter(stats_store)
        for image in load_each(data, _ViewPreparer(frozen.preprocess, store, stats_store, views, seed), watch):
            if image.value is None:
                faults[image.row] = image.fault
            else:
                digests[image.row] = np.frombuffer(image.value.digest, np.uint8)
                stats_writer.add(image.value)
                writer.add(image.value.missing_views)
        writer.flush()
        stats_writer.flush()
    if writer.non_finite:
        faults |= {row: NOT_FINITE for row in range(len(data)) if digests[row].tobytes() in writer.non_finite}
    good = np.setdiff1d(np.arange(len(data)), list(faults))
    image_stats = _read_image_stats(stats_store, digests[good])
    return Embeddings(store, seed, good, digests[good], faults, writer.computed, time.monotonic() - start, image_stats)


def embed_or_raise(
    frozen: FeatureExtractor, data: Dataset, *, views: int = 1, seed: int = 0, watch: ProgressWrapper = no_progress
) -> Embeddings:
    """Embed images that were readable before; raises DataError where one has changed or vanished since."""
    embeddings = embed(frozen, data, views=views, seed=seed, watch=watch)
    for row, why in embeddings.faults.items():
        raise DataError(f"{data.name(row)} could be read before, and now cannot: {why}.")
    return embeddings


def view_id(seed: int, view: int) -> int:
    """Return the number under which a view is stored: itself for the two fixed views, else a hash with the seed."""
    if view in (seeded.CENTRE, seeded.MIRROR):
        return view
    return int.from_bytes(hashlib.blake2b(f"{seed}/{view}".encode(), digest_size=4).digest())


@dataclass(frozen=True)
class _PreparedImage:
    """An image that was read: its digest, and its image stats and views where they are not stored yet."""

    digest: bytes
    image_stats: RawImageStats | None
    missing_views: list[tuple[Key, NDArray[np.uint8]]]


@dataclass(frozen=True)
class _StatsPreparer:
    """Compute the image stats of an image that the store lacks."""

    stats_store: Store

    def __call__(self, raw: bytes | NDArray[np.uint8]) -> _PreparedImage:
        digest = table.compute_digest(raw)
        known = (digest, seeded.CENTRE) in self.stats_store
        return _PreparedImage(digest, None if known else measure_image(raw, table.decode_pixels(raw, STATS_SIDE)), [])


@dataclass(frozen=True)
class _ViewPreparer:
    """Make the views of an image that the store lacks; decodes nothing if it lacks none."""

    preprocess: Preprocess
    store: Store
    stats_store: Store
    views: int
    seed: int

    def __call__(self, raw: bytes | NDArray[np.uint8]) -> _PreparedImage:
        digest = table.compute_digest(raw)
        wanted = {view: (digest, view_id(self.seed, view)) for view in range(self.views)}
        missing = {view: key for view, key in wanted.items() if key not in self.store}
        has_stats = (digest, seeded.CENTRE) in self.stats_store
        if has_stats and not missing:
            return _PreparedImage(digest, None, [])
        pixels = table.decode_pixels(raw, self.preprocess.decode_size)
        image_stats = None if has_stats else measure_image(raw, pixels)
        views = [(key, self._make_view(pixels, digest, view)) for view, key in missing.items()]
        return _PreparedImage(digest, image_stats, views)

    def _make_view(self, pixels: NDArray[np.uint8], digest: bytes, view: int) -> NDArray[np.uint8]:
        if view in (seeded.CENTRE, seeded.MIRROR):
            centre = self.preprocess.prepare(pixels)
            return np.ascontiguousarray(centre[:, :, ::-1]) if view == seeded.MIRROR else centre
        crop = seeded.random_crop(self.seed, digest, view, pixels.shape[1], pixels.shape[0])
        box = (crop.left, crop.top, crop.width, crop.height)
        return self.preprocess.prepare_crop(pixels, box, crop.flip)


class _StatsWriter:
    """Collect image stats, and store STATS_PER_WRITE of them at a time."""

    def __init__(self, image_stats: Store) -> None:
        self.stats_store = image_stats
        self.waiting: list[tuple[Key, RawImageStats]] = []

    def add(self, image: _PreparedImage) -> None:
        if image.image_stats is not None:
            self.waiting.append(((image.digest, seeded.CENTRE), image.image_stats))
        if len(self.waiting) >= STATS_PER_WRITE:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            keys, image_stats = zip(*self.waiting, strict=True)
            self.stats_store.add(keys, build_image_stats(image_stats))
            self.waiting = []


class _FeatureWriter:
    """Collect images into batches, run the frozen network on them, and store the outputs."""

    def __init__(self, frozen: FeatureExtractor, store: Store) -> None:
        self.frozen, self.store = frozen, store
        self.waiting: list[tuple[Key, NDArray[np.uint8]]] = []
        self.computed = 0
        self.non_finite = set[bytes]()  # digests of images whose features are not finite

    @cached_property
    def run(self) -> FeatureFunction:
        """The compiled network; with everything cached it is never compiled."""
        return self.frozen.compile_features()

    def add(self, views: list[tuple[Key, NDArray[np.uint8]]]) -> None:
        self.waiting += views
        while self.waiting and len(self.waiting) >= self.run.batch:
            self._compute(self.run.batch)

    def flush(self) -> None:
        if self.waiting:
            self._compute(len(self.waiting))

    def _compute(self, count: int) -> None:
        keys, views = zip(*self.waiting[:count], strict=True)
        del self.waiting[:count]
        rows = self.run(_pad_batch(np.stack(views), self.run.batch))[:count]
        good = find_finite_rows(rows)
        self.non_finite |= {key[0] for key, sound in zip(keys, good.tolist(), strict=True) if not sound}
        if good.any():
            self.store.add([key for key, sound in zip(keys, good.tolist(), strict=True) if sound], rows[good])
        self.computed += count


def _pad_batch(images: NDArray[np.uint8], batch: int) -> NDArray[np.uint8]:
    """Fill the batch with black images at the end.

    In a smaller batch the sums of a ViT differ in their last bits, and the cached features would depend on which images
    were cached before.
    """
    missing = max(batch - len(images), 0)
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images


# --- reading ----------------------------------------------------------------------------------------------------------

PREFETCH = 64  # images prepared before the network asks for them: 64 x 150 kB

T = TypeVar("T")


@dataclass(frozen=True)
class LoadedImage(Generic[T]):
    """The loaded value of the image in this row, or the reason why it could not be loaded."""

    row: int
    value: T | None
    fault: str = ""


def load_each(
    data: Dataset, make: Callable[[bytes | NDArray[np.uint8]], T], watch: ProgressWrapper
) -> Iterator[LoadedImage[T]]:
    """Yield every image in order; `make` gets its stored bytes (or pixels) and is called in threads.

    An image that cannot be read or decoded is yielded with its fault; the iteration goes on.
    """

    def work(row: int) -> LoadedImage[T]:
        try:
            return LoadedImage(row, make(data.read(row)))
        except ImageError as error:
            return LoadedImage(row, None, str(error))
        except OSError as error:
            return LoadedImage(row, None, f"cannot be read: {error.strerror or error}")

    yield from watch(_map_in_threads(work, len(data)), "images", len(data))


def prepare_image(preprocess: Preprocess, raw: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a stored image as the network input, uint8 [3, size, size]. Raises ImageError."""
    return preprocess.prepare(decode_pixels(raw, preprocess.decode_size))


def _map_in_threads(work: Callable[[int], LoadedImage[T]], count: int) -> Iterator[LoadedImage[T]]:
    """Yield results in order, at most PREFETCH of them ahead of the consumer."""
    with ThreadPoolExecutor(core_count()) as threads:
        remaining = iter(range(count))
        ahead: deque[Future[LoadedImage[T]]] = deque(threads.submit(work, row) for row in islice(remaining, PREFETCH))
        try:
            while ahead:
                yield ahead.popleft().result()
                ahead.extend(threads.submit(work, row) for row in islice(remaining, 1))
        finally:  # on Ctrl-C: do not decode what nobody will use
            for future in ahead:
                future.cancel()
