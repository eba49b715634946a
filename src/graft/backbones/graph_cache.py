"""Graphs in the cache: made once for each network and its weights, and read back only if they are sound."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graft.backbones import facts
from graft.backbones.graph import Graph
from graft.errors import ModelError
from graft_runtime import regular

SUMS = "graft"  # the entry among the metadata of the file of weights
LARGEST = 256 * 2**20  # bytes of a structure; those of the catalogue have less than 3 MB


class Damaged(Exception):
    """What lies in the cache under this name is not what was put there."""


def read(folder: Path, key: str) -> Graph | None:
    """The graph of this name; None where there is none. Raises Damaged for one whose checksums are not right."""
    from safetensors import SafetensorError, safe_open

    path = folder / f"{key}.safetensors"
    if not regular.is_readable(path):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            sums = json.loads((file.metadata() or {})[SUMS])
            tensors = {name: file.get_tensor(name) for name in sums["tensors"]}
        other = _structure(folder, key, sums["structure"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as fault:
        raise Damaged(f"{path} is not what was written there") from fault
    try:
        structure = regular.read(other, LARGEST)
        graph = facts.parse(structure, tensors)
    except FileNotFoundError as fault:
        raise Damaged(f"{other} is missing") from fault
    except (OSError, ModelError) as fault:
        raise Damaged(f"{other} is not what was written there") from fault
    if hashlib.sha256(structure).hexdigest() != sums["structure"] or _sum(tensors) != sums["sum"]:
        raise Damaged(f"{other if _sum(tensors) == sums['sum'] else path} is not what was written there")
    return graph


def write(folder: Path, key: str, graph: Graph) -> None:
    """Keep a graph under a name. What is there is whole, however this ends. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.require(each, requirements="C") for name, each in graph.tensors.items()}
    structure = facts.dump(graph)
    digest = hashlib.sha256(structure).hexdigest()
    sums = {"structure": digest, "sum": _sum(tensors), "tensors": list(tensors)}
    _whole(_structure(folder, key, digest), lambda part: part.write_bytes(structure))
    try:
        # Last, as it names the other: two that write at once, with other structures, leave a pair that fits.
        _whole(folder / f"{key}.safetensors", lambda part: save_file(tensors, part, {SUMS: json.dumps(sums)}))
    except SafetensorError as fault:  # its word for whatever the system says
        raise OSError(str(fault)) from fault


def _structure(folder: Path, key: str, digest: str) -> Path:
    return folder / f"{key}-{digest[:16]}.onnx"


def _whole(path: Path, fill: Callable[[Path], Any]) -> None:
    part = path.with_name(f".{secrets.token_hex(16)}.part")
    try:
        fill(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _sum(tensors: Mapping[str, NDArray[np.generic]]) -> str:
    """The SHA-256 of tensors in their order, with their names, kinds and shapes."""
    whole = hashlib.sha256()
    for name, tensor in tensors.items():
        whole.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        whole.update(tensor.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()
