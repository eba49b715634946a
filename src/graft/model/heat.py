"""Saliency maps: how much each place of an image speaks for a class, without a gradient.

Of a linear head on averages over space they are exact: its weights times the maps that were averaged (class activation
maps, Zhou et al. 2016). Of all other classifiers they are what the logit loses where a place is covered (occlusion,
Zeiler and Fergus 2014), which asks for nothing but answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import wire
from graft.backbones.graph import Graph
from graft.heads.head import Head
from graft.model.composed import Reads
from graft_runtime.contract import LOGITS

GRID = 14  # places along a side; a network's last map has 7 or 14
COVERED = 7  # places along a side that are covered one by one; divides GRID

Run = Callable[[NDArray[np.uint8], Sequence[str]], list[NDArray[Any]]]  # images and outputs, as Session.run
Logits = Callable[[NDArray[np.uint8]], NDArray[np.floating]]


def heat(
    run: Run,
    exact: Sequence[str],
    head: Head,
    images: NDArray[np.uint8],
    classes: Sequence[int],
    several: bool = False,
) -> NDArray[np.float32]:
    """How much each place of images [n, 3, size, size] speaks for a class of each: [n, GRID, GRID].

    Above 0 a place speaks for the class, below against it. What is explained is the class's logit above the mean of
    all logits, as only differences count in a softmax; with `several` labels an image, the logit itself. `exact` are
    the outputs from which a linear head's map is exact (`exact_from`): its places add up to what is explained, but for
    the bias.
    """
    if exact:
        return linear(run(images, exact), head, classes, several)
    return covered(lambda some: run(some, [LOGITS])[0], images, classes, several)


def exact_from(graph: Graph, reads: Reads) -> tuple[str, ...]:
    """The outputs of a composed graph that hold the maps of all that a linear head reads; none where there are none."""
    return reads.maps if set(reads.maps) <= set(wire.outputs(graph.structure)) else ()


def linear(
    maps: Sequence[NDArray[np.float32]], head: Head, classes: Sequence[int], several: bool = False
) -> NDArray[np.float32]:
    """The weights of each class times the maps [n, c, h, w] of all that a linear head reads, in its order."""
    tensors: dict[str, NDArray[Any]] = dict(head.tensors)
    weight = tensors["judge.weight"] * tensors["scale"]
    own = (weight if several else weight - weight.mean(axis=0))[list(classes)]
    parts = np.split(own, np.cumsum([part.shape[1] for part in maps])[:-1], axis=1)
    places = [_on_grid(_spoken(each, part)) for each, part in zip(parts, maps, strict=True)]
    return np.stack(places).sum(axis=0)


def _spoken(weight: NDArray[np.floating], part: NDArray[np.floating]) -> NDArray[np.float32]:
    """What each place of maps [n, c, h, w] adds to a logit, by weights [n, c]."""
    count, channels, height, width = part.shape
    flat = part.reshape(count, channels, height * width)
    return (weight[:, None] @ flat).reshape(count, height, width).astype(np.float32) / (height * width)


def _on_grid(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same total on GRID x GRID places."""
    height, width = places.shape[1:]
    grid = _areas(height) @ places @ _areas(width).T * (height * width / GRID**2)
    rest = places.sum(axis=(1, 2)) - grid.sum(axis=(1, 2))  # areas of uneven grids overlap
    return (grid + rest[:, None, None] / GRID**2).astype(np.float32)


def _areas(count: int) -> NDArray[np.float32]:
    """The mean over the places [GRID, count] that each place of the grid touches."""
    step = np.arange(GRID + 1) * count
    first, last = step[:-1] // GRID, -(-step[1:] // GRID)
    at = np.arange(count)
    inside = (at >= first[:, None]) & (at < last[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


def covered(
    logits: Logits, images: NDArray[np.uint8], classes: Sequence[int], several: bool = False
) -> NDArray[np.float32]:
    """By how much the same logit falls when a place is covered with the image's mean colour: [n, GRID, GRID].

    It asks for COVERED^2 + 1 answers for each image.
    """
    found = [_falls(logits, image, own, several) for image, own in zip(images, classes, strict=True)]
    times = GRID // COVERED
    whole = np.array(found, np.float32).reshape(len(images), COVERED, COVERED)
    return whole.repeat(times, axis=1).repeat(times, axis=2) / np.float32(times**2)


def _falls(logits: Logits, image: NDArray[np.uint8], own: int, several: bool) -> NDArray[np.floating]:
    size = image.shape[-1]
    edges = [round(size * at / COVERED) for at in range(COVERED + 1)]
    changed = np.repeat(image[None], COVERED**2 + 1, axis=0)  # the last one stays as it is
    mean = image.mean(axis=(1, 2)).round().astype(np.uint8)[:, None, None]
    for place in range(COVERED**2):
        row, column = divmod(place, COVERED)
        changed[place, :, edges[row] : edges[row + 1], edges[column] : edges[column + 1]] = mean
    found = logits(changed)
    said = found[:, own] if several else found[:, own] - found.mean(axis=1)
    return said[-1] - said[:-1]
