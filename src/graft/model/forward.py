"""What a classifier's network says of pictures off the disk, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from graft.backbones.preprocess import Preprocess
from graft.data import dataset as table
from graft.data.dataset import Dataset
from graft.model import pictures
from graft.model.unknown import NEIGHBOURS, Known, Near
from graft.networks import engine
from graft.networks.network import Network
from graft.networks.reference import WithReference
from graft.progress import Watch
from graft_runtime.decide import NO_NUMBER, finite


@dataclass(frozen=True, eq=False)
class Glance:
    """A batch of good pictures: their rows, what names their content, [n, 16], logits [n, classes].

    `reference` [n, w] are the features by which they are compared with training images.
    """

    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    logits: NDArray[np.float32]
    reference: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Look:
    """The same of all good pictures, with the nearest known ones in place of the features, and the others' faults."""

    rows: NDArray[np.intp]
    digests: NDArray[np.uint8]
    logits: NDArray[np.float32]
    near: Near | None
    faults: dict[int, str]


def look(
    network: Network, layers: Sequence[str], known: Known | None, several: bool, data: Dataset, watch: Watch
) -> Look:
    """Everything that is asked of pictures, none of whose features is kept: there may be a million of them."""
    faults: dict[int, str] = {}
    rows, digests = [np.empty(0, np.intp)], [np.empty((0, table.DIGEST), np.uint8)]
    logits, near = [np.empty((0, network.head.spec["classes"]), np.float32)], list[Near]()
    for glance in glances(network, layers, data, watch, faults):
        own = known.near(glance.reference, glance.logits, several) if known else None
        good = finite(glance.logits, own.scores) if own else finite(glance.logits)
        faults |= dict.fromkeys(glance.rows[~good].tolist(), NO_NUMBER)
        rows.append(glance.rows[good])
        digests.append(glance.digests[good])
        logits.append(glance.logits[good])
        near += [own.take(good)] if own else []
    together = joined(near) if known else None
    return Look(np.concatenate(rows), np.concatenate(digests), np.concatenate(logits), together, faults)


def glances(
    network: Network,
    layers: Sequence[str],
    data: Dataset,
    watch: Watch,
    faults: dict[int, str],
    count: int | None = None,
) -> Iterator[Glance]:
    """Batch by batch; whatever cannot be used is written into `faults`.

    The reference features are those of the named layers, or without one of the last layer that the head reads. The
    network is compiled for `count` pictures, where these are the last of so many.
    """
    waiting = list[pictures.Picture[_Seen]]()
    run = engine.compile(WithReference(network.features, layers), network.preprocess.size, count or len(data))
    for picture in pictures.each(data, partial(_seen, network.preprocess), watch):
        if picture.made is None:
            faults[picture.row] = picture.fault
            continue
        waiting.append(picture)
        if len(waiting) >= run.batch:
            yield _glance(network, run, waiting)
            waiting = []
    if waiting:
        yield _glance(network, run, waiting)


def judged(network: Network, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The head's logits [n, classes] for features [n, d]."""
    head = engine.settled(network.head)  # not in inference mode, in which weights laid out anew could have no gradient
    with torch.inference_mode():
        return head(engine.ready(torch.from_numpy(features))).float().cpu().numpy()


def last(network: Network, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of these features [n, d] those of the last layer that the head reads; a map is averaged over space."""
    if network.head.map:
        return features.reshape(len(features), *network.head.map).mean(axis=(2, 3))
    return features[:, -network.features.widths[-1] :]


def joined(near: list[Near]) -> Near:
    """Several batches as one."""
    if not near:
        none = np.empty((0, NEIGHBOURS))
        return Near(np.empty(0, np.float32), none.astype(np.intp), none.astype(np.float32))
    columns = zip(*((each.scores, each.which, each.cosines) for each in near), strict=True)
    return Near(*map(np.concatenate, columns))


@dataclass(frozen=True)
class _Seen:
    digest: bytes
    pixels: NDArray[np.uint8]


def _seen(preprocess: Preprocess, raw: bytes | NDArray[np.uint8]) -> _Seen:
    return _Seen(table.digest(raw), pictures.prepared(preprocess, raw))


def _glance(
    network: Network,
    run: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    waiting: list[pictures.Picture[_Seen]],
) -> Glance:
    made = [(picture.row, picture.made) for picture in waiting if picture.made]
    features = run(np.stack([seen.pixels for _, seen in made]))
    digests = np.frombuffer(b"".join(seen.digest for _, seen in made), np.uint8).reshape(-1, table.DIGEST)
    rows = np.array([row for row, _ in made], np.intp)
    read, reference = np.split(features, [network.features.width], axis=1)
    return Glance(rows, digests, judged(network, read), reference)
