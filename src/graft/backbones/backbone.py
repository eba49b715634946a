"""Load a pretrained backbone as a graph: from the cache, built from arrays, or converted from PyTorch once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from graft import device
from graft.backbones import catalog, checkpoint, foreign, lite, weights
from graft.backbones.catalog import CatalogEntry
from graft.backbones.graph import Graph, complete_graph, dump, parse
from graft.backbones.preprocess import Preprocess
from graft.backbones.weights import WeightsSource
from graft.data.cache import cache_folder
from graft.errors import GraftWarning, ModelError, UsageError, WeightsError
from graft.progress import ProgressWrapper, no_progress
from graft_runtime import safe_files

CHECKSUM_KEY = "graft"  # key in the metadata of the weights file
MAX_STRUCTURE_BYTES = 256 * 2**20  # bytes of a structure; those of the catalogue have less than 3 MB
GRAPH_VERSION = 2  # of the conversion: raise it when graphs change, and those in the cache are converted again
REQUIRED_PACKAGES = ("torch", "torchvision", "timm")  # to convert a network; the extra `train` installs them


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network without its classifier: from prepared uint8 images to the outputs of its stages."""

    entry: CatalogEntry | None  # None: a graph of the user, which is not in the catalogue
    graph: Graph
    preprocess: Preprocess
    source: WeightsSource

    @property
    def name(self) -> str:
        """Its name in the catalogue, or the path of its file."""
        return self.entry.name if self.entry else self.source.origin


def load_backbone(
    name: str = catalog.DEFAULT,
    file: Path | None = None,
    offline: bool = False,
    *,
    cache: Path | None = None,
    watch: ProgressWrapper = no_progress,
) -> Backbone:
    """Load a pretrained backbone of the catalogue; its graph is cached in `cache`, or in a folder of the user's cache.

    A `file` that ends in .onnx is read as the network itself, by `foreign`. Raises UsageError for an unknown name, and
    for one that has to be converted where PyTorch is not installed; WeightsError where its weights cannot be loaded or
    do not fit, and ExportError where it cannot be converted.

    Warns with GraftWarning of a damaged or full cache.
    """
    if file is not None and file.suffix == ".onnx":
        return _load_onnx_file(name, file)
    entry = catalog.find_entry(name)
    source = weights.locate(entry, file, offline)
    if source.path is None:
        _check_requirements(entry)  # before the download
    source = weights.ensure_local(entry, source)
    preprocess = catalog.build_preprocess(entry)
    folder, key = cache or cache_folder() / "backbones", cache_key(entry, source, preprocess)
    try:
        graph = read(folder, key)
    except CacheDamagedError as damage:
        graph = None
        remark = f"The graph of '{entry.name}' in the cache was damaged, and was made anew: {damage}."
        warn(GraftWarning(remark), stacklevel=2)
    if graph is None:
        graph = complete_graph(_build_graph(entry, source, preprocess, watch), preprocess.size)
        try:
            write(folder, key, graph)
        except OSError as fault:
            remark = f"The graph of '{entry.name}' cannot be kept in {folder}: {fault.strerror or fault}."
            warn(GraftWarning(remark), stacklevel=2)
    return Backbone(entry, move_to_device(entry, graph, preprocess), preprocess, source)


def move_to_device(entry: CatalogEntry, graph: Graph, preprocess: Preprocess) -> Graph:
    """Return the graph, run by PyTorch where there is a GPU."""
    if not device.is_gpu_likely():
        return graph
    from graft.torch import engine

    return engine.move_to_gpu(entry, graph, preprocess)


def _load_onnx_file(name: str, file: Path) -> Backbone:
    """Load the network of an ONNX file, with the preprocessing of most of the catalogue, as the file has none."""
    if name != catalog.DEFAULT:
        raise UsageError(f"{file} is a whole network, and so is --backbone {name}. Leave one of them out.")
    if not file.is_file():
        raise WeightsError(f"There is no weights file {file}.")
    graph, size = foreign.load_onnx(file)
    source = WeightsSource("file", file, catalog.NOT_STATED, f"file {file}", weights.digest(file))
    return Backbone(None, complete_graph(graph, size), Preprocess(size, size * 256 // 224), source)


def cache_key(entry: CatalogEntry, source: WeightsSource, preprocess: Preprocess) -> str:
    """Return the cache key of a graph: a hash of GRAPH_VERSION, name, weights and preprocessing."""
    what = (GRAPH_VERSION, entry.name, source.sha256, preprocess)
    return hashlib.sha256(repr(what).encode()).hexdigest()[:32]


def _build_graph(entry: CatalogEntry, source: WeightsSource, preprocess: Preprocess, watch: ProgressWrapper) -> Graph:
    assert source.path is not None
    family = entry.name.partition(".")[0]
    if family in lite.NETWORKS:
        return lite.build(family, lite.match_tensors(family, checkpoint.read(source.path), source.path))
    _check_requirements(entry)
    for _ in watch([None], f"convert {entry.name}", 1):
        from graft.torch import convert  # seconds, and only here

        return convert.convert_backbone(entry, source, preprocess)
    raise AssertionError("a watch that leaves things out")


def _check_requirements(entry: CatalogEntry) -> None:
    """Raise UsageError for a network that has to be converted where the required packages are not installed."""
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing and entry.name.partition(".")[0] not in lite.NETWORKS:
        raise UsageError(
            f"'{entry.name}' has to be converted once, and that needs {', '.join(missing)}: "
            f"`pip install 'graft-vision[train]'` brings it. {catalog.DEFAULT} needs nothing."
        )


# --- The cache of graphs ----------------------------------------------------------------------------------------------


class CacheDamagedError(Exception):
    """A cached graph does not match its checksums."""


def read(folder: Path, key: str) -> Graph | None:
    """Read a graph from the cache; None where it is missing. Raises CacheDamagedError where its checksums are wrong."""
    from safetensors import SafetensorError, safe_open

    path = folder / f"{key}.safetensors"
    if not safe_files.is_readable(path):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            sums = json.loads((file.metadata() or {})[CHECKSUM_KEY])
            tensors = {name: file.get_tensor(name) for name in sums["tensors"]}
        other = _structure_path(folder, key, sums["structure"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
        raise CacheDamagedError(f"{path} is not what was written there") from fault
    try:
        structure = safe_files.read_limited(other, MAX_STRUCTURE_BYTES)
        graph = parse(structure, tensors)
    except FileNotFoundError as fault:
        raise CacheDamagedError(f"{other} is missing") from fault
    except (OSError, ModelError) as fault:
        raise CacheDamagedError(f"{other} is not what was written there") from fault
    if hashlib.sha256(structure).hexdigest() != sums["structure"] or _tensor_digest(tensors) != sums["sum"]:
        raise CacheDamagedError(
            f"{other if _tensor_digest(tensors) == sums['sum'] else path} is not what was written there"
        )
    return graph


def write(folder: Path, key: str, graph: Graph) -> None:
    """Write a graph to the cache, atomically. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.require(each, requirements="C") for name, each in graph.tensors.items()}
    structure = dump(graph)
    digest = hashlib.sha256(structure).hexdigest()
    sums = {"structure": digest, "sum": _tensor_digest(tensors), "tensors": list(tensors)}
    _write_atomically(_structure_path(folder, key, digest), lambda part: part.write_bytes(structure))
    try:
        # Last, as it names the structure: two concurrent writers of different structures leave a consistent pair.
        _write_atomically(
            folder / f"{key}.safetensors", lambda part: save_file(tensors, part, {CHECKSUM_KEY: json.dumps(sums)})
        )
    except SafetensorError as fault:  # safetensors raises it for every error of the system
        raise OSError(str(fault)) from fault


def _structure_path(folder: Path, key: str, digest: str) -> Path:
    return folder / f"{key}-{digest[:16]}.onnx"


def _write_atomically(path: Path, fill: Callable[[Path], Any]) -> None:
    part = path.with_name(f".{secrets.token_hex(16)}.part")
    try:
        fill(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _tensor_digest(tensors: Mapping[str, NDArray[np.generic]]) -> str:
    """Return the SHA-256 of tensors in their order, with their names, types and shapes."""
    whole = hashlib.sha256()
    for name, tensor in tensors.items():
        whole.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        whole.update(tensor.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()
