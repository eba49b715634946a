"""A pretrained network as a graph: out of the cache, built from arrays, or converted from PyTorch once."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from warnings import warn

from graft import device
from graft.backbones import catalog, checkpoint, facts, foreign, graph_cache, lite, weights
from graft.backbones.catalog import Entry
from graft.backbones.graph import Graph
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import Source
from graft.data.cache import cache_folder
from graft.errors import Remark, UsageError, WeightsError
from graft.progress import Watch, unwatched

VERSION = 2  # of what makes graphs: raise it when they would be others, and those in the cache are made anew
NEEDED = ("torch", "torchvision", "timm")  # to convert a network; the extra `train` brings them


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network without its classifier: uint8 images, prepared, to what its stages say of them."""

    entry: Entry | None  # None: a graph of a user's own, which no catalogue knows
    graph: Graph
    preprocess: Preprocess
    source: Source

    @property
    def name(self) -> str:
        """The network's in the catalogue, or where its file is."""
        return self.entry.name if self.entry else self.source.origin


def load_backbone(
    name: str = catalog.DEFAULT,
    file: Path | None = None,
    offline: bool = False,
    *,
    cache: Path | None = None,
    watch: Watch = unwatched,
) -> Backbone:
    """A pretrained backbone of the catalogue, ready to use; its graph is kept in a folder of the cache, or in `cache`.

    With a `file` that ends in .onnx it is the network in there, as `foreign` reads it. Raises UsageError for an unknown
    name, and for one that has to be converted where PyTorch is not installed; WeightsError where its weights cannot be
    had or do not fit, and ExportError where it cannot be converted.

    Warns with Remark of a cache that is damaged or full.
    """
    if file is not None and file.suffix == ".onnx":
        return _foreign(name, file)
    entry = catalog.find(name)
    source = weights.locate(entry, file, offline)
    if source.path is None:
        _check_means(entry)  # before the download
    source = weights.obtained(entry, source)
    preprocess = catalog.preprocess(entry)
    folder, key = cache or cache_folder() / "backbones", key_of(entry, source, preprocess)
    try:
        graph = graph_cache.read(folder, key)
    except graph_cache.Damaged as damage:
        graph = None
        remark = f"The graph of '{entry.name}' in the cache was damaged, and was made anew: {damage}."
        warn(Remark(remark), stacklevel=2)
    if graph is None:
        graph = facts.completed(_made(entry, source, preprocess, watch), preprocess.size)
        try:
            graph_cache.write(folder, key, graph)
        except OSError as fault:
            remark = f"The graph of '{entry.name}' cannot be kept in {folder}: {fault.strerror or fault}."
            warn(Remark(remark), stacklevel=2)
    return Backbone(entry, placed(entry, graph, preprocess), preprocess, source)


def placed(entry: Entry, graph: Graph, preprocess: Preprocess) -> Graph:
    """The graph, computed by PyTorch where there is a GPU."""
    if not device.is_gpu_likely():
        return graph
    from graft.torch import gpu

    return gpu.placed(entry, graph, preprocess)


def _foreign(name: str, file: Path) -> Backbone:
    """The network in a file: images are resized for it as for most of the catalogue, as the file does not say how."""
    if name != catalog.DEFAULT:
        raise UsageError(f"{file} is a whole network, and so is --backbone {name}. Leave one of them out.")
    if not file.is_file():
        raise WeightsError(f"There is no weights file {file}.")
    graph, size = foreign.opened(file)
    source = Source("file", file, catalog.NOT_STATED, f"file {file}", weights.digest(file))
    return Backbone(None, facts.completed(graph, size), Preprocess(size, size * 256 // 224), source)


def key_of(entry: Entry, source: Source, preprocess: Preprocess) -> str:
    """The name of a backbone's graph: of its network, weights and preprocessing, and of what made it."""
    what = (VERSION, entry.name, source.sha256, preprocess)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def _made(entry: Entry, source: Source, preprocess: Preprocess, watch: Watch) -> Graph:
    assert source.path is not None
    family = entry.name.partition(".")[0]
    if family in lite.NETWORKS:
        return lite.build(family, lite.arranged(family, checkpoint.read(source.path), source.path))
    _check_means(entry)
    for _ in watch([None], f"convert {entry.name}", 1):
        from graft.torch import convert  # seconds, and only here

        return convert.converted(entry, source, preprocess)
    raise AssertionError("a watch that leaves things out")


def _check_means(entry: Entry) -> None:
    """Raises UsageError for a network that has to be converted where what that takes is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and entry.name.partition(".")[0] not in lite.NETWORKS:
        raise UsageError(
            f"'{entry.name}' has to be converted once, and that needs {', '.join(missing)}: "
            f"`pip install 'graft-vision[train]'` brings it. {catalog.DEFAULT} needs nothing."
        )
