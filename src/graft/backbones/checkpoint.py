"""Read weights files with numpy alone: PyTorch's two formats and safetensors. Nothing in the file is executed."""

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

from graft.backbones.pickles import Storage, TensorView, UnsafePickleError, load_pickle
from graft.errors import WeightsError
from graft_runtime import safe_files

MAGIC = 0x1950A86A20F9469CFC6C  # of PyTorch's older format
PROTOCOL = 1001
LARGEST_PICKLE = 64 << 20  # bytes; the pickle of a network of a thousand tensors takes 0.1 MB

# Names of safetensors -> numpy's.
SAFETENSORS_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "|b1"},
}

Tensors = dict[str, NDArray[np.generic]]


def read(path: Path) -> Tensors:
    """Read the tensors of a safetensors or PyTorch file by name, in the file's order, whatever the file's suffix.

    Tensors of bfloat16, which numpy lacks, are returned as float32 of the same values. Tensors that share a storage in
    the file share memory here. Raises WeightsError, with the reason, for a file that holds anything else than tensors
    by name, is truncated, or declares more than it holds; nothing in it is executed.
    """
    try:
        with safe_files.open_regular(path) as stream:
            start = stream.read(9)
            stream.seek(0)
            if start[8:] == b"{":
                return _read_safetensors(stream)
            if start[:4] == b"PK\x03\x04":
                return _build_tensors(*_read_zip(stream))
            if start[:1] == b"\x80":
                return _build_tensors(*_read_legacy(stream))
    except UnsafePickleError as fault:
        raise WeightsError(f"Cannot read weights from {path}: {fault}.") from fault
    except Exception as fault:  # hostile or truncated bytes make the readers raise anything
        reason = str(fault).strip().partition("\n")[0][:200]
        raise WeightsError(f"Cannot read weights from {path}: {type(fault).__name__}: {reason}") from fault
    kind = " It looks like a web page: was it downloaded from the right address?" if start.lstrip()[:1] == b"<" else ""
    raise WeightsError(f"{path} is neither a safetensors nor a PyTorch file.{kind}")


def _read_safetensors(stream: BufferedIOBase) -> Tensors:
    """Read a safetensors file; the library checks that all tensors lie within the file."""
    import safetensors

    found: Tensors = {}
    for name, about in safetensors.deserialize(stream.read()):
        if about["dtype"] not in SAFETENSORS_DTYPES:
            raise UnsafePickleError(
                f"'{name[:80]}' has numbers of kind {about['dtype']}; legal are {', '.join(SAFETENSORS_DTYPES)}"
            )
        kind = SAFETENSORS_DTYPES[about["dtype"]]
        found[name] = _widen_bfloat16(np.frombuffer(about["data"], _numpy_dtype(kind)), kind).reshape(about["shape"])
    return found


def _read_zip(stream: BufferedIOBase) -> tuple[Any, dict[Storage, NDArray[np.generic]]]:
    """Read a file of `torch.save` since PyTorch 1.6: a zip file with the pickle and one entry for each storage."""
    size = _size(stream)
    with zipfile.ZipFile(stream) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise UnsafePickleError(
                f"it is a zip file with {len(pickles)} entries NAME/data.pkl, and PyTorch's have one"
            )
        root = pickles[0].removesuffix("data.pkl")
        if (order := entries.get(f"{root}byteorder")) and _open_entry(archive, order).read(16) != b"little":
            raise UnsafePickleError("its numbers are in the byte order of another machine; save it anew on this one")
        if entries[pickles[0]].file_size > LARGEST_PICKLE:
            raise UnsafePickleError(
                f"its pickle has {entries[pickles[0]].file_size:,} bytes; at most {LARGEST_PICKLE:,} are read"
            )
        with _open_entry(archive, entries[pickles[0]]) as pickle:
            content, _ = load_pickle(pickle, entries[pickles[0]].file_size)
        numbers, left = {}, size
        for storage in _list_storages(content):
            entry = entries.get(f"{root}data/{storage.key}")
            room = storage.count * _numpy_dtype(storage.kind).itemsize
            if entry is None or entry.file_size != room:
                there = "is not there" if entry is None else f"has {entry.file_size:,} bytes"
                raise UnsafePickleError(f"its storage {storage.key[:20]!r} {there} and should have {room:,} bytes")
            left -= room
            if left < 0:  # entries may overlap
                raise UnsafePickleError("it announces more numbers than it has bytes")
            with _open_entry(archive, entry) as part:
                numbers[storage] = _read_storage(part, storage)
    return content, numbers


def _open_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> BufferedIOBase:
    """Open an uncompressed entry; a compressed one could expand to a thousand times its size."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise UnsafePickleError(f"its entry {entry.filename[-40:]!r} is compressed, which PyTorch's never are")
    return cast(BufferedIOBase, archive.open(entry))


def _read_legacy(stream: BufferedIOBase) -> tuple[Any, dict[Storage, NDArray[np.generic]]]:
    """Read a file of `torch.save` before PyTorch 1.6: five pickles, then one storage after the other."""
    size = _size(stream)
    if load_pickle(stream, min(size, 64))[0] != MAGIC:
        raise UnsafePickleError("it is a pickle, but none of PyTorch's")
    if load_pickle(stream, size)[0] != PROTOCOL:
        raise UnsafePickleError(f"it is of another protocol than {PROTOCOL}")
    system = load_pickle(stream, size)[0]
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnsafePickleError("its numbers are in the byte order of another machine; save it anew on this one")
    content, storages = load_pickle(stream, min(size, LARGEST_PICKLE))
    needed = _list_storages(content)
    keys, _ = load_pickle(stream, min(size, LARGEST_PICKLE))
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or set(keys) != storages.keys():
        raise UnsafePickleError("it holds other storages than it names")
    numbers = {}
    for key in keys:
        head, storage = stream.read(8), storages[key]
        room = storage.count * _numpy_dtype(storage.kind).itemsize
        if len(head) < 8 or room > size - stream.tell():
            raise UnsafePickleError("it ends too early")
        if head != struct.pack("<q", storage.count):
            raise UnsafePickleError(
                f"its storage {key[:20]!r} does not have the {storage.count:,} numbers that it should"
            )
        if storage in needed:
            numbers[storage] = _read_storage(stream, storage)
        else:
            stream.seek(room, os.SEEK_CUR)
    return content, numbers


def _build_tensors(content: Any, numbers: dict[Storage, NDArray[np.generic]]) -> Tensors:
    """Return the tensors of a state dict, bare or wrapped as by training scripts, without the prefix 'module.'."""
    found: Tensors = {}
    for name, view in _find_state_dict(content).items():
        row = numbers[view.storage]
        steps = [step * row.itemsize for step in view.strides]
        name = str(name).removeprefix("module.")
        if name in found:
            raise UnsafePickleError(f"it holds two tensors named '{name[:80]}'")
        within = row[view.offset :] if 0 not in view.shape else row[:0]
        # `pickles` has checked that the view lies within its storage.
        found[name] = np.lib.stride_tricks.as_strided(within, view.shape, steps)
    return found


def _find_state_dict(content: Any) -> Mapping[Any, TensorView]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(each, TensorView) for each in content.values()):
        raise UnsafePickleError("it holds something else than tensors by name")
    return content


def _list_storages(content: Any) -> list[Storage]:
    """Return the storages of the state dict, each once; whatever else a training script saved is not read."""
    return list(dict.fromkeys(view.storage for view in _find_state_dict(content).values()))


def _read_storage(stream: BufferedIOBase, storage: Storage) -> NDArray[np.generic]:
    row = np.empty(storage.count, _numpy_dtype(storage.kind))
    whole, at = row.view(np.uint8).data, 0
    while at < len(whole):
        count = stream.readinto(whole[at:])
        if not count:
            raise UnsafePickleError("it ends too early")
        at += count
    return _widen_bfloat16(row, storage.kind)


def _numpy_dtype(kind: str) -> np.dtype:
    return np.dtype("<u2" if kind == "bfloat16" else kind)


def _widen_bfloat16(row: NDArray[np.generic], kind: str) -> NDArray[np.generic]:
    """Convert bfloat16, the upper half of float32, to float32; other types stay."""
    return (row.astype("<u4") << 16).view("<f4") if kind == "bfloat16" else row


def _size(stream: BufferedIOBase) -> int:
    return os.fstat(stream.fileno()).st_size
