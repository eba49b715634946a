"""A restricted unpickler for PyTorch weights: numbers, texts, containers and tensors, and nothing else.

Python's own unpickler imports and calls what a file names, and allocates what a file declares. This one imports and
calls nothing: a name in the file is looked up in a table, and unknown names are refused. Its output is limited by the
number of steps, and no text is longer than the file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any

MAX_STEPS = 1_000_000  # a tensor takes about 40; the largest networks have a few thousand
MAX_TEXT_BYTES = 1 << 20  # bytes of a text
MAX_DIMENSIONS = 32  # of a tensor; numpy has 64 at most
MAX_INT_BYTES = 16  # bytes of a whole number; the longest in a real file has 10

# Storage types of PyTorch -> names of dtypes in numpy.
STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}


class UnsafePickleError(ValueError):
    """The file is not a pickle, or holds something that weights do not need."""


@dataclass(frozen=True)
class GlobalName:
    """A global name in the file; only those in _CALLABLES and storage types are legal."""

    module: str
    name: str


@dataclass(frozen=True)
class Storage:
    """A storage: a flat array, elsewhere in the file."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True)
class TensorView:
    """A tensor as a view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_MARK = object()


def load_pickle(stream: BufferedIOBase, size: int) -> tuple[Any, dict[str, Storage]]:
    """Read the next object of the stream, of at most `size` bytes; return it with all storages that it names.

    Raises UnsafePickleError.
    """
    machine = _PickleReader(stream, size)
    try:
        return machine.run(), machine.storages
    except (IndexError, KeyError, TypeError, ValueError, struct.error, RecursionError) as fault:
        if isinstance(fault, UnsafePickleError):
            raise
        raise UnsafePickleError(f"its pickle is damaged ({type(fault).__name__})") from fault


class _PickleReader:
    """The pickle machine: the stack and the memo of one pickle."""

    def __init__(self, stream: BufferedIOBase, size: int) -> None:
        self.stream, self.remaining = stream, size
        self.storages: dict[str, Storage] = {}
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self.read_bytes(1)[0]
            if code == 0x2E:  # STOP
                return self.pop()
            step = _OPCODES.get(code)
            if step is None:
                raise UnsafePickleError(f"its pickle has the step {bytes([code])!r}, which no file of weights needs")
            step(self)
        raise UnsafePickleError(f"its pickle has more than {MAX_STEPS:,} steps")

    def read_bytes(self, count: int) -> bytes:
        if not 0 <= count <= self.remaining:
            raise UnsafePickleError("it ends too early")
        found = self.stream.read(count)
        if len(found) != count:
            raise UnsafePickleError("it ends too early")
        self.remaining -= count
        return found

    def read_number(self, form: str) -> Any:
        return struct.unpack(form, self.read_bytes(struct.calcsize(form)))[0]

    def read_line(self) -> str:
        found = self.stream.readline(MAX_TEXT_BYTES)
        self.remaining -= len(found)
        if not found.endswith(b"\n"):
            raise UnsafePickleError("it ends within a name")
        return found[:-1].decode()

    def read_text(self, form: str) -> str:
        count = self.read_number(form)
        if not 0 <= count <= MAX_TEXT_BYTES:
            raise UnsafePickleError(f"it announces a text of {count:,} bytes")
        return self.read_bytes(count).decode()

    def read_int(self, form: str) -> int:
        count = self.read_number(form)
        if not 0 <= count <= MAX_INT_BYTES:
            raise UnsafePickleError(f"it announces a number of {count:,} bytes")
        return int.from_bytes(self.read_bytes(count), "little", signed=True)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise UnsafePickleError("its pickle is damaged (a mark in the place of a value)")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise UnsafePickleError("its pickle is damaged (no mark)")

    def memoize(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise UnsafePickleError("its pickle is damaged (no list)")
        self.stack[-1].extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        into = self.stack[-1]
        if type(into) is not dict or len(pairs) % 2:
            raise UnsafePickleError("its pickle is damaged (no dictionary)")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in (str, int, float, bool):  # hashing nested tuples could exhaust the C stack
                raise UnsafePickleError(f"it has a {type(key).__name__} as a name")
            into[key] = value

    def build(self) -> None:
        """Drop the attributes of a dictionary: PyTorch's versions of layers, which are not needed."""
        state = self.pop()
        if type(self.stack[-1]) is not dict or type(state) is not dict:
            raise UnsafePickleError("it sets the state of an object")

    def push_call(self) -> None:
        given, name = self.pop(), self.pop()
        if not isinstance(name, GlobalName) or type(given) is not tuple:
            raise UnsafePickleError("it calls something that is no function")
        self.push(_CALLABLES[name](*given) if name in _CALLABLES else _refuse(name))

    def push_storage(self) -> None:
        given = self.pop()
        if type(given) is not tuple or len(given) < 5 or given[0] != "storage" or not isinstance(given[1], GlobalName):
            raise UnsafePickleError("it refers to something that is no storage")
        kind, key, count = given[1], given[2], given[4]
        if len(given) > 5 and given[5] is not None:
            raise UnsafePickleError(
                "it holds views of storages, as PyTorch wrote them before version 0.4; save it anew"
            )
        if kind.module not in ("torch", "torch.storage") or kind.name not in STORAGE_DTYPES:
            raise UnsafePickleError(
                f"it holds numbers of kind {kind.module}.{kind.name}; legal are {', '.join(STORAGE_DTYPES)}"
            )
        if type(key) is not str or type(count) is not int or count < 0:
            raise UnsafePickleError("it names a storage that cannot be")
        found = Storage(STORAGE_DTYPES[kind.name], key, count)
        if self.storages.setdefault(key, found) != found:
            raise UnsafePickleError(f"it says two things of the storage {key[:20]!r}")
        self.push(found)

    def push_global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise UnsafePickleError("it names something that is no name")
        found = GlobalName(module, name)
        if found not in _CALLABLES and not (module in ("torch", "torch.storage") and name.endswith("Storage")):
            _refuse(found)
        self.push(found)


def _refuse(name: GlobalName) -> Any:
    raise UnsafePickleError(f"it names {name.module[:80]}.{name.name[:80]}, which has no place in a file of weights")


def _new_dict() -> dict[Any, Any]:
    return {}


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> TensorView:
    """Return the tensor that the file describes; raises UnsafePickleError where it exceeds its storage."""
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise UnsafePickleError("it holds a tensor without a storage, a shape or strides")
    if len(shape) > MAX_DIMENSIONS or len(shape) != len(strides):
        raise UnsafePickleError(
            f"it holds a tensor of {len(shape)} dimensions and {len(strides)} strides; {MAX_DIMENSIONS} are legal"
        )
    if any(type(each) is not int or not 0 <= each < 2**62 for each in (offset, *shape, *strides)):
        raise UnsafePickleError(
            f"it holds a tensor of shape {str(shape)[:80]}, strides {str(strides)[:80]} at {str(offset)[:20]}"
        )
    count = 1
    for each in shape:
        count *= each
    last = offset + sum((each - 1) * step for each, step in zip(shape, strides, strict=True))
    # With strides of 0 a tensor may have more numbers than its storage, and a copy of it would fill the memory.
    if count and (last >= storage.count or count > storage.count):
        raise UnsafePickleError(
            f"it holds a tensor of shape {list(shape)[:8]}, which needs more than the {storage.count} numbers "
            "of its storage"
        )
    return TensorView(storage, offset, shape, strides)


def _rebuild_parameter(view: Any, *_rest: Any) -> TensorView:
    if not isinstance(view, TensorView):
        raise UnsafePickleError("it holds a parameter without a tensor")
    return view


_CALLABLES: dict[GlobalName, Callable[..., Any]] = {
    GlobalName("collections", "OrderedDict"): _new_dict,
    GlobalName("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    GlobalName("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    GlobalName("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
}


def _tuple(machine: _PickleReader, count: int) -> None:
    values = [machine.pop() for _ in range(count)]
    machine.push(tuple(reversed(values)))


def _append(machine: _PickleReader) -> None:
    value = machine.pop()
    machine.extend([value])


def _set_item(machine: _PickleReader) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _stack_global(machine: _PickleReader) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push_global(module, name)


_OPCODES: dict[int, Callable[[_PickleReader], Any]] = {
    0x80: lambda m: m.read_bytes(1),  # PROTO
    0x95: lambda m: m.read_bytes(8),  # FRAME: the length of what follows, only a hint
    0x28: lambda m: m.push(_MARK),  # MARK
    0x30: lambda m: m.pop(),  # POP
    0x31: lambda m: m.pop_to_mark(),  # POP_MARK
    0x4E: lambda m: m.push(None),  # NONE
    0x88: lambda m: m.push(True),  # NEWTRUE
    0x89: lambda m: m.push(False),  # NEWFALSE
    0x4A: lambda m: m.push(m.read_number("<i")),  # BININT
    0x4B: lambda m: m.push(m.read_number("<B")),  # BININT1
    0x4D: lambda m: m.push(m.read_number("<H")),  # BININT2
    0x8A: lambda m: m.push(m.read_int("<B")),  # LONG1
    0x8B: lambda m: m.push(m.read_int("<i")),  # LONG4
    0x47: lambda m: m.push(m.read_number(">d")),  # BINFLOAT
    0x58: lambda m: m.push(m.read_text("<I")),  # BINUNICODE
    0x8C: lambda m: m.push(m.read_text("<B")),  # SHORT_BINUNICODE
    0x8D: lambda m: m.push(m.read_text("<Q")),  # BINUNICODE8
    0x54: lambda m: m.push(m.read_text("<i")),  # BINSTRING, of Python 2
    0x55: lambda m: m.push(m.read_text("<B")),  # SHORT_BINSTRING, of Python 2
    0x5D: lambda m: m.push([]),  # EMPTY_LIST
    0x7D: lambda m: m.push({}),  # EMPTY_DICT
    0x29: lambda m: m.push(()),  # EMPTY_TUPLE
    0x74: lambda m: m.push(tuple(m.pop_to_mark())),  # TUPLE
    0x85: lambda m: _tuple(m, 1),  # TUPLE1
    0x86: lambda m: _tuple(m, 2),  # TUPLE2
    0x87: lambda m: _tuple(m, 3),  # TUPLE3
    0x61: _append,  # APPEND
    0x65: lambda m: m.extend(m.pop_to_mark()),  # APPENDS
    0x73: _set_item,  # SETITEM
    0x75: lambda m: m.set_items(m.pop_to_mark()),  # SETITEMS
    0x71: lambda m: m.memoize(m.read_number("<B")),  # BINPUT
    0x72: lambda m: m.memoize(m.read_number("<I")),  # LONG_BINPUT
    0x94: lambda m: m.memoize(len(m.memo)),  # MEMOIZE
    0x68: lambda m: m.push(m.memo[m.read_number("<B")]),  # BINGET
    0x6A: lambda m: m.push(m.memo[m.read_number("<I")]),  # LONG_BINGET
    0x63: lambda m: m.push_global(m.read_line(), m.read_line()),  # GLOBAL
    0x93: _stack_global,  # STACK_GLOBAL
    0x51: lambda m: m.push_storage(),  # BINPERSID
    0x52: lambda m: m.push_call(),  # REDUCE
    0x62: lambda m: m.build(),  # BUILD
}
