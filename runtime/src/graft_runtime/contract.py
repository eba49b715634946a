"""What an exported file says of itself, read before anything in it is run.

The file is an ONNX model. Its metadata properties hold the card of the classifier (CARD), what only an export has
(EXPORT), the SHA-256 of all else in the file (CHECKSUM) and, where it was asked for, the training pictures that
`nearest` counts (EVIDENCE), all as text. Files of before have a SHA-256 of their graph alone (DIGEST), which is still
written for those who read no other.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from graft_runtime import protobuf
from graft_runtime.card import Card, CardError, dump, parse

CONTRACT = 1  # of inputs, outputs and properties; docs/client.md
CARD, EXPORT, DIGEST, EVIDENCE = "graft.card", "graft.export", "graft.sha256", "graft.evidence"
CHECKSUM = "graft.checksum"
IMAGE = "image"  # the input
OUTPUTS = ("probabilities", "unknown", "logits", "map", "heat", "nearest", "similarity")
PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT, NEAREST, SIMILARITY = OUTPUTS

BASE64 = re.compile("[A-Za-z0-9+/]+={0,2}")

MOST = 2**31  # bytes of a file: protobuf's limit


class ModelError(ValueError):
    """A file that is no exported classifier, is damaged, or is newer than this version can read."""


@dataclass(frozen=True)
class Export:
    """What an exported file says beside the card.

    `precision` is float32 or int8; `strays` are the sorted scores of pictures that were not learned from, by which
    `decide.limit` says from where on a picture is unknown, empty where the classifier cannot tell; `parity` is what
    came of comparing the file with the classifier that was trained; `evidence` is the SHA-256 of the training pictures
    that the file shows, empty where it shows none.
    """

    precision: str = "float32"
    strays: tuple[float, ...] = ()
    parity: dict[str, Any] = field(default_factory=dict)
    evidence: str = ""
    contract: int = CONTRACT


@dataclass(frozen=True)
class Witness:
    """A training picture as evidence; `thumbnail` is a JPEG in base64, None where the picture was not found."""

    picture: str
    labels: tuple[str, ...]
    thumbnail: str | None = None


def described(model: bytes, card: Card, export: Export, evidence: Sequence[Witness] = ()) -> bytes:
    """The ONNX model with its description at the end: what follows in protobuf is part of the same message.

    `evidence` are the training pictures whose rows the output `nearest` gives, in order.
    """
    # That there is a checksum stands in the file twice, so that it cannot be lost unnoticed.
    told = texts(card, export, evidence, checksum=CHECKSUM) | {DIGEST: digest(model)}
    about = b"".join(protobuf.entry(key, text) for key, text in told.items())
    whole = hashlib.sha256(model)
    whole.update(about)
    return b"".join((model, about, protobuf.entry(CHECKSUM, whole.hexdigest())))


def texts(card: Card, export: Export, evidence: Sequence[Witness] = (), **more: str) -> dict[str, str]:
    """What any exported file says of itself, each text by its name; `more` stands beside the export's entries."""
    shown = {EVIDENCE: json.dumps({"pictures": [asdict(each) for each in evidence]})} if evidence else {}
    export = replace(export, evidence=_sum(shown[EVIDENCE]) if shown else "")
    return {CARD: dump(card), EXPORT: json.dumps(asdict(export) | more)} | shown


def content(path: Path) -> bytes:
    """The bytes of an exported file. Raises ModelError for what is none by its kind or size, OSError as files do."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device may have no end
        if (path / "model.json").is_file():
            raise ModelError(f"it is a saved classifier; `graft export {path} -o model.onnx` makes a file of it")
        raise ModelError("it is no regular file but a folder, a pipe or a device")
    if found.st_size > MOST:
        raise ModelError(f"it has {found.st_size / 1e9:.1f} GB, and an ONNX file holds 2 GB")
    return path.read_bytes()


def read(model: bytes) -> tuple[Card, Export]:
    """The description of an exported file. Raises ModelError and says what is wrong."""
    try:
        told = protobuf.properties(model)
        external = protobuf.external(model)
    except (ValueError, IndexError, KeyError) as error:
        raise ModelError("it is no ONNX file, or not all of it is there") from error
    if missing := [key for key in (CARD, EXPORT) if not told.get(key)]:
        raise ModelError(f"it has no {missing[0]!r} among its properties, so `graft export` did not write it")
    if CHECKSUM in told or CHECKSUM in told[EXPORT]:
        whole = told.get(CHECKSUM) == checksum(model)
    else:
        whole = told.get(DIGEST) == digest(model)
    if not whole:
        raise ModelError("it is damaged: its content is not what was written. Copy it anew, or export again")
    if external:
        raise ModelError("some of its tensors lie in other files, which an export of graft never does")
    return understood(told)


def understood(told: Mapping[str, str]) -> tuple[Card, Export]:
    """The description in such texts. Raises ModelError and says what is wrong."""
    try:
        card, export = parse(told[CARD]), _export(told[EXPORT])
        _sound(card)
    except CardError as error:
        raise ModelError(f"its description cannot be used: {error}") from error
    except (RecursionError, OverflowError) as error:  # of JSON that nests without end, of numbers beyond all
        raise ModelError("its description cannot be used: it is not what graft writes") from error
    return card, export


def fit(card: Card, shapes: Mapping[str, Sequence[Any]]) -> None:
    """Raises ModelError where outputs of these shapes are not those of this card; a side may be free, as a name."""
    for name in (PROBABILITIES, LOGITS, HEAT):
        shape = shapes.get(name, ())
        if name in shapes and (len(shape) < 2 or (isinstance(shape[1], int) and shape[1] != len(card.classes))):
            raise ModelError(f"it names {len(card.classes)} classes, and its output {name!r} has {list(shape)}")


def evidence(model: bytes, export: Export) -> tuple[Witness, ...]:
    """The training pictures that an exported file shows, by the rows that its output `nearest` gives; mostly none.

    Raises ModelError for pictures that are damaged, missing, or not what graft writes.
    """
    if not export.evidence:
        return ()
    text = protobuf.properties(model).get(EVIDENCE, "")
    if _sum(text) != export.evidence:
        raise ModelError(f"its entry {EVIDENCE!r} is damaged, or not there. Copy the file anew, or export again")
    try:
        return tuple(_witness(**each) for each in json.loads(text)["pictures"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"its entry {EVIDENCE!r} is not what graft writes ({error})") from error


def _export(text: str) -> Export:
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise CardError(f"its entry {EXPORT!r} is not JSON ({error})") from error
    if not isinstance(entries, dict) or not isinstance(entries.get("contract"), int):
        raise CardError("it names no contract")
    if entries["contract"] > CONTRACT:
        raise CardError(f"it has contract {entries['contract']}, this version reads up to {CONTRACT}: please update")
    strays, parity, evidence = entries.get("strays", []), entries.get("parity", {}), entries.get("evidence", "")
    if not isinstance(strays, list) or not all(map(_is_number, strays)) or sorted(strays) != strays:
        raise CardError("its strays are no list of numbers, the least first")
    if not isinstance(parity, dict) or not isinstance(evidence, str):
        raise CardError("its parity is no table, or its evidence no text")
    return Export(str(entries.get("precision")), tuple(strays), parity, evidence, entries["contract"])


def _witness(picture: Any, labels: Any, thumbnail: Any) -> Witness:
    if not isinstance(labels, list) or not all(isinstance(text, str) for text in (picture, *labels)):
        raise ValueError("a name that is no text")
    if thumbnail is not None and not BASE64.fullmatch(thumbnail):  # it will stand in a page
        raise ValueError("a thumbnail that is not base64")
    return Witness(picture, tuple(labels), thumbnail)


def _sound(card: Card) -> None:
    """Raises CardError where what no answer can do without is not there, or does not belong together."""
    classes = len(card.classes)
    if not classes or card.head.get("classes", classes) != classes:
        raise CardError(f"it names {classes} classes, and its head is for {card.head.get('classes', 'more')}")
    if missing := [name for name in ("size", "resize") if name not in card.preprocess]:
        raise CardError(f"its preprocessing lacks {missing[0]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def digest(model: bytes) -> str:
    """SHA-256 of the graph of an ONNX file, hexadecimal."""
    whole = hashlib.sha256()
    for number, graph in protobuf.fields(memoryview(model)):
        if number == protobuf.GRAPH:
            whole.update(graph)
    return whole.hexdigest()


def checksum(model: bytes) -> str:
    """SHA-256 of all of the file but the entry that holds it, hexadecimal."""
    view, whole, done = memoryview(model), hashlib.sha256(), 0
    for number, begin, start, end in protobuf.spans(view):
        if (
            number == protobuf.PROPERTY
            and dict(protobuf.fields(view[start:end])).get(protobuf.KEY) == CHECKSUM.encode()
        ):
            whole.update(view[done:begin])
            done = end
    whole.update(view[done:])
    return whole.hexdigest()


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
