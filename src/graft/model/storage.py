"""Save and load classifiers: one readable folder without pickle, written atomically.

model.safetensors   the tensors of backbone and head, without stages that come after all that the head reads
graph.onnx          the structure of the backbone, without its weights, for ONNX Runtime
model.json          the card: classes, preprocessing, backbone, head, temperature, scores, provenance, licences
report.json         the evaluation in full
README.md           the model card
memory.safetensors  digests of the training and test images, test predictions, stored training features
history.csv         one row per epoch, for a classifier that was trained by epochs
report.html         the evaluation as a web page
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from graft import atomic, device
from graft.backbones import catalog, graph
from graft.backbones import graph as graph_module
from graft.backbones import graph as graphs
from graft.backbones.backbone import move_to_device
from graft.backbones.features import FeatureRunner, Features
from graft.backbones.graph import Graph
from graft.backbones.preprocess import Preprocess
from graft.errors import CutError, GraftError, ModelError, OutputError
from graft.extras import require_package
from graft.heads.head import Head
from graft.metrics.unknown import reference_layers
from graft.model import history
from graft.model import memory as remembered
from graft.model.card import build_readme
from graft.model.memory import Memory
from graft.model.network import Network
from graft_runtime import safe_files, strict_json
from graft_runtime.card import MULTILABEL, Card, CardError, dump, parse
from graft_runtime.walk import LOCK

TENSORS, CARD, REPORT, README = REQUIRED_FILES = ("model.safetensors", "model.json", "report.json", "README.md")
GRAPH = "graph.onnx"
BACKBONE_PREFIX, HEAD_PREFIX = "features.backbone.", "head."  # of tensor names
HISTORY = history.FILE
HTML_REPORT = "report.html"
MEMORY = "memory.safetensors"
FILES = (*REQUIRED_FILES, GRAPH, HISTORY, MEMORY, HTML_REPORT)
# Limits on what is read. A million images take a tenth of a text file's and of the memory's.
MAX_TEXT_BYTES, MAX_MEMORY_BYTES = 1 << 28, 1 << 30
MAX_WEIGHTS_BYTES = 1 << 34  # twice the largest network of the catalogue
MAX_TENSOR_HEADER_BYTES = 1 << 12  # per tensor, in the header of the safetensors file
IGNORED_FILES = (".DS_Store", "Thumbs.db", "desktop.ini")  # left by file browsers in any folder that they show


def save(
    network: Network,
    card: Card,
    report: dict[str, Any],
    folder: Path,
    memory: Memory | None = None,
    page: str = "",
    *,
    force: bool = False,
) -> Path:
    """Write a classifier to a temporary folder, read it back, and rename it; return the folder.

    An existing classifier is replaced only with `force`, and a folder that holds anything else never. Raises
    OutputError.
    """
    _check_overwrite(folder, force)
    graph = prune_unread(network, reference_layers(card.unknown))
    tensors = {f"{BACKBONE_PREFIX}{name}": np.require(each, requirements="C") for name, each in graph.tensors.items()}
    tensors |= {
        f"{HEAD_PREFIX}{name}": np.require(each, requirements="C") for name, each in network.head.tensors.items()
    }
    raw = {TENSORS: safetensors.save(tensors), GRAPH: graph_module.dump(graph)}
    raw |= {MEMORY: remembered.dump(memory)} if memory else {}
    card = replace(card, weights={name: hashlib.sha256(content).hexdigest() for name, content in raw.items()})
    texts = {CARD: dump(card), REPORT: strict_json.dumps(report, indent=2) + "\n", README: build_readme(card, report)}
    if page:
        texts[HTML_REPORT] = page
    if epochs := report.get("training", {}).get("history"):
        texts[HISTORY] = history.format_csv([history.epoch_from_dict(epoch) for epoch in epochs])
    contents = raw | {name: text.encode() for name, text in texts.items()}
    try:
        with atomic.atomic_folder(folder) as fresh:
            for name, content in contents.items():
                _write(fresh / name, content)
    except OSError as error:
        raise _write_error(folder, error, sum(map(len, contents.values()))) from error
    return folder


def prune_unread(network: Network, compared: Sequence[str]) -> Graph:
    """Return the graph without the stages after the last one that the head or the layers `compared` read."""
    features = network.features
    if features.top:
        return features.graph
    places = {stage.name: place for place, stage in enumerate(features.graph.stages)}
    read = {*features.layers, *compared}
    if not read <= places.keys():  # a layer inside a stage: the last stage that is needed is not known
        return features.graph
    return graph.truncate_graph(features.graph, 1 + max(places[name] for name in read))


def load(folder: Path) -> tuple[Network, Card, dict[str, Any], Memory | None]:
    """Load (network, card, report, memory) of a saved classifier.

    Raises ModelError, which names the wrong file and its fault, and UsageError for a folder of an earlier version
    where the packages that read it are not installed.
    """
    card = read_card(folder)
    with _report_mismatch(folder, TENSORS):
        _check_card(card)
    network = _load_network(folder, card) if GRAPH in card.weights else _load_legacy(folder, card)
    memory = read_memory(folder, card)
    if memory and memory.known and len(memory.known.features):
        with _report_mismatch(folder, MEMORY):
            width = memory.known.features.shape[1]
            own = network.features.reference_features(reference_layers(card.unknown)).width
            if width != own:
                raise ValueError(f"images are compared by {own} features, and those remembered have {width}")
    return network, card, _read_report(folder), memory


def _load_network(folder: Path, card: Card) -> Network:
    """Build the network from the graph and the tensors, whose names, shapes and values are checked."""
    tensors = _read_tensors(folder, card, MAX_WEIGHTS_BYTES)
    structure = _read_verified(folder, GRAPH, card, MAX_TEXT_BYTES)
    own = {
        name.removeprefix(BACKBONE_PREFIX): each for name, each in tensors.items() if name.startswith(BACKBONE_PREFIX)
    }
    head = {name.removeprefix(HEAD_PREFIX): each for name, each in tensors.items() if name.startswith(HEAD_PREFIX)}
    with _report_mismatch(folder, GRAPH, TENSORS):
        graph = graph_module.parse(structure, own)
        graphs.required_tensors(graph)
    with _report_mismatch(folder, TENSORS):
        if odd := [name for name in tensors if not name.startswith((BACKBONE_PREFIX, HEAD_PREFIX))]:
            raise ValueError(f"unexpected {odd[0]}")
        if lost := [name for name, each in tensors.items() if each.dtype.kind == "f" and not np.isfinite(each).all()]:
            raise ValueError(f"not a number in {lost[0]}")
        features = Features(graph, _read_preprocess(card), tuple(card.layers), card.top, card.pool)
        network = _build_network(features, Head(card.head, head), card)
    if card.backbone.get("library") != "onnx" and device.is_gpu_likely():
        graph = move_to_device(catalog.find_entry(card.backbone["name"]), graph, features.preprocess)
        network = replace(network, features=replace(features, graph=graph))
    with _report_mismatch(folder, GRAPH, TENSORS):
        run = FeatureRunner(network.features, features.reference_features(reference_layers(card.unknown)))
        run.session.open(run.outputs)  # opens the session that predictions will use, so that a fault shows now
    return network


def _load_legacy(folder: Path, card: Card) -> Network:
    """Load a classifier of an earlier version, without a graph, which PyTorch rebuilds."""
    require_package("torch", f"{folder} was saved by an earlier version of graft, and to read it")
    from graft.torch.restore import load_without_graph

    tensors = _read_tensors(folder, card, MAX_WEIGHTS_BYTES)
    with _report_mismatch(folder, TENSORS):
        network = load_without_graph(card, tensors, _read_preprocess(card))
        return _build_network(network.features, network.head, card)


def _build_network(features: Features, head: Head, card: Card) -> Network:
    """Join features and head. Raises ValueError where they do not fit together."""
    head.check_stored()
    if features.width != head.spec["width"]:
        raise ValueError(f"the layers give {features.width} features, the head takes {head.spec['width']}")
    for name in reference_layers(card.unknown):
        features.reference_features([name]).widths  # noqa: B018 - raises where the graph has no such layer
    return Network(features, head)


@contextmanager
def _report_mismatch(folder: Path, name: str, other: str = CARD) -> Iterator[None]:
    """Turn any error inside the block, where no file is read, into a ModelError about these two files."""
    try:
        yield
    except CutError as error:
        raise ModelError(f"{folder} cannot be read: {error}") from error
    except (GraftError, AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder / name} and {folder / other} do not belong together: {error}") from error


def _check_card(card: Card) -> None:
    if not card.classes:
        raise ValueError("the card has no classes")
    if card.backbone.get("library") != "onnx":
        catalog.find_entry(card.backbone["name"])
    if card.head.get("classes") != len(card.classes):
        raise ValueError(f"the head has {card.head.get('classes')} outputs, the card {len(card.classes)} classes")


def _read_preprocess(card: Card) -> Preprocess:
    """Read the preprocessing from the card. No field has a default here: it would be another network's."""
    if lacking := [each.name for each in fields(Preprocess) if each.name not in card.preprocess]:
        raise ValueError(f"the card does not say {lacking[0]!r} of the preprocessing")
    return Preprocess(**_lists_to_tuples(card.preprocess))


@contextmanager
def lock_folder(folder: Path, *, force: bool) -> Iterator[None]:
    """Hold the folder for writing. Raises OutputError if it is taken, not writable, or held by another run."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"Another run is writing to {folder}. Wait for it, or choose another --output.") from error
    except OSError as error:
        raise _write_error(folder, error, 0) from error
    try:
        _clean_up(folder)
        _check_overwrite(folder, force)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _clean_up(folder: Path) -> None:
    """Remove what a killed run left behind, and put back a classifier that it had moved aside."""
    atomic.restore_leftover(folder, REQUIRED_FILES, FILES)
    for left in atomic.find_leftovers(folder):
        if {path.name for path in left.iterdir()} <= set(FILES):
            shutil.rmtree(left)


def _check_overwrite(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    entries = folder.iterdir() if folder.is_dir() else [folder]
    names = sorted(
        entry.name for entry in entries if entry.name not in IGNORED_FILES and not LOCK.fullmatch(entry.name)
    )
    foreign = [name for name in names if name not in FILES or CARD not in names]  # a lone README.md is the user's
    if foreign:
        raise OutputError(f"{folder} holds {foreign[0]!r}, which graft did not write. Choose another folder.")
    if names and not force:
        raise OutputError(f"{folder} already holds a classifier. Use --force to replace it, or choose another folder.")


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if path.read_bytes() != content:
        raise OSError(errno.EIO, "what was written does not read back the same")


def _write_error(folder: Path, error: OSError, size: int) -> OutputError:
    what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
    if not size:
        return OutputError(f"{folder} cannot be written to: {what}. Choose another folder with --output.")
    return OutputError(
        f"The classifier ({size / 1e6:.0f} MB) could not be written to {folder}: {what}. Nothing is lost but time: "
        f"the features are cached. Choose another folder with --output and run the same command."
    )


def read_card(folder: Path) -> Card:
    """Read model.json of a saved classifier. Raises ModelError."""
    path = folder / CARD
    try:
        return parse(safe_files.read_limited(path, MAX_TEXT_BYTES).decode())
    except (FileNotFoundError, NotADirectoryError) as error:
        there = "it is a file" if folder.exists() else "there is no such folder"
        what = f"it has no {path.name}" if folder.is_dir() else there
        hint = "Name the folder that `graft fit --output` wrote."
        raise ModelError(f"{folder} is no saved classifier: {what}. {hint}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    except CardError as error:
        raise ModelError(f"{path} cannot be used: {error}.") from error


def _read_tensors(folder: Path, card: Card, most: int) -> dict[str, NDArray[np.generic]]:
    try:
        return safetensors.load(_read_verified(folder, TENSORS, card, most))
    except SafetensorError as error:
        raise ModelError(f"{folder / TENSORS} is not a safetensors file: {error}.") from error


def read_memory(folder: Path, card: Card) -> Memory | None:
    """Read memory.safetensors; None for a classifier without training images, or of an earlier version."""
    if MEMORY not in card.weights:
        return None
    try:
        memory = remembered.parse(_read_verified(folder, MEMORY, card, MAX_MEMORY_BYTES))
        remembered.check_memory(memory, len(card.classes), multilabel=card.task == MULTILABEL)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / MEMORY} is not what graft wrote: {error}.") from error
    return memory


def _read_verified(folder: Path, name: str, card: Card, most: int) -> bytes:
    """Read a file and compare it with its SHA-256 in the card. Raises ModelError."""
    path = folder / name
    try:
        content = safe_files.read_limited(path, most)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != card.weights.get(name):
        raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {CARD}. Copy it anew, or train again.")
    return content


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    try:
        report = strict_json.loads(safe_files.read_limited(path, MAX_TEXT_BYTES))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    if not isinstance(report, dict):
        raise ModelError(f"{path} is not what graft wrote: a table by name, and this one is {type(report).__name__}.")
    return report


def _lists_to_tuples(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
