"""The metadata of an exported file: written, and read and checked before anything in it is run.

The file is an ONNX model. Its metadata properties hold the card of the classifier (CARD), the fields that only an
export has (EXPORT), the SHA-256 of all else in the file (CHECKSUM) and, optionally, the training images that the
output `nearest` indexes (EVIDENCE), all as text. Older files have a SHA-256 of their graph alone (DIGEST), which is
still written for older readers.
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

MAX_FILE_BYTES = 2**31  # bytes of a file: protobuf's limit


class ModelFileError(ValueError):
    """A file that is no exported classifier, is damaged, or is newer than this version can read."""


@dataclass(frozen=True)
class Export:
    """The fields of an exported file beside the card.

    `precision` is float32 or int8; `strays` are the sorted held-out scores from which
    `decide.unknown_threshold` derives the score above which an image is unknown, empty where the classifier cannot
    detect unknown images; `parity` is the comparison of the file with the trained classifier; `evidence` is the
    SHA-256 of the stored training images, empty where there are none.
    """

    precision: str = "float32"
    strays: tuple[float, ...] = ()
    parity: dict[str, Any] = field(default_factory=dict)
    evidence: str = ""
    contract: int = CONTRACT


@dataclass(frozen=True)
class TrainingImage:
    """A training image stored in an exported file; `thumbnail` is a JPEG in base64, None if the file was missing."""

    image: str
    labels: tuple[str, ...]
    thumbnail: str | None = None


def append_description(model: bytes, card: Card, export: Export, evidence: Sequence[TrainingImage] = ()) -> bytes:
    """Return the ONNX model with its metadata appended: in protobuf, appended fields belong to the same message.

    `evidence` are the training images that the output `nearest` indexes, in order.
    """
    # That there is a checksum stands in the file twice, so that it cannot be lost unnoticed.
    properties = build_properties(card, export, evidence, checksum=CHECKSUM) | {DIGEST: hash_graph(model)}
    about = b"".join(protobuf.encode_property(key, text) for key, text in properties.items())
    sha256 = hashlib.sha256(model)
    sha256.update(about)
    return b"".join((model, about, protobuf.encode_property(CHECKSUM, sha256.hexdigest())))


def build_properties(
    card: Card, export: Export, evidence: Sequence[TrainingImage] = (), **extra: str
) -> dict[str, str]:
    """What any exported file says of itself, each text by its name; `more` stands beside the export's entries."""
    training_images = {EVIDENCE: json.dumps({"images": [asdict(each) for each in evidence]})} if evidence else {}
    export = replace(export, evidence=_hash_text(training_images[EVIDENCE]) if training_images else "")
    return {CARD: dump(card), EXPORT: json.dumps(asdict(export) | extra)} | training_images


def read_file(path: Path) -> bytes:
    """Read the bytes of an exported file. Raises ModelFileError for a wrong kind or size, and OSError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe or a device may have no end
        if (path / "model.json").is_file():
            raise ModelFileError(f"it is a saved classifier; `graft export {path} -o model.onnx` makes a file of it")
        raise ModelFileError("it is no regular file but a folder, a pipe or a device")
    if found.st_size > MAX_FILE_BYTES:
        raise ModelFileError(f"it has {found.st_size / 1e9:.1f} GB, and an ONNX file holds 2 GB")
    return path.read_bytes()


def read_description(model: bytes) -> tuple[Card, Export]:
    """Read and check the metadata of an exported file. Raises ModelFileError with the reason."""
    try:
        properties = protobuf.read_properties(model)
        external = protobuf.has_external_data(model)
    except (ValueError, IndexError, KeyError) as error:
        raise ModelFileError("it is no ONNX file, or not all of it is there") from error
    if missing := [key for key in (CARD, EXPORT) if not properties.get(key)]:
        raise ModelFileError(f"it has no {missing[0]!r} among its properties, so `graft export` did not write it")
    if CHECKSUM in properties or CHECKSUM in properties[EXPORT]:
        whole = properties.get(CHECKSUM) == hash_file(model)
    else:
        whole = properties.get(DIGEST) == hash_graph(model)
    if not whole:
        raise ModelFileError("it is damaged: its content is not what was written. Copy it anew, or export again")
    if external:
        raise ModelFileError("some of its tensors lie in other files, which an export of graft never does")
    return parse_properties(properties)


def parse_properties(properties: Mapping[str, str]) -> tuple[Card, Export]:
    """Parse the metadata properties. Raises ModelFileError with the reason."""
    try:
        card, export = parse(properties[CARD]), _parse_export(properties[EXPORT])
        _check_card(card)
    except CardError as error:
        raise ModelFileError(f"its description cannot be used: {error}") from error
    except (RecursionError, OverflowError) as error:  # of JSON that nests without end, of numbers beyond all
        raise ModelFileError("its description cannot be used: it is not what graft writes") from error
    return card, export


def check_shapes(card: Card, shapes: Mapping[str, Sequence[Any]]) -> None:
    """Raise ModelFileError if these output shapes do not fit the card; a free dimension is a name."""
    for name in (PROBABILITIES, LOGITS, HEAT):
        shape = shapes.get(name, ())
        if name in shapes and (len(shape) < 2 or (isinstance(shape[1], int) and shape[1] != len(card.classes))):
            raise ModelFileError(f"it names {len(card.classes)} classes, and its output {name!r} has {list(shape)}")


def read_training_images(model: bytes, export: Export) -> tuple[TrainingImage, ...]:
    """Read the training images stored in an exported file, as its output `nearest` indexes them; mostly none.

    Raises ModelFileError for images that are damaged, missing, or not what graft writes.
    """
    if not export.evidence:
        return ()
    text = protobuf.read_properties(model).get(EVIDENCE, "")
    if _hash_text(text) != export.evidence:
        raise ModelFileError(f"its entry {EVIDENCE!r} is damaged, or not there. Copy the file anew, or export again")
    try:
        found = json.loads(text)
        return tuple(
            _parse_training_image(**_rename_old_keys(each))
            for each in found["images" if "images" in found else "pictures"]
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError(f"its entry {EVIDENCE!r} is not what graft writes ({error})") from error


def _parse_export(text: str) -> Export:
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


def _rename_old_keys(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry with today's keys: earlier versions wrote `picture` for `image`."""
    return {"image" if key == "picture" else key: value for key, value in entry.items()}


def _parse_training_image(image: Any, labels: Any, thumbnail: Any) -> TrainingImage:
    if not isinstance(labels, list) or not all(isinstance(text, str) for text in (image, *labels)):
        raise ValueError("a name that is no text")
    if thumbnail is not None and not BASE64.fullmatch(thumbnail):  # it will stand in a page
        raise ValueError("a thumbnail that is not base64")
    return TrainingImage(image, tuple(labels), thumbnail)


def _check_card(card: Card) -> None:
    """Raise CardError if a field that prediction needs is missing or inconsistent."""
    classes = len(card.classes)
    if not classes or card.head.get("classes", classes) != classes:
        raise CardError(f"it names {classes} classes, and its head is for {card.head.get('classes', 'more')}")
    if missing := [name for name in ("size", "resize") if name not in card.preprocess]:
        raise CardError(f"its preprocessing lacks {missing[0]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def hash_graph(model: bytes) -> str:
    """Return the SHA-256 of the graph of an ONNX file, hexadecimal."""
    whole = hashlib.sha256()
    for number, graph in protobuf.iter_fields(memoryview(model)):
        if number == protobuf.GRAPH:
            whole.update(graph)
    return whole.hexdigest()


def hash_file(model: bytes) -> str:
    """Return the SHA-256 of the file without the entry that holds it, hexadecimal."""
    view, whole, done = memoryview(model), hashlib.sha256(), 0
    for number, begin, start, end in protobuf.iter_spans(view):
        if (
            number == protobuf.PROPERTY
            and dict(protobuf.iter_fields(view[start:end])).get(protobuf.KEY) == CHECKSUM.encode()
        ):
            whole.update(view[done:begin])
            done = end
    whole.update(view[done:])
    return whole.hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
