"""What the spec and the tensors of a head may be: a head from a file may say anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.heads.designs import ACTIVATIONS, PADDINGS

KERNEL = 3
DEEPEST = 1000  # hidden layers of a head, and steps from the root of a tree to a leaf
BEFORE = {"activation": "relu", "dropout": 0.0, "padding": "same"}  # what the specs of heads once left unsaid

Shape = tuple[int, ...]


def check_spec(spec: Mapping[str, Any]) -> None:
    """Raises ValueError that names an entry which cannot be, before anything is made as large as it says."""
    if spec.get("kind") not in _ENTRIES:
        raise ValueError(f"there is no head of kind {spec.get('kind')!r}; there are linear, mlp, conv, knn and forest")
    wanted = {"width", "classes", *_ENTRIES[spec["kind"]]}
    filled = {**BEFORE, **spec}
    for name, value in filled.items():
        if name in _LEGAL and not _LEGAL[name][0](value):
            raise ValueError(f"the head's {name!r} is {_LEGAL[name][1]}, and is {str(value)[:80]}")
    if missing := sorted(wanted - filled.keys()):
        raise ValueError(f"the head has no {missing[0]!r}")
    if spec["kind"] == "conv" and math.prod(spec["shape"]) != spec["width"]:
        features = math.prod(spec["shape"])
        raise ValueError(f"A map of {list(spec['shape'])} has {features} features, not {spec['width']}.")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1


def _are_counts(value: Any, most: int) -> bool:
    return isinstance(value, list | tuple) and len(value) <= most and all(map(_is_count, value))


_COUNT: tuple[Callable[[Any], bool], str] = _is_count, "a whole number from 1 to 2^31 - 1"
_SHARE: tuple[Callable[[Any], bool], str] = _is_share, "a number from 0 to below 1"
_ENTRIES = {  # what each kind has beside width and classes
    "linear": (),
    "mlp": ("hidden", "activation", "dropout"),
    "conv": ("shape", "filters", "padding", "spatial_dropout", "hidden", "activation", "dropout"),
    "knn": ("stored", "neighbours"),
    "forest": ("trees", "nodes", "leaves", "depth", "several"),
}
_LEGAL: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("width", "classes", "pca", "stored", "neighbours", "trees", "nodes", "leaves", "filters"), _COUNT),
    "depth": (lambda value: type(value) is int and 0 <= value <= DEEPEST, f"a whole number from 0 to {DEEPEST}"),
    "shape": (lambda value: _are_counts(value, 3) and len(value) == 3, "three whole numbers"),
    "hidden": (lambda value: _are_counts(value, DEEPEST), f"a list of at most {DEEPEST} whole numbers from 1 on"),
    "dropout": _SHARE,
    "spatial_dropout": _SHARE,
    "activation": (lambda value: value in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
    "padding": (lambda value: value in list(PADDINGS), f"one of {', '.join(PADDINGS)}"),
    "several": (lambda value: type(value) is bool, "true or false"),
}


def shapes(spec: Mapping[str, Any]) -> dict[str, tuple[type[np.generic], Shape]]:
    """The type and the shape of each tensor of a head, by its name."""
    width, alike = spec["width"], (spec["shape"][0], 1, 1) if spec["kind"] == "conv" else (spec["width"],)
    found: dict[str, tuple[type[np.generic], Shape]] = {"mean": (np.float32, alike), "scale": (np.float32, alike)}
    if "pca" in spec:
        found["axes"], width = (np.float32, (spec["pca"], width)), spec["pca"]
    return found | {f"judge.{name}": about for name, about in _judge(dict(spec), width).items()}


def _judge(spec: dict[str, Any], width: int) -> dict[str, tuple[type[np.generic], Shape]]:
    classes, whole = spec["classes"], np.int32
    if spec["kind"] == "knn":
        return {"features": (np.float32, (spec["stored"], width)), "labels": (np.int64, (spec["stored"],))}
    if spec["kind"] == "forest":
        trees, nodes, leaves = spec["trees"], spec["nodes"], spec["leaves"]
        places = {"roots": (whole, (trees,)), "features": (whole, (nodes,)), "sides": (whole, (nodes, 2))}
        return places | {"thresholds": (np.float32, (nodes,)), "leaves": (np.float32, (leaves, classes))}
    if spec["kind"] == "linear":
        return {"weight": (np.float32, (classes, width)), "bias": (np.float32, (classes,))}
    found: dict[str, tuple[type[np.generic], Shape]] = {}
    if spec["kind"] == "conv":
        found["0.weight"] = np.float32, (spec["filters"], spec["shape"][0], KERNEL, KERNEL)
        found["0.bias"] = np.float32, (spec["filters"],)
    for place, (before, after) in dense(spec, width).items():
        found |= {f"{place}.weight": (np.float32, (after, before)), f"{place}.bias": (np.float32, (after,))}
    return found


def dense(spec: Mapping[str, Any], width: int) -> dict[int, tuple[int, int]]:
    """The (inputs, outputs) of each linear layer of an mlp or conv head, by its place in the chain."""
    first = 0
    if spec["kind"] == "conv":
        width, first = spec["filters"] * math.prod(pooled(spec)[1]), 4  # after convolution, activation, pool, flatten
    widths = [width, *spec["hidden"], spec["classes"]]
    return {first + 2 * place: pair for place, pair in enumerate(pairwise(widths))}


def pooled(spec: Mapping[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of a conv head the window of the pooling, and the (height, width) of the map after it."""
    _, height, width = spec["shape"]
    border = PADDINGS[(BEFORE | dict(spec))["padding"]]
    height, width = height + 2 * border - KERNEL + 1, width + 2 * border - KERNEL + 1
    window = min(2, height), min(2, width)  # a map of 1 x 1 has nothing to choose from
    return window, (height // window[0], width // window[1])


def check_tensors(spec: Mapping[str, Any], tensors: Mapping[str, NDArray[np.generic]]) -> None:
    """Raises ValueError for a tensor that is missing, is too many, or has another shape or type than the spec says."""
    wanted = shapes(spec)
    if odd := sorted(wanted.keys() ^ tensors.keys()):
        raise ValueError(f"the head {'lacks' if odd[0] in wanted else 'has an unknown'} tensor {odd[0]!r}")
    for name, (kind, shape) in wanted.items():
        found = tensors[name]
        if found.shape != shape or found.dtype != kind:
            about = f"{np.dtype(kind).name} {list(shape)}"
            raise ValueError(f"the head's {name!r} must be {about}, and is {found.dtype.name} {list(found.shape)}")


def check_places(spec: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Raises ValueError where stored numbers say places that are not there, or a way down a tree ends at no leaf."""
    if spec["kind"] == "knn":
        within("head.judge.labels", tensors["judge.labels"], spec["classes"])
    if spec["kind"] != "forest":
        return
    limits = {"roots": spec["nodes"], "features": spec.get("pca", spec["width"]), "sides": spec["nodes"]}
    for name, limit in limits.items():
        within(f"head.judge.{name}", tensors[f"judge.{name}"], limit)
    reached, sides = np.unique(tensors["judge.roots"]), tensors["judge.sides"]
    for _ in range(spec["depth"]):
        below = np.unique(sides[reached])
        if np.array_equal(below, reached):
            break
        reached = below
    within("the ways down from head.judge.roots", reached, spec["leaves"])


def within(name: str, places: NDArray[np.generic], count: int) -> None:
    """Raises ValueError where a place is none of so many."""
    if places.size and not 0 <= int(places.min()) <= int(places.max()) < count:
        raise ValueError(f"{name} has places from {int(places.min())} to {int(places.max())}, and there are {count:,}")
