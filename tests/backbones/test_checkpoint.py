"""Weights read with numpy alone: the same numbers as PyTorch reads, and nothing that a hostile file would like."""

import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from graft.backbones import catalog, checkpoint, pickles
from graft.backbones.checkpoint import read
from graft.backbones.weights import find_local
from graft.errors import WeightsError
from graft.torch import build

OLD = {"_use_new_zipfile_serialization": False}
FORMATS = [pytest.param({}, id="zip"), pytest.param(OLD, id="old")]


def assert_same(path: Path) -> None:
    """Equal to what PyTorch reads, number for number; bfloat16 as float32 of the same values."""
    want, got = build.read_tensors(path), read(path)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        expected = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        assert (got[name].dtype, got[name].shape) == (expected.dtype, expected.shape), name
        np.testing.assert_array_equal(got[name], expected)


def state() -> dict[str, Any]:
    """Tensors of every legal kind and layout."""
    torch.manual_seed(0)
    base = torch.randn(6, 5)
    found: dict[str, Any] = {"plain": base, "turned": base.T, "part": base[2:4, 1:], "every": base[::2]}
    for kind in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
        found[kind] = torch.randint(0, 2, (3, 2)).to(getattr(torch, kind))
    return found | {
        "scalar": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }


@pytest.mark.parametrize("options", FORMATS)
def test_every_kind_and_layout(options: dict[str, bool], tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "weights.pth", **options)
    assert_same(tmp_path / "weights.pth")
    assert list(read(tmp_path / "weights.pth")) == list(state())


def test_safetensors(tmp_path: Path) -> None:
    given = {name: tensor.detach().contiguous() for name, tensor in state().items()}
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in given.items()}, tmp_path / "a.safetensors")
    assert_same(tmp_path / "a.safetensors")
    safetensors.torch.save_file({"eight": torch.ones(2, dtype=torch.float8_e4m3fn)}, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"b\.safetensors: 'eight' has numbers of kind F8_E4M3; legal are F64, F32"):
        read(tmp_path / "b.safetensors")


@pytest.mark.parametrize("options", FORMATS)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda each: OrderedDict(each),
        lambda each: {"state_dict": each, "epoch": 3, "loss": 0.5, "names": ["a", None, True], "best": (1, "b", -9)},
        lambda each: {"model": {f"module.{name}": tensor for name, tensor in each.items()}},
        lambda each: {"state_dict": each, "optimizer": {"momentum": {0: torch.ones(9)}}},  # not read, stepped over
    ],
)
def test_wrapped_as_training_scripts_do(wrap: Callable[..., Any], options: dict[str, bool], tmp_path: Path) -> None:
    torch.save(wrap(state()), tmp_path / "weights.pth", **options)
    assert_same(tmp_path / "weights.pth")
    assert list(read(tmp_path / "weights.pth")) == list(state())


@pytest.mark.parametrize("options", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle(protocol: int, options: dict[str, bool], tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(network.state_dict(), tmp_path / "weights.pth", pickle_protocol=protocol, **options)
    got = read(tmp_path / "weights.pth")
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(got[name], tensor.numpy())


def test_the_arrays_may_be_written_to(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "weights.pth")
    read(tmp_path / "weights.pth")["a"][:] = 2  # torch.from_numpy would warn otherwise


def test_the_package(tmp_path: Path) -> None:
    source = find_local(catalog.find_entry("tf_efficientnet_lite0"))
    assert source is not None
    assert source.where == "embedded"
    assert source.path is not None
    assert_same(source.path)


def test_real_files(shared: Path) -> None:
    found = sorted(shared.glob("weights/*.safetensors"))
    if not found:
        pytest.skip("needs real weights in shared/weights")
    for path in found:
        assert_same(path)


# --- what is refused --------------------------------------------------------------------------------------------------


class Stored:
    """Pickled as a reference to a storage."""

    def __init__(self, count: int, key: str = "0", kind: Any = torch.FloatStorage) -> None:
        self.told = ("storage", kind, key, "cpu", count)


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.call = function, given

    def __reduce__(self) -> Any:
        return self.call


def tensor(count: int, offset: Any, shape: Any, strides: Any) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, Stored(count), offset, shape, strides, False, OrderedDict())


def pickle_of(content: Any) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return obj.told if isinstance(obj, Stored) else None

    found = io.BytesIO()
    Pickler(found, 2).dump(content)
    return found.getvalue()


def zipped(path: Path, data: bytes, numbers: bytes = b"\0" * 16, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", numbers)


def in_a_row(path: Path, data: bytes, numbers: bytes = b"\0" * 16) -> None:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = b"".join(pickle_of(each) for each in (checkpoint.MAGIC, checkpoint.PROTOCOL, system))
    path.write_bytes(head + data + pickle_of(["0"]) + struct.pack("<q", len(numbers) // 4) + numbers)


WRITERS = [pytest.param(zipped, id="zip"), pytest.param(in_a_row, id="old")]
HOSTILE = {
    "a shell": (Call(os.system, "touch ran"), r"it names posix\.system"),
    "eval": ({"a": Call(eval, "open('ran', 'w')")}, r"it names \w+\.eval"),
    "an object": ({"a": Path("x")}, r"it names pathlib\.\w+"),
    "numpy": ({"a": np.ones(3)}, r"it names numpy\S*\._?\w+, which has no place in a file of weights"),
    "torch itself": (Call(torch.load, "x"), r"it names torch\.serialization\.load"),
    "too short": ({"a": tensor(4, 0, (5,), (1,))}, r"tensor of shape \[5\], which needs more than the 4 numbers"),
    "past the end": ({"a": tensor(4, 2, (3,), (1,))}, r"needs more than the 4 numbers"),
    "wide steps": ({"a": tensor(4, 0, (2, 2), (3, 1))}, r"needs more than the 4 numbers"),
    "before the start": ({"a": tensor(4, -1, (2,), (1,))}, r"at -1"),
    "backwards": ({"a": tensor(4, 3, (4,), (-1,))}, r"strides \(-1,\)"),
    "a negative shape": ({"a": tensor(4, 0, (-4,), (1,))}, r"shape \(-4,\)"),
    "one number many times": ({"a": tensor(4, 0, (10**12,), (0,))}, r"needs more than the 4 numbers"),
    "beyond 64 bits": ({"a": tensor(4, 0, (2**80,), (0,))}, r"shape \(1208925819614629174706176,\)"),
    "half a number": ({"a": tensor(4, 0, (1.5,), (1,))}, r"shape \(1\.5,\)"),
    "too many dimensions": ({"a": tensor(4, 0, (1,) * 100, (1,) * 100)}, r"100 dimensions"),
    "missing strides": ({"a": tensor(4, 0, (2, 2), (1,))}, r"2 dimensions and 1 strides"),
    "no storage": ({"a": Call(torch._utils._rebuild_tensor_v2, 1, 0, (1,), (1,))}, r"without a storage"),
    "a huge storage": ({"a": tensor(2**60, 0, (4,), (1,))}, r"storage '0' has 16 bytes|ends too early"),
    "a negative storage": ({"a": tensor(-4, 0, (0,), (1,))}, r"a storage that cannot be"),
    "another kind": (
        {"a": Call(torch._utils._rebuild_tensor_v2, Stored(2, kind=torch.ComplexFloatStorage), 0, (2,), (1,))},
        r"numbers of kind torch\.ComplexFloatStorage; legal are DoubleStorage, FloatStorage",
    ),
    "no tensors": ({"a": 3}, r"it holds something else than tensors by name"),
    "a bare tensor": (tensor(4, 0, (4,), (1,)), r"it holds something else than tensors by name"),
    "a number": (5, r"it holds something else than tensors by name"),
    "twice the same": ({each: tensor(4, 0, (4,), (1,)) for each in ("a", "module.a")}, r"two tensors named 'a'"),
    "a tuple as a name": ({(1, 2): tensor(4, 0, (4,), (1,))}, r"a tuple as a name"),
    "arguments": ({"a": Call(OrderedDict, [("b", 1)])}, r"its pickle is damaged"),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file(kind: str, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = HOSTILE[kind]
    write(tmp_path / "weights.pth", pickle_of(content))
    with pytest.raises(WeightsError, match=rf"Cannot read weights from .*weights\.pth: .*({message})"):
        read(tmp_path / "weights.pth")
    assert [each.name for each in tmp_path.iterdir()] == ["weights.pth"], "something was run"


@pytest.mark.parametrize("write", WRITERS)
def test_what_is_written_here_by_hand_is_read(write: Callable[..., None], tmp_path: Path) -> None:
    """Else the tests above would refuse for another reason."""
    write(tmp_path / "weights.pth", pickle_of({"a": tensor(4, 1, (3,), (1,))}), np.float32([1, 2, 3, 4]).tobytes())
    np.testing.assert_array_equal(read(tmp_path / "weights.pth")["a"], [2, 3, 4])


BOMBS = {
    "a place far out in the memory": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a text of 4 GB": b"\x80\x02X\xff\xff\xff\xffabc.",
    "a text of 2^63 bytes": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a text of minus one byte": b"\x80\x02T\xff\xff\xff\xffabc.",
    "bytes": b"\x80\x03B\xff\xff\xff\xffabc.",
    "a bytearray": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "a number of 2 GB": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a frame of 2^63 bytes": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN.",
    "endless dictionaries": b"\x80\x02" + b"}" * 60_000 + b".",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 40_000 + b".",
    "doubled": b"\x80\x02(" + b"(" * 100 + b"2" * 60_000 + b".",
    "extensions": b"\x80\x02\x82\x01.",
    "instances": b"(iposix\nsystem\n.",
    "no end": b"\x80\x02",
    "an empty stack": b"\x80\x02.",
    "a mark for a value": b"\x80\x02(.",
}


@pytest.mark.slow
@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb(kind: str, write: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_STEPS", 50_000)  # a million take seconds while memory is traced
    write(tmp_path / "weights.pth", BOMBS[kind])
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=r"Cannot read weights from .*weights\.pth: its? "):
            read(tmp_path / "weights.pth")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("write", WRITERS)
def test_cut_off_anywhere(write: Callable[..., None], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    write(path, pickle_of({"a": tensor(4, 0, (4,), (1,))}))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"weights\.pth"):
            read(path)


@pytest.mark.parametrize("options", FORMATS)
def test_any_byte_changed(options: dict[str, bool], tmp_path: Path) -> None:
    """Whatever comes, it is tensors or a WeightsError."""
    path, rng = tmp_path / "weights.pth", np.random.default_rng(0)
    torch.save({"weight": torch.ones(2, 2), "bias": torch.zeros(2)}, path, **options)
    whole = path.read_bytes()
    for _ in range(500):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(changed)
        with contextlib.suppress(WeightsError):
            assert all(isinstance(each, np.ndarray) for each in read(path).values())


def test_a_compressed_entry_is_refused(tmp_path: Path) -> None:
    content = pickle_of({"a": tensor(10**7, 0, (10**7,), (1,))})
    zipped(tmp_path / "weights.pth", content, b"\0" * 4 * 10**7, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"is compressed, which PyTorch's never are"):
        read(tmp_path / "weights.pth")


def test_entries_that_overlap_are_no_more_than_the_file(tmp_path: Path) -> None:
    """A thousand entries that all say that they are the same megabyte."""
    path, several = tmp_path / "weights.pth", 50
    with zipfile.ZipFile(path, "w") as archive:
        each = {
            f"t{key}": Call(torch._utils._rebuild_tensor_v2, Stored(2500, str(key)), 0, (2500,), (1,), False, None)
            for key in range(several)
        }
        archive.writestr("archive/data.pkl", pickle_of(each))
        archive.writestr("archive/data/0", bytes(10_000))
        for key in range(1, several):
            again = zipfile.ZipInfo(f"archive/data/{key}")
            first = archive.getinfo("archive/data/0")
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
            archive.filelist.append(again)
    with pytest.raises(WeightsError, match=r"more numbers than it has bytes|differ|[Oo]verlap"):
        read(path)


def test_damaged_numbers_are_found_by_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.full((100,), 1.5)}, path)
    path.write_bytes(path.read_bytes().replace(np.float32(1.5).tobytes() * 100, np.float32(2.5).tobytes() * 100))
    with pytest.raises(WeightsError, match=r"Bad CRC-32"):
        read(path)


def test_other_files(tmp_path: Path) -> None:
    for content, message in (
        (b"<!doctype html><html>", r"neither a safetensors nor a PyTorch file\. It looks like a web page"),
        (b"", r"neither a safetensors nor a PyTorch file\.$"),
        (struct.pack("<q", 2**50) + b'{"a":', r"Cannot read weights from .*: SafetensorError"),
        (pickle_of({"a": 1}), r"it is a pickle, but none of PyTorch's"),
    ):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read(tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(WeightsError, match=r"a zip file with 0 entries NAME/data\.pkl"):
        read(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match=r"a pipe, and no file"):
        read(tmp_path / "pipe")


def test_the_steps_are_those_of_pickle() -> None:
    """A slip in the table would be another step."""
    for name in ("MARK", "POP", "NONE", "BININT", "BINFLOAT", "TUPLE", "SETITEMS", "REDUCE", "BUILD", "STACK_GLOBAL"):
        assert getattr(pickle, name)[0] in pickles._OPCODES
    for name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BYTEARRAY8", "NEXT_BUFFER"):
        assert getattr(pickle, name)[0] not in pickles._OPCODES
