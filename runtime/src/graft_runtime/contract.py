"""What an exported file says of itself, read before anything in it is run.

The file is an ONNX model. Its metadata properties hold the card of the classifier (CARD), what only an export has
(EXPORT), the SHA-256 of the graph (DIGEST) and, where it was asked for, the training pictures that `nearest` counts
(EVIDENCE), all as text. ONNX is protobuf, of which few lines are enough here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from graft_runtime.card import Card, CardError, dump, parse

CONTRACT = 1  # of inputs, outputs and properties; docs/client.md
CARD, EXPORT, DIGEST, EVIDENCE = "graft.card", "graft.export", "graft.sha256", "graft.evidence"
IMAGE = "image"  # the input
OUTPUTS = ("probabilities", "unknown", "logits", "map", "heat", "nearest", "similarity")
PROBABILITIES, UNKNOWN, LOGITS, MAP, HEAT, NEAREST, SIMILARITY = OUTPUTS

BASE64 = re.compile("[A-Za-z0-9+/]+={0,2}")

_GRAPH, _PROPERTY, _KEY, _VALUE = 7, 14, 1, 2  # numbers of fields in onnx.proto: of a model, of an entry
_INITIALIZER, _EXTERNAL = 5, 13  # of a graph, of a tensor


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
    told = texts(card, export, evidence) | {DIGEST: digest(model)}
    pairs = [_entry(_KEY, key.encode()) + _entry(_VALUE, text.encode()) for key, text in told.items()]
    return model + b"".join(_entry(_PROPERTY, pair) for pair in pairs)


def texts(card: Card, export: Export, evidence: Sequence[Witness] = ()) -> dict[str, str]:
    """What any exported file says of itself, each text by its name."""
    shown = {EVIDENCE: json.dumps({"pictures": [asdict(each) for each in evidence]})} if evidence else {}
    export = replace(export, evidence=_sum(shown[EVIDENCE]) if shown else "")
    return {CARD: dump(card), EXPORT: json.dumps(asdict(export))} | shown


def read(model: bytes) -> tuple[Card, Export]:
    """The description of an exported file. Raises ModelError and says what is wrong."""
    try:
        told = _properties(model)
        external = any(True for _ in _external(model))
    except (ValueError, IndexError, KeyError) as error:
        raise ModelError("it is no ONNX file, or not all of it is there") from error
    found = understood(told)
    if external:
        raise ModelError("some of its tensors lie in other files, which an export of graft never does")
    if told.get(DIGEST) != digest(model):
        raise ModelError("it is damaged: its graph is not the one that was written. Copy it anew, or export again")
    return found


def understood(told: Mapping[str, str]) -> tuple[Card, Export]:
    """The description in such texts. Raises ModelError and says what is wrong."""
    if missing := [key for key in (CARD, EXPORT) if not told.get(key)]:
        raise ModelError(f"it has no {missing[0]!r} among its properties, so `graft export` did not write it")
    try:
        return parse(told[CARD]), _export(told[EXPORT])
    except CardError as error:
        raise ModelError(f"its description cannot be used: {error}") from error


def evidence(model: bytes, export: Export) -> tuple[Witness, ...]:
    """The training pictures that an exported file shows, by the rows that its output `nearest` gives; mostly none.

    Raises ModelError for pictures that are damaged, missing, or not what graft writes.
    """
    if not export.evidence:
        return ()
    text = _properties(model).get(EVIDENCE, "")
    if _sum(text) != export.evidence:
        raise ModelError(f"its entry {EVIDENCE!r} is damaged, or not there. Copy the file anew, or export again")
    try:
        return tuple(_witness(**each) for each in json.loads(text)["pictures"])
    except (ValueError, TypeError, KeyError) as error:
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
    if not isinstance(strays, list) or not all(isinstance(each, int | float) for each in strays):
        raise CardError("its strays are no list of numbers")
    if not isinstance(parity, dict) or not isinstance(evidence, str):
        raise CardError("its parity is no table, or its evidence no text")
    return Export(str(entries.get("precision")), tuple(strays), parity, evidence, entries["contract"])


def _witness(picture: Any, labels: Any, thumbnail: Any) -> Witness:
    if not isinstance(labels, list) or not all(isinstance(text, str) for text in (picture, *labels)):
        raise ValueError("a name that is no text")
    if thumbnail is not None and not BASE64.fullmatch(thumbnail):  # it will stand in a page
        raise ValueError("a thumbnail that is not base64")
    return Witness(picture, tuple(labels), thumbnail)


def _properties(model: bytes) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, entry in _fields(memoryview(model)):
        if number == _PROPERTY:
            found = {own: bytes(value) for own, value in _fields(entry)}
            texts[found[_KEY].decode()] = found.get(_VALUE, b"").decode()
    return texts


def _external(model: bytes) -> Iterator[memoryview]:
    """The tensors of the graph that say that their numbers lie elsewhere."""
    for number, graph in _fields(memoryview(model)):
        for own, tensor in _fields(graph) if number == _GRAPH else ():
            if own == _INITIALIZER:
                yield from (place for part, place in _fields(tensor) if part == _EXTERNAL)


def digest(model: bytes) -> str:
    """SHA-256 of the graph of an ONNX file, hexadecimal."""
    whole = hashlib.sha256()
    for number, graph in _fields(memoryview(model)):
        if number == _GRAPH:
            whole.update(graph)
    return whole.hexdigest()


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of each field that has a length. Raises ValueError or IndexError for what is no message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            _, at = _varint(message, at)
        elif key & 7 in (1, 5):
            at += 8 if key & 7 == 1 else 4
        elif key & 7 == 2:
            length, at = _varint(message, at)
            yield key >> 3, message[at : at + length]
            at += length
        else:
            raise ValueError("no such kind of field")
    if at > len(message):
        raise ValueError("the last field is cut off")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """(number, place after it); seven bits a byte, the lowest first."""
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _entry(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _number(value: int) -> bytes:
    low = value & 127
    return bytes([low]) if value < 128 else bytes([low | 128]) + _number(value >> 7)
