"""Weights from a file with numpy alone: PyTorch's two formats and safetensors. Nothing in the file is ever executed."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from graft.backbones.pickled import Refused, Storage, View, load
from graft.errors import WeightsError
from graft_runtime import regular

MAGIC = 0x1950A86A20F9469CFC6C  # of the older of PyTorch's formats
PROTOCOL = 1001
LARGEST_PICKLE = 64 << 20  # bytes; that of a network of a thousand tensors has a tenth of a megabyte

# Names of safetensors -> numpy's.
SAFE = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "|b1"},
}

Tensors = dict[str, NDArray[np.generic]]


def read(path: Path) -> Tensors:
    """The tensors of a safetensors or PyTorch file by name, in the file's order, whatever the name of the file.

    Tensors of bfloat16, which numpy does not have, come as float32 of the same values. Two that share their numbers in
    the file share them here. Raises WeightsError, with the reason, for a file that holds anything else than tensors by
    name, that is cut off, or that announces what it does not hold; none of it is run.
    """
    try:
        with regular.opened(path) as stream:
            start = stream.read(9)
            stream.seek(0)
            if start[8:] == b"{":
                return _safe(stream)
            if start[:4] == b"PK\x03\x04":
                return _arrays(*_zipped(stream))
            if start[:1] == b"\x80":
                return _arrays(*_in_a_row(stream))
    except Refused as fault:
        raise WeightsError(f"Cannot read weights from {path}: {fault}.") from fault
    except Exception as fault:  # hostile or cut-off bytes make the readers raise anything
        reason = str(fault).strip().partition("\n")[0][:200]
        raise WeightsError(f"Cannot read weights from {path}: {type(fault).__name__}: {reason}") from fault
    kind = " It looks like a web page: was it downloaded from the right address?" if start.lstrip()[:1] == b"<" else ""
    raise WeightsError(f"{path} is neither a safetensors nor a PyTorch file.{kind}")


def _safe(stream: BufferedIOBase) -> Tensors:
    """Of safetensors, whose own reader checks that all is within the file."""
    import safetensors

    found: Tensors = {}
    for name, about in safetensors.deserialize(stream.read()):
        if about["dtype"] not in SAFE:
            raise Refused(f"'{name[:80]}' has numbers of kind {about['dtype']}; legal are {', '.join(SAFE)}")
        kind = SAFE[about["dtype"]]
        found[name] = _widened(np.frombuffer(about["data"], _dtype(kind)), kind).reshape(about["shape"])
    return found


def _zipped(stream: BufferedIOBase) -> tuple[Any, dict[Storage, NDArray[np.generic]]]:
    """Of `torch.save` since PyTorch 1.6: a zip file with the pickle and one entry for each storage."""
    size = _size(stream)
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise Refused(f"it is a zip file with {len(pickles)} entries NAME/data.pkl, and PyTorch's have one")
        root = pickles[0].removesuffix("data.pkl")
        if (order := entries.get(f"{root}byteorder")) and _opened(archive, order).read(16) != b"little":
            raise Refused("its numbers are in the byte order of another machine; save it anew on this one")
        if entries[pickles[0]].file_size > LARGEST_PICKLE:
            raise Refused(
                f"its pickle has {entries[pickles[0]].file_size:,} bytes; at most {LARGEST_PICKLE:,} are read"
            )
        with _opened(archive, entries[pickles[0]]) as pickle:
            content, _ = load(pickle, entries[pickles[0]].file_size)
        numbers, left = {}, size
        for storage in _storages(content):
            entry = entries.get(f"{root}data/{storage.key}")
            room = storage.count * _dtype(storage.kind).itemsize
            if entry is None or entry.file_size != room:
                there = "is not there" if entry is None else f"has {entry.file_size:,} bytes"
                raise Refused(f"its storage {storage.key[:20]!r} {there} and should have {room:,} bytes")
            left -= room
            if left < 0:  # entries may overlap
                raise Refused("it announces more numbers than it has bytes")
            with _opened(archive, entry) as part:
                numbers[storage] = _numbers(part, storage)
    return content, numbers


def _opened(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> BufferedIOBase:
    """An entry as it stands in the file: a compressed one could be a thousand times its size."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise Refused(f"its entry {entry.filename[-40:]!r} is compressed, which PyTorch's never are")
    return cast(BufferedIOBase, archive.open(entry))


def _in_a_row(stream: BufferedIOBase) -> tuple[Any, dict[Storage, NDArray[np.generic]]]:
    """Of `torch.save` before PyTorch 1.6: five pickles, then the numbers of one storage after the other."""
    size = _size(stream)
    if load(stream, min(size, 64))[0] != MAGIC:
        raise Refused("it is a pickle, but none of PyTorch's")
    if load(stream, size)[0] != PROTOCOL:
        raise Refused(f"it is of another protocol than {PROTOCOL}")
    system = load(stream, size)[0]
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("its numbers are in the byte order of another machine; save it anew on this one")
    content, storages = load(stream, min(size, LARGEST_PICKLE))
    needed = _storages(content)
    keys, _ = load(stream, min(size, LARGEST_PICKLE))
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or set(keys) != storages.keys():
        raise Refused("it holds other storages than it names")
    numbers = {}
    for key in keys:
        head, storage = stream.read(8), storages[key]
        room = storage.count * _dtype(storage.kind).itemsize
        if len(head) < 8 or room > size - stream.tell():
            raise Refused("it ends too early")
        if head != struct.pack("<q", storage.count):
            raise Refused(f"its storage {key[:20]!r} does not have the {storage.count:,} numbers that it should")
        if storage in needed:
            numbers[storage] = _numbers(stream, storage)
        else:
            stream.seek(room, os.SEEK_CUR)
    return content, numbers


def _arrays(content: Any, numbers: dict[Storage, NDArray[np.generic]]) -> Tensors:
    """The tensors by name: bare, or wrapped as training scripts do, with or without 'module.' before each name."""
    found: Tensors = {}
    for name, view in _state(content).items():
        row = numbers[view.storage]
        steps = [step * row.itemsize for step in view.strides]
        name = str(name).removeprefix("module.")
        if name in found:
            raise Refused(f"it holds two tensors named '{name[:80]}'")
        within = row[view.offset :] if 0 not in view.shape else row[:0]
        # Whether it lies within its storage, `pickled` has checked.
        found[name] = np.lib.stride_tricks.as_strided(within, view.shape, steps)
    return found


def _state(content: Any) -> Mapping[Any, View]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(each, View) for each in content.values()):
        raise Refused("it holds something else than tensors by name")
    return content


def _storages(content: Any) -> list[Storage]:
    """The storages that the tensors need, each once; what else a training script kept is not read."""
    return list(dict.fromkeys(view.storage for view in _state(content).values()))


def _numbers(stream: BufferedIOBase, storage: Storage) -> NDArray[np.generic]:
    row = np.empty(storage.count, _dtype(storage.kind))
    whole, at = row.view(np.uint8).data, 0
    while at < len(whole):
        count = stream.readinto(whole[at:])
        if not count:
            raise Refused("it ends too early")
        at += count
    return _widened(row, storage.kind)


def _dtype(kind: str) -> np.dtype:
    return np.dtype("<u2" if kind == "bfloat16" else kind)


def _widened(row: NDArray[np.generic], kind: str) -> NDArray[np.generic]:
    """bfloat16 is the upper half of float32."""
    return (row.astype("<u4") << 16).view("<f4") if kind == "bfloat16" else row


def _size(stream: BufferedIOBase) -> int:
    return os.fstat(stream.fileno()).st_size
