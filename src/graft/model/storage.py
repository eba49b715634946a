"""A classifier on disk: one folder that a person can read, no pickle, written whole or not at all.

model.safetensors   the tensors of backbone and head, without stages that come after all that the head reads
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
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors import torch as safetensors

from graft.errors import GraftError, ModelError, OutputError
from graft.model import history, readme, whole
from graft.model import memory as remembered
from graft.model.history import Epoch
from graft.model.memory import Memory
from graft.model.unknown import compared_by
from graft.networks import catalog
from graft.networks.head import Head
from graft.networks.network import Features, Network
from graft.networks.preprocess import Preprocess
from graft.networks.shorter import shorten, unread
from graft_runtime.card import Card, CardError, dump, parse

TENSORS, CARD, REPORT, README = ALWAYS = ("model.safetensors", "model.json", "report.json", "README.md")
PREFIX = "features.backbone."  # of the names of the backbone's tensors
HISTORY = "history.csv"
PAGE = "report.html"
MEMORY = "memory.safetensors"
FILES = (*ALWAYS, HISTORY, MEMORY, PAGE)
LOCK = re.compile(r"\..+\.lock")  # our own, of a run that was killed while it wrote a classifier into this folder
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
    also = compared_by(card.unknown)  # these layers are read as well
    gone = tuple(f"{PREFIX}{name}." for name in unread(network.features, also))
    tensors = {name: each.contiguous() for name, each in network.state_dict().items() if not name.startswith(gone)}
    raw = {TENSORS: safetensors.save(tensors)} | ({MEMORY: remembered.dump(memory)} if memory else {})
    card = replace(card, weights={name: hashlib.sha256(content).hexdigest() for name, content in raw.items()})
    texts = {CARD: dump(card), REPORT: json.dumps(report, indent=2) + "\n", README: readme.text(card, report)}
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


def load(folder: Path) -> tuple[Network, Card, dict[str, Any], Memory | None]:
    """(network, card, report, memory) of a saved classifier.

    Raises ModelError that says which file is wrong, and how.
    """
    card = read_card(folder)
    tensors = _tensors(folder, card)
    try:
        entry = catalog.find(card.backbone["name"])
        backbone = catalog.headless(entry, catalog.build(entry))
        if not card.top:
            shorten(backbone, [name.removeprefix(PREFIX) for name in tensors if name.startswith(PREFIX)])
        features = Features(backbone, Preprocess(**_tuples(card.preprocess)), card.layers, card.top, card.pool)
        network = Network(features, Head(card.head))
        network.load_state_dict(tensors)
        if features.width != card.head["width"]:
            raise ValueError(f"the layers give {features.width} features, the head takes {card.head['width']}")
        if card.head["classes"] != len(card.classes):
            raise ValueError(f"the head has {card.head['classes']} outputs, the card {len(card.classes)} classes")
    except (GraftError, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{folder / TENSORS} and {folder / CARD} do not belong together: {error}") from error
    return network.eval().requires_grad_(False), card, _report(folder), read_memory(folder, card)


@contextmanager
def claimed(folder: Path, *, force: bool) -> Iterator[None]:
    """Refuses at once a folder that is taken, not writable, or being written to by another run."""
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
    ours = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}(\.old)?")
    for left in [path for path in folder.parent.iterdir() if ours.fullmatch(path.name) and path.is_dir()]:
        names = {path.name for path in left.iterdir()}
        if left.suffix == ".old" and not folder.exists() and set(ALWAYS) <= names <= set(FILES):
            left.rename(folder)
        elif names <= set(FILES):
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
        return parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        there = "it is a file" if folder.exists() else "there is no such folder"
        what = f"it has no {path.name}" if folder.is_dir() else there
        hint = "Name the folder that `graft fit --output` wrote."
        raise ModelError(f"{folder} is no saved classifier: {what}. {hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error
    except CardError as error:
        raise ModelError(f"{path} cannot be used: {error}.") from error


def _tensors(folder: Path, card: Card) -> dict[str, Any]:
    try:
        return safetensors.load(_sound(folder, TENSORS, card))
    except SafetensorError as error:
        raise ModelError(f"{folder / TENSORS} is not a safetensors file: {error}.") from error


def read_memory(folder: Path, card: Card) -> Memory | None:
    """What the classifier remembers; None for one that never had pictures, or is of an earlier version."""
    if MEMORY not in card.weights:
        return None
    try:
        return remembered.parse(_sound(folder, MEMORY, card))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / MEMORY} is not what graft wrote: {error}.") from error


def _sound(folder: Path, name: str, card: Card) -> bytes:
    """A file's content, just as it was saved."""
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(content).hexdigest() != card.weights.get(name):
        raise ModelError(f"{path} is damaged: its SHA-256 is not the one in {CARD}. Copy it anew, or train again.")
    return content


def _report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error


def _tuples(entries: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entries.items()}
