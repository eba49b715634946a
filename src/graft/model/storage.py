"""A classifier on disk: one folder that a person can read, no pickle, written whole or not at all.

model.safetensors   the tensors of backbone and head, without stages that come after all that the head reads
graph.onnx          how the backbone works with them: its structure, for ONNX Runtime
model.json          the card: classes, preprocessing, backbone, head, temperature, scores, provenance, licences
report.json         the evaluation in full
README.md           the model card
memory.safetensors  the pictures that it was trained and tested on, by their content; how it answered the test
history.csv         what each epoch brought, of a classifier that was trained by epochs
report.html         the evaluation for people
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

from graft import device
from graft.backbones import catalog, facts
from graft.backbones import graph as graphs
from graft.backbones.backbone import placed
from graft.backbones.features import Features, Run
from graft.backbones.graph import Graph
from graft.backbones.preprocess import Preprocess
from graft.errors import CutError, GraftError, ModelError, OutputError
from graft.extras import needed
from graft.heads.head import Head
from graft.model import history, readme, whole
from graft.model import memory as remembered
from graft.model.history import Epoch
from graft.model.memory import Memory
from graft.model.network import Network
from graft.model.unknown import compared_by
from graft_runtime import regular, strict_json
from graft_runtime.card import MULTILABEL, Card, CardError, dump, parse
from graft_runtime.walk import LOCK

TENSORS, CARD, REPORT, README = ALWAYS = ("model.safetensors", "model.json", "report.json", "README.md")
GRAPH = "graph.onnx"
PREFIX, HEAD = "features.backbone.", "head."  # of the names of the backbone's tensors, and of the head's
HISTORY = history.FILE
PAGE = "report.html"
MEMORY = "memory.safetensors"
FILES = (*ALWAYS, GRAPH, HISTORY, MEMORY, PAGE)
TEXT, REMEMBERED = 1 << 28, 1 << 30  # bytes of a text and of the memory, at most: a million pictures take a tenth
LARGEST = 1 << 34  # bytes of weights: twice the largest of the catalogue
ABOUT = 1 << 12  # bytes that the head of the file may take to describe a tensor
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")  # left by file browsers wherever somebody looks


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
    """Write the folder under another name beside its place, read it back, then rename it: there is no half a model.

    An existing classifier is replaced only with `force`, and a folder that holds anything else never.
    """
    _refuse(folder, force)
    graph = read_of(network, compared_by(card.unknown))
    tensors = {f"{PREFIX}{name}": np.require(each, requirements="C") for name, each in graph.tensors.items()}
    tensors |= {f"{HEAD}{name}": np.require(each, requirements="C") for name, each in network.head.tensors.items()}
    raw = {TENSORS: safetensors.save(tensors), GRAPH: facts.dump(graph)}
    raw |= {MEMORY: remembered.dump(memory)} if memory else {}
    card = replace(card, weights={name: hashlib.sha256(content).hexdigest() for name, content in raw.items()})
    texts = {CARD: dump(card), REPORT: strict_json.dumps(report, indent=2) + "\n", README: readme.text(card, report)}
    if page:
        texts[PAGE] = page
    if epochs := report.get("training", {}).get("history"):
        texts[HISTORY] = history.text([Epoch(**epoch) for epoch in epochs])
    contents = raw | {name: text.encode() for name, text in texts.items()}
    try:
        with whole.folder(folder) as fresh:
            for name, content in contents.items():
                _write(fresh / name, content)
    except OSError as error:
        raise _unwritable(folder, error, sum(map(len, contents.values()))) from error
    return folder


def read_of(network: Network, compared: Sequence[str]) -> Graph:
    """The graph without stages that come after all that the head reads and images are compared by."""
    features = network.features
    if features.top:
        return features.graph
    places = {stage.name: place for place, stage in enumerate(features.graph.stages)}
    read = {*features.layers, *compared}
    if not read <= places.keys():  # a layer that is no stage lies inside one: where the reading ends is not known
        return features.graph
    return facts.shortened(features.graph, 1 + max(places[name] for name in read))


def load(folder: Path) -> tuple[Network, Card, dict[str, Any], Memory | None]:
    """(network, card, report, memory) of a saved classifier.

    Raises ModelError that says which file is wrong, and how; UsageError for a folder of an earlier version where the
    packages that read it are not installed.
    """
    card = read_card(folder)
    with _together(folder, TENSORS):
        _check_card(card)
    network = _network(folder, card) if GRAPH in card.weights else _earlier(folder, card)
    memory = read_memory(folder, card)
    if memory and memory.known and len(memory.known.features):
        with _together(folder, MEMORY):
            width = memory.known.features.shape[1]
            own = network.features.compared(compared_by(card.unknown)).width
            if width != own:
                raise ValueError(f"images are compared by {own} features, and those remembered have {width}")
    return network, card, _report(folder), memory


def _network(folder: Path, card: Card) -> Network:
    """The network with the tensors of the file: all that the graph and the head have, of their shapes."""
    tensors, structure = _tensors(folder, card, LARGEST), _sound(folder, GRAPH, card, TEXT)
    own = {name.removeprefix(PREFIX): each for name, each in tensors.items() if name.startswith(PREFIX)}
    head = {name.removeprefix(HEAD): each for name, each in tensors.items() if name.startswith(HEAD)}
    with _together(folder, GRAPH, TENSORS):
        graph = facts.parse(structure, own)
        graphs.weights(graph)
    with _together(folder, TENSORS):
        if odd := [name for name in tensors if not name.startswith((PREFIX, HEAD))]:
            raise ValueError(f"unexpected {odd[0]}")
        if lost := [name for name, each in tensors.items() if each.dtype.kind == "f" and not np.isfinite(each).all()]:
            raise ValueError(f"not a number in {lost[0]}")
        features = Features(graph, _preprocess(card), tuple(card.layers), card.top, card.pool)
        network = _fitting(features, Head(card.head, head), card)
    if card.backbone.get("library") != "onnx" and device.is_gpu_likely():
        graph = placed(catalog.find(card.backbone["name"]), graph, features.preprocess)
        network = replace(network, features=replace(features, graph=graph))
    with _together(folder, GRAPH, TENSORS):
        run = Run(network.features, features.compared(compared_by(card.unknown)))
        run.session.open(run.outputs)  # what an answer takes: the same session will give it
    return network


def _earlier(folder: Path, card: Card) -> Network:
    """A classifier of before, whose graph is made anew, by PyTorch."""
    needed("torch", f"{folder} was saved by an earlier version of graft, and to read it")
    from graft.torch.revive import earlier

    tensors = _tensors(folder, card, LARGEST)
    with _together(folder, TENSORS):
        network = earlier(card, tensors, _preprocess(card))
        return _fitting(network.features, network.head, card)


def _fitting(features: Features, head: Head, card: Card) -> Network:
    """The two together. Raises ValueError where they are not of one classifier."""
    head.checked()
    if features.width != head.spec["width"]:
        raise ValueError(f"the layers give {features.width} features, the head takes {head.spec['width']}")
    for name in compared_by(card.unknown):
        features.compared([name]).widths  # noqa: B018 - raises where the graph has no such layer
    return Network(features, head)


@contextmanager
def _together(folder: Path, name: str, other: str = CARD) -> Iterator[None]:
    """Whatever goes wrong inside, where no file is read, is told of these two files."""
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
        catalog.find(card.backbone["name"])
    if card.head.get("classes") != len(card.classes):
        raise ValueError(f"the head has {card.head.get('classes')} outputs, the card {len(card.classes)} classes")


def _preprocess(card: Card) -> Preprocess:
    """As the card says, all of it: what is missing would be another network's."""
    if lacking := [each.name for each in fields(Preprocess) if each.name not in card.preprocess]:
        raise ValueError(f"the card does not say {lacking[0]!r} of the preprocessing")
    return Preprocess(**_tuples(card.preprocess))


@contextmanager
def claimed(folder: Path, *, force: bool) -> Iterator[None]:
    """Refuses at once a folder that is taken, not writable, or being written to by another run."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise OutputError(f"Another run is writing to {folder}. Wait for it, or choose another --output.") from error
    except OSError as error:
        raise _unwritable(folder, error, 0) from error
    try:
        _sweep(folder)
        _refuse(folder, force)
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _sweep(folder: Path) -> None:
    """Clear up after a run that was killed while it wrote; a classifier that it had moved aside comes back."""
    whole.bring_back(folder, ALWAYS, FILES)
    for left in whole.left_of(folder):
        if {path.name for path in left.iterdir()} <= set(FILES):
            shutil.rmtree(left)


def _refuse(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    entries = folder.iterdir() if folder.is_dir() else [folder]
    names = sorted(entry.name for entry in entries if entry.name not in LITTER and not LOCK.fullmatch(entry.name))
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


def _unwritable(folder: Path, error: OSError, size: int) -> OutputError:
    what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
    if not size:
        return OutputError(f"{folder} cannot be written to: {what}. Choose another folder with --output.")
    return OutputError(
        f"The classifier ({size / 1e6:.0f} MB) could not be written to {folder}: {what}. Nothing is lost but time: "
        f"the features are cached. Choose another folder with --output and run the same command."
    )


def read_card(folder: Path) -> Card:
    path = folder / CARD
    try:
        return parse(regular.read(path, TEXT).decode())
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


def _tensors(folder: Path, card: Card, most: int) -> dict[str, NDArray[np.generic]]:
    try:
        return safetensors.load(_sound(folder, TENSORS, card, most))
    except SafetensorError as error:
        raise ModelError(f"{folder / TENSORS} is not a safetensors file: {error}.") from error


def read_memory(folder: Path, card: Card) -> Memory | None:
    """What the classifier remembers; None for one that never had pictures, or is of an earlier version."""
    if MEMORY not in card.weights:
        return None
    try:
        memory = remembered.parse(_sound(folder, MEMORY, card, REMEMBERED))
        remembered.check(memory, len(card.classes), several=card.task == MULTILABEL)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / MEMORY} is not what graft wrote: {error}.") from error
    return memory


def _sound(folder: Path, name: str, card: Card, most: int) -> bytes:
    """A file's content, just as it was saved."""
    path = folder / name
    try:
        content = regular.read(path, most)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != card.weights.get(name):
        raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {CARD}. Copy it anew, or train again.")
    return content


def _report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    try:
        report = strict_json.loads(regular.read(path, TEXT))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    if not isinstance(report, dict):
        raise ModelError(f"{path} is not what graft wrote: a table by name, and this one is {type(report).__name__}.")
    return report


def _tuples(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
