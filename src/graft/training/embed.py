"""Fill the store: what a frozen network says of every picture, and what it looks like without one, computed once."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from graft.backbones.preprocess import Preprocess
from graft.data import dataset as table
from graft.data import views as seeded
from graft.data.cache import cache_folder
from graft.data.dataset import Dataset
from graft.data.hashes import SIDE
from graft.data.looks import VERSION, WIDTH, Glimpse, Looks, glimpse, look
from graft.errors import DataError
from graft.model import pictures
from graft.progress import Watch, unwatched
from graft.training.store import Key, Store
from graft_runtime.decide import NO_NUMBER, finite


@runtime_checkable
class Run(Protocol):
    """A frozen network at work: uint8 [n, 3, size, size], any n, to float32 [n, ...], `batch` at once."""

    batch: int

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]: ...


@runtime_checkable
class Frozen(Protocol):
    """What never changes of a network: a graph's features, or what lies below a cut."""

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def width(self) -> int: ...

    @property
    def inside(self) -> bool:
        """Whether what it says crosses a border inside the network."""
        ...

    def key(self) -> str:
        """A name for what it computes: its outputs are cached under it."""
        ...

    def compiled(self, count: int) -> Run:
        """Ready to run on about so many images."""
        ...


ENOUGH = SIDE  # pixels of the short side for a look without a network: what is hashed
NOTED = 256  # looks that wait to be written


def look_at(data: Dataset, *, watch: Watch = unwatched, cache: Path | None = None) -> Looked:
    """What every picture looks like, without a network; cached as features are, and used by `embed` too."""
    digests, faults = np.zeros((len(data), table.DIGEST), np.uint8), dict[int, str]()
    with Store((cache or cache_folder()) / "looks" / f"{VERSION}-{ENOUGH}", (WIDTH,)) as looks:
        notes = _Notes(looks)
        for picture in pictures.each(data, _Looks(looks), watch):
            if picture.made is None:
                faults[picture.row] = picture.fault
            else:
                digests[picture.row] = np.frombuffer(picture.made.digest, np.uint8)
                notes.take(picture.made)
        notes.finish()
    good = np.setdiff1d(np.arange(len(data)), list(faults))
    return Looked(good, digests[good], faults, _read(looks, digests[good]))


def _read(looks: Store, digests: NDArray[np.uint8]) -> Looks:
    return Looks(looks.read([(digest.tobytes(), seeded.CENTRE) for digest in digests]))


@dataclass(frozen=True)
class Looked:
    """The good pictures of a data set without features; the columns are those of `Embedded`."""

    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    faults: dict[int, str]
    looks: Looks

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Their perceptual hashes."""
        return self.looks.hashes


@dataclass(frozen=True)
class Embedded:
    """What a frozen network made of a data set: features on disk of each good picture, and the others' faults.

    `rows` are the good pictures' rows in the data set; `digests` [n, 16] name their contents; `faults` maps the row
    of a picture that could not be used to the reason. `embedded[i]` are the features of view 0. `looks` has a row for
    each good picture.
    """

    store: Store
    seed: int
    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    faults: dict[int, str]
    computed: int
    seconds: float
    looks: Looks = field(default_factory=lambda: Looks(np.zeros((0, WIDTH), np.float32)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.store.read([(self.digests[row].tobytes(), seeded.CENTRE) for row in rows])

    @property
    def hashes(self) -> NDArray[np.uint64] | None:
        """Their perceptual hashes; None of pictures that were never looked at."""
        return self.looks.hashes if len(self.looks) else None

    def take(self, order: NDArray[np.integer]) -> Embedded:
        """The same pictures in another order, or some of them."""
        looks = Looks(self.looks.table[order]) if len(self.looks) else self.looks
        return replace(self, rows=self.rows[order], digests=self.digests[order], looks=looks)

    def chosen(self, rows: NDArray[np.integer], views: int = 1) -> Selection:
        """The features of some pictures in several views, as a table of their own."""
        return Selection(self, rows, views)


@dataclass(frozen=True)
class Selection:
    """Features [len(rows) * views, d], picture by picture."""

    embedded: Embedded
    rows: NDArray[np.integer]
    views: int

    def __len__(self) -> int:
        return len(self.rows) * self.views

    def __getitem__(self, rows: NDArray[np.integer]) -> NDArray[np.float32]:
        names = self.embedded.digests[self.rows[rows // self.views]]
        ids = [view_id(self.embedded.seed, int(view)) for view in rows % self.views]
        return self.embedded.store.read([(name.tobytes(), view) for name, view in zip(names, ids, strict=True)])


def embed(
    frozen: Frozen,
    data: Dataset,
    *,
    views: int = 1,
    seed: int = 0,
    watch: Watch = unwatched,
    cache: Path | None = None,
) -> Embedded:
    """Features of every picture and view: from the cache where they are there, computed where they are not.

    View 0 is the picture as it will be judged, 1 its mirror image, and from 2 on random crops seeded by (seed, picture,
    view). A picture that cannot be read or decoded is left out and named in `faults`; nothing takes its place. Killed
    at any moment, the next run goes on from there. What crosses a border inside the network is kept in 16 bits, as it
    is large. Raises OutputError when the cache cannot be written.
    """
    start = time.monotonic()
    digests, faults = np.zeros((len(data), table.DIGEST), np.uint8), dict[int, str]()
    kind = np.float16 if frozen.inside else np.float32
    place, enough = cache or cache_folder(), frozen.preprocess.enough
    with (
        Store(place / "features" / frozen.key(), (frozen.width,), kind) as store,
        Store(place / "looks" / f"{VERSION}-{enough}", (WIDTH,)) as looks,
    ):
        network, notes = _Network(frozen, store, len(data) * views), _Notes(looks)
        for picture in pictures.each(data, _Views(frozen.preprocess, store, looks, views, seed), watch):
            if picture.made is None:
                faults[picture.row] = picture.fault
            else:
                digests[picture.row] = np.frombuffer(picture.made.digest, np.uint8)
                notes.take(picture.made)
                network.take(picture.made.missing)
        network.finish()
        notes.finish()
    if network.lost:
        faults |= {row: NO_NUMBER for row in range(len(data)) if digests[row].tobytes() in network.lost}
    good = np.setdiff1d(np.arange(len(data)), list(faults))
    seen = _read(looks, digests[good])
    return Embedded(store, seed, good, digests[good], faults, network.computed, time.monotonic() - start, seen)


def embed_again(frozen: Frozen, data: Dataset, *, views: int = 1, seed: int = 0, watch: Watch = unwatched) -> Embedded:
    """The same for pictures that were good before; raises DataError where one has changed or vanished since."""
    embedded = embed(frozen, data, views=views, seed=seed, watch=watch)
    for row, why in embedded.faults.items():
        raise DataError(f"{data.name(row)} could be read before, and now cannot: {why}.")
    return embedded


@dataclass(frozen=True)
class _Seen:
    """A picture that was read: its content's name, its look and those of its views that are not stored yet."""

    digest: bytes
    look: Glimpse | None
    missing: list[tuple[Key, NDArray[np.uint8]]]


@dataclass(frozen=True)
class _Looks:
    """Looks at a picture that the store does not know."""

    looks: Store

    def __call__(self, raw: bytes | NDArray[np.uint8]) -> _Seen:
        digest = table.digest(raw)
        known = (digest, seeded.CENTRE) in self.looks
        return _Seen(digest, None if known else glimpse(raw, table.pixels(raw, ENOUGH)), [])


@dataclass(frozen=True)
class _Views:
    """Makes the views of a picture that the store lacks; decodes nothing if it lacks none."""

    preprocess: Preprocess
    store: Store
    looks: Store
    views: int
    seed: int

    def __call__(self, raw: bytes | NDArray[np.uint8]) -> _Seen:
        digest = table.digest(raw)
        wanted = {view: (digest, view_id(self.seed, view)) for view in range(self.views)}
        missing = {view: key for view, key in wanted.items() if key not in self.store}
        looked = (digest, seeded.CENTRE) in self.looks
        if looked and not missing:
            return _Seen(digest, None, [])
        pixels = table.pixels(raw, self.preprocess.enough)
        seen = None if looked else glimpse(raw, pixels)
        return _Seen(digest, seen, [(key, self._view(pixels, digest, view)) for view, key in missing.items()])

    def _view(self, pixels: NDArray[np.uint8], digest: bytes, view: int) -> NDArray[np.uint8]:
        if view in (seeded.CENTRE, seeded.MIRROR):
            centre = self.preprocess.prepare(pixels)
            return np.ascontiguousarray(centre[:, :, ::-1]) if view == seeded.MIRROR else centre
        crop = seeded.crop(self.seed, digest, view, pixels.shape[1], pixels.shape[0])
        box = (crop.left, crop.top, crop.width, crop.height)
        return self.preprocess.prepare_crop(pixels, box, crop.flip)


class _Notes:
    """Gathers what pictures look like, and stores it NOTED at a time."""

    def __init__(self, looks: Store) -> None:
        self.looks = looks
        self.waiting: list[tuple[Key, Glimpse]] = []

    def take(self, seen: _Seen) -> None:
        if seen.look is not None:
            self.waiting.append(((seen.digest, seeded.CENTRE), seen.look))
        if len(self.waiting) >= NOTED:
            self.finish()

    def finish(self) -> None:
        if self.waiting:
            keys, seen = zip(*self.waiting, strict=True)
            self.looks.add(keys, look(seen))
            self.waiting = []


class _Network:
    """Gathers pictures into batches, runs the frozen network on them, and stores what it says."""

    def __init__(self, frozen: Frozen, store: Store, expected: int) -> None:
        self.frozen, self.store, self.expected = frozen, store, expected
        self.waiting: list[tuple[Key, NDArray[np.uint8]]] = []
        self.computed = 0
        self.lost = set[bytes]()  # digests of images whose features are not finite

    @cached_property
    def run(self) -> Run:
        """Compiled when the first picture needs it: with everything cached, never."""
        return self.frozen.compiled(self.expected)

    def take(self, views: list[tuple[Key, NDArray[np.uint8]]]) -> None:
        self.waiting += views
        while self.waiting and len(self.waiting) >= self.run.batch:
            self._compute(self.run.batch)

    def finish(self) -> None:
        if self.waiting:
            self._compute(len(self.waiting))

    def _compute(self, count: int) -> None:
        keys, views = zip(*self.waiting[:count], strict=True)
        del self.waiting[:count]
        rows = self.run(_filled(np.stack(views), self.run.batch))[:count]
        good = finite(rows)
        self.lost |= {key[0] for key, sound in zip(keys, good.tolist(), strict=True) if not sound}
        if good.any():
            self.store.add([key for key, sound in zip(keys, good.tolist(), strict=True) if sound], rows[good])
        self.computed += count


def _filled(images: NDArray[np.uint8], batch: int) -> NDArray[np.uint8]:
    """So many images, black ones at the end: with fewer in a batch the sums of a ViT differ in their last bits, and
    what is cached would depend on which images were there before."""
    missing = max(batch - len(images), 0)
    return np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images


def view_id(seed: int, view: int) -> int:
    """The number under which a view is stored: the two fixed ones as they are, a random one by its seed."""
    if view in (seeded.CENTRE, seeded.MIRROR):
        return view
    return int.from_bytes(hashlib.blake2b(f"{seed}/{view}".encode(), digest_size=4).digest())
